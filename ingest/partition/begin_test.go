package partition

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest/topic"
	"spillway.dev/schemas/event"
)

// committed waits until the group's commit for partition 0 has reached an offset.
func (w *world) committed(offset int64) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		all, err := w.admin.FetchOffsets(context.Background(), w.group)
		o, ok := all.Lookup(w.topicName, 0)
		return err == nil && ok && o.Err == nil && o.At >= offset
	}, time.Minute, 2*time.Millisecond)
}

// commit sets the group's commit for partition 0.
func (w *world) commit(c topic.Commit) {
	w.t.Helper()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: w.topicName, At: c.Offset, LeaderEpoch: c.Epoch, Metadata: c.Metadata()})
	require.NoError(w.t, w.admin.CommitAllOffsets(context.Background(), w.group, offsets))
}

func (k *worker) rewinds(cause string) float64 {
	return testutil.ToFloat64(k.parts.Metrics.rewinds.WithLabelValues(cause))
}

// finished is a world in which everything was taken in and committed, and nobody is left.
func finished(t *testing.T) (*world, *worker) {
	t.Helper()
	w := newWorld(t)
	for i := range uint64(10) {
		w.click(0, 1+i%2, 1+i/2*3, 3)
	}
	k := w.worker(quick())
	o := k.start(0)
	w.exact()
	w.committed(10)
	require.NoError(t, o.end())
	return w, k
}

func TestClickHouseThatLostWhatWasNotOnDiskIsHealed(t *testing.T) {
	t.Parallel()
	w, k := finished(t)
	o := k.start(0)
	time.Sleep(100 * time.Millisecond)
	healed := k.rewinds(rewindStarted)
	// ClickHouse dies while the owner is idle, and comes back without its last rows and without terms.
	w.server.Still(func() {
		w.dropMonth(day(0))
		w.exec("TRUNCATE TABLE terms")
	})
	w.exact()
	require.Equal(t, healed+1, k.rewinds(rewindStarted))
	require.NoError(t, o.end())
}

// Who heals dies before the end; whoever follows must begin the healing again.
func TestHealingSurvivesItsHealer(t *testing.T) {
	t.Parallel()
	w, k := finished(t)
	w.server.Still(func() {
		w.exec("TRUNCATE TABLE events")
		w.exec("TRUNCATE TABLE terms")
	})
	dying := w.worker(quick())
	dying.parts.Topic, dying.parts.Commit = k.parts.Topic, func(int32, topic.Commit) {} // and its commits are lost
	hang := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
	o := dying.start(0)
	require.Eventually(t, func() bool { return dying.rewinds(rewindStarted) > 0 }, time.Minute, time.Millisecond)
	require.NoError(t, o.end())
	hang.Remove()
	require.NotEmpty(t, w.verdict())
	o = k.start(0)
	w.exact()
	require.NoError(t, o.end())
}

// After ClickHouse was started one begins an hour before the commit, not at the beginning of a log of days.
func TestHealingBeginsAnHourBeforeTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Now()
	for i, ago := range []time.Duration{5 * time.Hour, 3 * time.Hour, 50 * time.Minute, 40 * time.Minute, time.Minute} {
		r := &kgo.Record{Value: batch(1, uint64(1+i), 1), Timestamp: now.Add(-ago)}
		require.NoError(t, w.client.ProduceSync(t.Context(), r).FirstErr())
		w.events[name{1, 0, uint64(1 + i)}] = true
	}
	k := w.worker(quick())
	o := k.start(0)
	w.exact()
	w.committed(5)
	require.NoError(t, o.end())
	w.exec("TRUNCATE TABLE terms")
	again := w.worker(quick())
	o = again.start(0)
	require.Eventually(t, func() bool {
		return testutil.ToFloat64(again.parts.Metrics.takes.WithLabelValues("0")) == 2 // healing, and healed
	}, time.Minute, time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	require.EqualValues(t, 3, testutil.ToFloat64(again.parts.Metrics.skipped))
	require.Empty(t, w.verdict())
	require.NoError(t, o.end())
}

