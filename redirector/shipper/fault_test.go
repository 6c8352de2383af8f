package shipper

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Whatever a produce request is answered with, everything arrives.
func TestErrorsOfTheBroker(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.LeaderNotAvailable,
		kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.CorruptMessage, kerr.InvalidRecord, kerr.TopicAuthorizationFailed,
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.MessageTooLarge, kerr.UnknownServerError,
	} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			c := cluster(t)
			j := openJournal(t, t.TempDir())
			id := j.Live().ID()
			stop := start(t, j, options(c))
			appendAll(t, j, 1, 200)
			require.Eventually(t, func() bool { return j.Live().Acknowledged() == 200 }, time.Minute, time.Millisecond)
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: code, Count: 3})
			appendAll(t, j, 201, 400)
			require.Eventually(t, func() bool { return j.Live().Acknowledged() == 400 }, time.Minute, time.Millisecond)
			require.Positive(t, fault.Hits())
			stop()
			requireAll(t, consume(t, c), id, 400, true)
		})
	}
}

// Requests that vanish, and requests of which only the answer does.
func TestLostRequestsAndLostAnswers(t *testing.T) {
	c := cluster(t)
	n := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n++; n%3 == 1 {
			return nil, io.ErrUnexpectedEOF, true // the connection is closed
		}
		return nil, nil, false
	})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.RequestTimedOut, Count: 5})
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	stop := start(t, j, options(c))
	for i := range 10 {
		appendAll(t, j, 100*i+1, 100*i+100)
		time.Sleep(10 * time.Millisecond)
	}
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 1000 }, time.Minute, time.Millisecond)
	c.DropControl()
	stop()
	requireAll(t, consume(t, c), id, 1000, true)
}

func TestASlowBrokerDelaysNobody(t *testing.T) {
	c := cluster(t)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(100 * time.Millisecond) })
		return nil, nil, false
	})
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	stop := start(t, j, options(c))
	began := time.Now()
	appendAll(t, j, 1, 3000)
	require.Less(t, time.Since(began), 2*time.Second, "appending does not wait for Kafka")
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 3000 }, time.Minute, time.Millisecond)
	stop()
	l := consume(t, c)
	requireAll(t, l, id, 3000, true)
	require.Equal(t, 3000, l.copies)
}

func TestBatchesThatAreTooLargeAreCut(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	limit := "40000"
	require.NoError(t, c.CreateTopic(topic, 3, map[string]string{"max.message.bytes": limit}))
	largest := 0
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, t := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				largest = max(largest, len(p.Records))
				if len(p.Records) > 40_000 { // kfake does not look at the limit
					return refused(r.(*kmsg.ProduceRequest), kerr.MessageTooLarge.Code), nil, true
				}
			}
		}
		return nil, nil, false
	})
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	appendAll(t, j, 1, 8000)
	o := options(c)
	o.Compression = "none"
	stop := start(t, j, o)
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 8000 }, time.Minute, 5*time.Millisecond)
	stop()
	require.Greater(t, largest, 40_000, "or nothing was tested")
	requireAll(t, consume(t, c), id, 8000, true)
}

// refused answers a produce request with an error for each of its partitions.
func refused(r *kmsg.ProduceRequest, code int16) kmsg.Response {
	answer := r.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range r.Topics {
		at := kmsg.NewProduceResponseTopic()
		at.Topic, at.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			ap := kmsg.NewProduceResponseTopicPartition()
			ap.Partition, ap.ErrorCode = p.Partition, code
			at.Partitions = append(at.Partitions, ap)
		}
		answer.Topics = append(answer.Topics, at)
	}
	return answer
}

func TestATopicWithFewerPartitionsIsReportedAndWaitedFor(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	j := openJournal(t, t.TempDir()) // three
	id := j.Live().ID()
	var said text
	o := options(c)
	o.Logger = said.logger()
	stop := start(t, j, o)
	appendAll(t, j, 1, 100)
	require.Eventually(t, func() bool {
		return strings.Contains(said.String(), "fewer partitions than the stream was begun with; add partitions to the topic")
	}, time.Minute, 5*time.Millisecond)
	require.Less(t, j.Live().Acknowledged(), uint64(100))
	require.NoError(t, c.DeleteTopic(topic))
	require.NoError(t, c.CreateTopic(topic, 4, nil))
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 100 }, time.Minute, 5*time.Millisecond)
	stop()
	requireAll(t, consume(t, c), id, 100, true)
}

func TestATopicThatIsMadeAgain(t *testing.T) {
	c := cluster(t)
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	o := options(c)
	o.StallTimeout = time.Second
	stop := start(t, j, o)
	appendAll(t, j, 1, 300)
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 300 }, time.Minute, time.Millisecond)
	require.NoError(t, c.DeleteTopic(topic))
	require.NoError(t, c.CreateTopic(topic, 3, nil))
	appendAll(t, j, 301, 400)
	require.Eventually(t, func() bool { return consume(t, c).count(id) == 400 }, time.Minute, 50*time.Millisecond,
		"what was acknowledged and lost with the topic is sent again from the journal")
	stop()
	requireAll(t, consume(t, c), id, 400, true)
}

// The broker comes back without its last records, which it had acknowledged.
func TestABrokerThatLostItsLastRecords(t *testing.T) {
	data, saved := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "saved")
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic), kfake.DataDir(data))
	require.NoError(t, err)
	o := options(c)
	var port int
	_, err = fmt.Sscanf(o.Brokers[0], "127.0.0.1:%d", &port)
	require.NoError(t, err)
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	stop := start(t, j, o)
	restart := func() {
		c, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(data), kfake.Ports(port))
		require.NoError(t, err)
	}
	acknowledged := func(n uint64) {
		require.Eventually(t, func() bool { return j.Live().Acknowledged() >= n }, time.Minute, time.Millisecond)
	}
	appendAll(t, j, 1, 200)
	acknowledged(200)
	c.Close()
	require.NoError(t, os.CopyFS(saved, os.DirFS(data)))
	restart()
	appendAll(t, j, 201, 400)
	acknowledged(400)
	c.Close()
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.CopyFS(data, os.DirFS(saved)))
	restart()
	t.Cleanup(func() { c.Close() })
	// Nothing is appended any more: the announcements alone must find it out.
	require.Eventually(t, func() bool { return consume(t, c).count(id) == 400 }, time.Minute, 50*time.Millisecond)
	appendAll(t, j, 401, 500)
	acknowledged(500)
	stop()
	requireAll(t, consume(t, c), id, 500, true)
}

// An end that cannot be told any more is told by the next start.
func TestAnEndWhileTheBrokerIsAway(t *testing.T) {
	c := cluster(t)
	o := options(c)
	dir := t.TempDir()
	j := openJournal(t, dir)
	id := j.Live().ID()
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1})
	o.CloseTimeout = 100 * time.Millisecond
	stop := start(t, j, o)
	appendAll(t, j, 1, 100)
	began := time.Now()
	stop()
	require.Less(t, time.Since(began), 3*time.Second)
	require.NoError(t, j.Close())
	fault.Remove()
	j = openJournal(t, dir)
	require.Len(t, j.Streams(), 2)
	stop = start(t, j, options(c))
	require.Eventually(t, func() bool { return len(j.Streams()) == 1 }, time.Minute, time.Millisecond)
	stop()
	requireAll(t, consume(t, c), id, 100, true)
}