// A backup was restored: the rows are older than the commits. Nothing was announced, so only a rewind brings them back.
func TestRewindBringsARestoredTableToTheLastEvent(t *testing.T) {
	t.Parallel()
	w, _ := finished(t)
	w.lose("sequence > 4")
	w.exec("TRUNCATE TABLE terms")
	w.commit(topic.Commit{Position: topic.Position{Offset: 10, Epoch: -1, Time: time.Now().Add(time.Hour)}}) // as if it were older than an hour
	options := quick()
	options.Heal = time.Millisecond
	k := w.worker(options)
	o := k.start(0)
	time.Sleep(200 * time.Millisecond)
	require.NotEmpty(t, w.verdict())
	require.NoError(t, o.end())
	options.Rewind = true
	k = w.worker(options)
	o = k.start(0)
	w.exact()
	require.EqualValues(t, 1, k.rewinds(rewindAsked))
	require.NoError(t, o.end())
}

// ClickHouse's directory is gone, and its tables were made anew. Whatever the commit and the hour before it say, Kafka has what is missing.
func TestATableThatWasMadeAnewIsFilledFromTheEarliestOffset(t *testing.T) {
	t.Parallel()
	w, _ := finished(t)
	w.lose("1")
	w.exec("TRUNCATE TABLE terms")
	w.commit(topic.Commit{Position: topic.Position{Offset: 10, Epoch: -1, Time: time.Now().Add(time.Hour)}}) // as if it were older than an hour
	options := quick()
	options.Heal = time.Millisecond
	k := w.worker(options)
	o := k.start(0)
	w.exact()
	require.NoError(t, o.end())
}

// Whatever is announced and missing is looked for from Kafka's beginning: once for each such finding.
func TestWhatWasAnnouncedAndIsMissingIsReadAgain(t *testing.T) {
	t.Parallel()
	w, _ := finished(t)
	w.produce(0, announce(1, 15), announce(2, 15))
	w.lose("sequence IN (3, 14, 15)")
	k := w.worker(quick())
	o := k.start(0)
	w.exact()
	require.EqualValues(t, 1, k.rewinds(rewindMissing))
	// What Kafka does not have either is not looked for: not by who has read all of Kafka, nor after a doubt.
	w.produce(0, announce(1, 20))
	missing := func() float64 { return testutil.ToFloat64(k.parts.Metrics.missing.WithLabelValues("0")) }
	require.Eventually(t, func() bool { return missing() == 5 }, time.Minute, time.Millisecond)
	require.EqualValues(t, 1, k.rewinds(rewindMissing))
	doubts := func() float64 { return testutil.ToFloat64(k.parts.Metrics.doubts.WithLabelValues(causeFetch)) }
	doubt := func() {
		before := doubts()
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Partitions: []int32{0}, Topic: w.topicName})
		require.Eventually(t, func() bool { return doubts() > before }, time.Minute, time.Millisecond)
	}
	doubt()
	time.Sleep(500 * time.Millisecond)
	require.EqualValues(t, 1, k.rewinds(rewindMissing))
	// Another finding is another reason.
	w.server.Still(func() { w.lose("sequence = 2") })
	doubt()
	w.exact()
	require.EqualValues(t, 2, k.rewinds(rewindMissing))
	// It comes after all: nothing is missing any more.
	w.click(0, 1, 16, 5)
	w.exact()
	require.Eventually(t, func() bool { return missing() == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, o.end())
}

func TestAStreamThatShipsWhatItAnnouncedIsNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.worker(quick())
	o := k.start(0)
	for i := range uint64(30) {
		w.produce(0, announce(1, 100)) // far ahead of what is shipped
		w.click(0, 1, 1+2*i, 2)
		time.Sleep(20 * time.Millisecond)
	}
	require.Zero(t, k.rewinds(rewindMissing))
	w.exact()
	require.NoError(t, o.end())
}

func TestADeletedGroupBeginsAtTheEarliestOffset(t *testing.T) {
	t.Parallel()
	w, k := finished(t)
	_, err := w.admin.DeleteGroup(t.Context(), w.group)
	require.NoError(t, err)
	w.lose("sequence < 4")
	o := k.start(0)
	w.exact()
	require.NoError(t, o.end())
}

// The new topic has reached the old commit's offset before anybody looks: its beginning must be read all the same.
func TestATopicThatWasMadeAgainIsReadFromItsBeginning(t *testing.T) {
	t.Parallel()
	for what, owned := range map[string]bool{"while nobody looks": false, "while it is owned": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w, k := finished(t)
			var o *running
			if owned {
				o = k.start(0)
				time.Sleep(50 * time.Millisecond)
			}
			require.NoError(t, w.cluster.DeleteTopic(w.topicName))
			require.NoError(t, w.cluster.CreateTopic(w.topicName, partitions, nil))
			w.client.PurgeTopicsFromClient(w.topicName)
			w.commitAgain(k)
			for i := range uint64(14) {
				w.click(0, 9, 1+i*2, 2)
			}
			if !owned {
				o = k.start(0)
			}
			w.exact()
			require.NoError(t, o.end())
		})
	}
}

// commitAgain restores the commit that kfake forgot together with the topic: another broker may keep it.
func (w *world) commitAgain(k *worker) {
	w.t.Helper()
	all, ok, err := k.parts.Topic.Committed(context.Background(), 0)
	require.NoError(w.t, err)
	if !ok {
		all = topic.Commit{Position: topic.Position{Offset: 10, Epoch: 0, Time: time.Now()}, Topic: [16]byte{1, 2, 3}}
	}
	w.commit(all)
}

func TestRetentionThatPassesTheCommitBy(t *testing.T) {
	t.Parallel()
	w, _ := finished(t)
	for i := range uint64(4) {
		w.click(0, 3, 1+i, 1)
	}
	w.forget(0, 3, 1, 2)
	require.NoError(t, w.cluster.DeleteRecords(w.topicName, 0, 12))
	k := w.worker(quick())
	o := k.start(0)
	w.exact()
	require.EqualValues(t, 2, testutil.ToFloat64(k.parts.Metrics.passed))
	// And while it is owned, a fetch out of range.
	require.NoError(t, w.cluster.DeleteRecords(w.topicName, 0, 14))
	w.click(0, 3, 5, 1)
	w.exact()
	require.NoError(t, o.end())
}

func TestACommitBeyondTheEndBeginsAtTheEarliestOffset(t *testing.T) {
	t.Parallel()
	w, k := finished(t)
	w.commit(topic.Commit{Position: topic.Position{Offset: 1000, Epoch: -1}})
	w.lose("sequence < 4")
	o := k.start(0)
	w.exact()
	require.NoError(t, o.end())
}

// The broker comes back without its last records, whose offsets are used again: with a new leader epoch, which tells where the log was
// cut off, and without one, when only what is announced tells.
func TestALogThatWasCutOff(t *testing.T) {
	t.Parallel()
	for what, newEpoch := range map[string]bool{"with a new leader epoch": true, "without": false} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := newWorldAt(t, kafkaOf(t, kfake.DataDir(dir)))
			for i := range uint64(10) {
				w.click(0, 1, 1+i, 1)
			}
			k := w.worker(quick())
			o := k.start(0)
			w.exact()
			w.committed(10)
			ports := port(t, w.cluster)
			w.cluster.Close()
			cut(t, filepath.Join(dir, "partitions"), w.topicName+"-0", 4)
			w.cluster = kafkaOf(t, kfake.DataDir(dir), kfake.Ports(ports))
			require.EqualValues(t, 6, w.cluster.PartitionInfo(w.topicName, 0).HighWatermark)
			if newEpoch {
				require.NoError(t, w.cluster.MoveTopicPartition(w.topicName, 0, 0))
			}
			// The same offsets again, and more, before anybody notices.
			for i := range uint64(8) {
				w.click(0, 2, 1+i, 1)
			}
			w.produce(0, announce(2, 8))
			w.exact()
			require.NoError(t, o.end())
		})
	}
}

func port(t *testing.T, c *kfake.Cluster) int {
	t.Helper()
	address := c.ListenAddrs()[0]
	p, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	require.NoError(t, err)
	return p
}

// cut takes the last batches of a partition's log away.
func cut(t *testing.T, dir, partition string, batches int) {
	t.Helper()
	var segment string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, partition) && strings.HasSuffix(path, ".dat") {
			segment = path
		}
		return err
	}))
	require.NotEmpty(t, segment)
	log, err := os.ReadFile(segment)
	require.NoError(t, err)
	var starts []int
	for at := 0; at+12 <= len(log); { // a record batch: base offset, length of what follows
		starts = append(starts, at)
		at += 12 + int(binary.BigEndian.Uint32(log[at+8:]))
	}
	require.Greater(t, len(starts), batches)
	require.NoError(t, os.Truncate(segment, int64(starts[len(starts)-batches])))
}

func TestFetchErrorsAreDoubts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.worker(quick())
	o := k.start(0)
	for i, e := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.OffsetOutOfRange, kerr.UnknownServerError, kerr.UnknownLeaderEpoch, kerr.CorruptMessage, kerr.UnknownTopicOrPartition} {
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Partitions: []int32{0}, Topic: w.topicName, Err: e})
		w.click(0, 1, uint64(1+5*i), 5)
		w.exact()
	}
	for _, key := range []kmsg.Key{kmsg.ListOffsets, kmsg.OffsetFetch, kmsg.OffsetForLeaderEpoch} {
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.NotLeaderForPartition, Count: 2})
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.UnknownServerError})
	}
	w.click(0, 1, 31, 5)
	w.exact()
	require.GreaterOrEqual(t, testutil.ToFloat64(k.parts.Metrics.doubts.WithLabelValues(causeFetch)), 3.0)
	require.NoError(t, o.end())
}

// A redirector of long ago sends again what the table had and has dropped since.
func TestAStreamWhoseRowsHaveExpiredIsNotCountedAgain(t *testing.T) {
	t.Parallel()
	w, k := finished(t)
	w.click(0, 5, 1, 6)
	o := k.start(0)
	w.exact()
	require.NoError(t, o.end())
	// What rollup does: record, then drop. Sequence 4 of stream 5 was never there.
	w.lose("stream = 5")
	w.exec("INSERT INTO expired_streams (partition, stream, highest, holes, events) VALUES (0, 5, 6, [(4, 4)], 5)")
	w.forget(0, 5, 1, 6)
	w.events[name{5, 0, 4}] = true
	w.exec("TRUNCATE TABLE terms")
	_, err := w.admin.DeleteGroup(t.Context(), w.group)
	require.NoError(t, err)
	o = k.start(0)
	w.click(0, 5, 7, 2)
	w.exact()
	require.NoError(t, o.end())
}

func TestRecordsThatCannotBeTakenInAreSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	options := quick()
	options.RetentionDays = 400
	k := w.worker(options)
	// The topic of dead letters is not there at first: nothing stops, but nothing is committed either.
	require.NoError(t, w.cluster.DeleteTopic(w.topicName+".dead"))
	w.click(0, 1, 1, 3)
	garbage := w.produce(0, []byte("{}"))
	w.click(0, 1, 4, 3)
	broken := batch(2, 1, 3)
	w.produce(0, broken[:len(broken)-1])
	damaged := event.AppendHeader(nil, 3, 1)
	damaged = append(damaged, 3<<3|2, 2, 0x0A, 0x7F) // an event whose first field is of another type and too long
	w.produce(0, damaged)
	expiring := appendEvent(appendEvent(event.AppendHeader(nil, 4, 1), 1, day(0)), 2, day(500))
	w.produce(0, expiring)
	w.events[name{4, 0, 1}] = true
	w.click(0, 1, 7, 3)
	o := k.start(0)
	w.exact()
	time.Sleep(100 * time.Millisecond)
	c, _, err := k.parts.Topic.Committed(t.Context(), 0)
	require.NoError(t, err)
	require.LessOrEqual(t, c.Offset, garbage, "committed before its dead letter was written")
	require.NoError(t, w.cluster.CreateTopic(w.topicName+".dead", 1, nil))
	w.committed(7)
	require.NoError(t, o.end())

	reader, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.ConsumeTopics(w.topicName+".dead"))
	require.NoError(t, err)
	defer reader.Close()
	reasons, values := map[string]string{}, map[string]string{}
	for len(values) < 4 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		fetches := reader.PollFetches(ctx)
		cancel()
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			header := map[string]string{}
			for _, h := range r.Headers {
				header[h.Key] = string(h.Value)
			}
			require.Equal(t, w.topicName, header["spillway-topic"])
			require.NotEmpty(t, header["spillway-detail"])
			require.NotEmpty(t, header["spillway-timestamp"])
			at := header["spillway-partition"] + "/" + header["spillway-offset"]
			values[at], reasons[at] = string(r.Value), header["spillway-reason"]
		})
	}
	require.Equal(t, "{}", values["0/"+strconv.FormatInt(garbage, 10)])
	require.Equal(t, map[string]string{"0/1": "unreadable", "0/3": "unreadable", "0/4": "unreadable", "0/5": "expired"}, reasons)
	require.Positive(t, testutil.ToFloat64(k.parts.Metrics.expired))
}
