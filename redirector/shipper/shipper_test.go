package shipper

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/redirector/journal"
	"spillway.dev/schemas/event"
)

const topic = "spillway.events"

var lanes = event.Lanes{Partitions: 3, Run: 4}

func click(i int) *event.Event {
	return &event.Event{Kind: event.Kind_KIND_CLICK, Class: event.Class_CLASS_PERSON, ProfileId: 7, LinkId: uint64(i), UserAgent: "Mozilla/5.0", Host: "example.org"}
}

func cluster(t testing.TB, options ...kfake.Opt) *kfake.Cluster {
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, topic)}, options...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	j, err := journal.Open(journal.Options{Dir: dir, Lanes: lanes, SegmentBytes: 64 << 10, MaxBytes: 8 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

// start runs a shipper until stop is called, which waits for its end.
func start(t testing.TB, j *journal.Journal, o Options) (stop func()) {
	s, err := New(j, o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(20 * time.Second):
				t.Error("the shipper does not stop")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func options(c *kfake.Cluster) Options {
	return Options{Brokers: c.ListenAddrs(), Topic: topic, AnnounceInterval: 50 * time.Millisecond, Linger: 5 * time.Millisecond, CloseTimeout: 5 * time.Second,
		Client: []kgo.Opt{kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond })}}
}

// log is what a consumer finds in the topic.
type log struct {
	events map[uint64]map[uint32]map[uint64][]byte // stream, partition, sequence
	copies int
	last   map[uint64]map[uint32]*event.Announcement // the newest one
	final  map[uint64]map[uint32]*event.Announcement // the newest final one
	early  int                                       // announcements that stand before an event that they speak of
}

func (l *log) count(stream uint64) (n int) {
	for _, p := range l.events[stream] {
		n += len(p)
	}
	return n
}

func consume(t testing.TB, c *kfake.Cluster) *log {
	l := &log{events: map[uint64]map[uint32]map[uint64][]byte{}, last: map[uint64]map[uint32]*event.Announcement{}, final: map[uint64]map[uint32]*event.Announcement{}}
	for _, r := range records(t, c) {
		p := uint32(r.Partition)
		b, err := event.ParseBatch(r.Value)
		require.NoError(t, err)
		if l.events[b.Stream] == nil {
			l.events[b.Stream] = map[uint32]map[uint64][]byte{}
			l.last[b.Stream] = map[uint32]*event.Announcement{}
			l.final[b.Stream] = map[uint32]*event.Announcement{}
		}
		if l.events[b.Stream][p] == nil {
			l.events[b.Stream][p] = map[uint64][]byte{}
		}
		b.Events(func(sequence uint64, encoded []byte) bool {
			l.copies++
			if before, ok := l.events[b.Stream][p][sequence]; ok {
				require.Equal(t, before, encoded, "one name, two events")
			}
			l.events[b.Stream][p][sequence] = append([]byte(nil), encoded...)
			return true
		})
		if b.Announcement != nil {
			var a event.Announcement
			require.NoError(t, a.UnmarshalVT(b.Announcement))
			l.last[b.Stream][p] = &a
			if a.Final {
				l.final[b.Stream][p] = &a
			}
			if uint64(len(l.events[b.Stream][p])) < a.Journaled-unreadable(&a) {
				l.early++
			}
		}
	}
	return l
}

func unreadable(a *event.Announcement) (n uint64) {
	for _, r := range a.Unreadable {
		n += r.Last - r.First + 1
	}
	return n
}

// records reads the whole topic.
func records(t testing.TB, c *kfake.Cluster) []*kgo.Record {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.FetchMaxWait(50*time.Millisecond))
	require.NoError(t, err)
	defer client.Close()
	ends := map[int32]int64{}
	for _, p := range c.PartitionInfos(topic) {
		if p.HighWatermark > p.LogStartOffset {
			ends[p.Partition] = p.HighWatermark
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all []*kgo.Record
	for len(ends) > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "cannot read the topic to its end")
		fetches.EachRecord(func(r *kgo.Record) {
			all = append(all, r)
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
		})
	}
	return all
}

// requireAll checks that the topic has exactly the events 1 … n of a stream, each in its place, and the final announcement.
func requireAll(t testing.TB, l *log, stream uint64, n int, final bool) {
	require.Equal(t, n, l.count(stream))
	for k := uint64(1); k <= uint64(n); k++ {
		p, sequence := lanes.Place(k)
		encoded := l.events[stream][p][sequence]
		require.NotNil(t, encoded, "event %d", k)
		var e event.Event
		require.NoError(t, e.UnmarshalVT(encoded))
		require.Equal(t, k, e.LinkId, "the event's content is its number here")
	}
	for p := range lanes.Partitions {
		a := l.last[stream][p]
		require.NotNil(t, a, "no announcement in partition %d", p)
		require.Equal(t, final, a.Final)
		if final {
			require.Equal(t, lanes.Last(p, uint64(n)), a.Journaled)
		}
		require.Equal(t, lanes.Partitions, a.Partitions)
		require.Equal(t, lanes.Run, a.Run)
		require.NotZero(t, a.BeganUs)
		require.NotEmpty(t, a.Origin)
	}
}

func appendAll(t testing.TB, j *journal.Journal, from, to int) {
	for i := from; i <= to; i++ {
		ok := false
		for try := 0; !ok && try < 5000; try++ { // small segments: the next one may not be ready
			if _, ok = j.Append(click(i)); !ok {
				time.Sleep(time.Millisecond)
			}
		}
		require.True(t, ok, "dropped")
	}
}

func TestEverythingArrivesInItsPlaceAndIsAnnounced(t *testing.T) {
	c := cluster(t)
	dir := t.TempDir()
	j := openJournal(t, dir)
	id := j.Live().ID()
	registry := prometheus.NewRegistry()
	o := options(c)
	o.Registerer = registry
	stop := start(t, j, o)
	appendAll(t, j, 1, 5000)
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 5000 }, time.Minute, time.Millisecond)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	stop()
	l := consume(t, c)
	requireAll(t, l, id, 5000, true)
	require.Equal(t, 5000, l.copies, "nothing went wrong, so nothing was sent twice")
	require.Zero(t, l.early, "announcements follow their events")
	require.Empty(t, j.Streams(), "a stream that is shipped and announced is forgotten")
	require.NoError(t, j.Close())
	again := openJournal(t, dir)
	require.Len(t, again.Streams(), 1)
}

func TestAClickOnAnIdleRedirectorIsSentAtOnce(t *testing.T) {
	c := cluster(t)
	j := openJournal(t, t.TempDir())
	o := options(c)
	o.Linger, o.AnnounceInterval = 3*time.Second, time.Hour
	start(t, j, o)
	appendAll(t, j, 1, 1)
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 1 }, time.Minute, time.Millisecond)
	time.Sleep(o.Linger + 50*time.Millisecond)
	began := time.Now()
	appendAll(t, j, 2, 2)
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 2 }, time.Minute, 200*time.Microsecond)
	require.Less(t, time.Since(began), o.Linger, "an idle shipper sends at once")
}

func TestTheBrokerMayBeAwayAtTheStart(t *testing.T) {
	first := cluster(t)
	addresses := first.ListenAddrs()
	var port int
	_, err := fmt.Sscanf(addresses[0], "127.0.0.1:%d", &port)
	require.NoError(t, err)
	o := options(first)
	first.Close()
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	stop := start(t, j, o)
	appendAll(t, j, 1, 500)
	time.Sleep(300 * time.Millisecond)
	require.Zero(t, j.Live().Acknowledged())
	c := cluster(t, kfake.Ports(port))
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 500 }, time.Minute, 5*time.Millisecond)
	appendAll(t, j, 501, 600)
	stop()
	requireAll(t, consume(t, c), id, 600, true)
}

func TestTheTopicMayBeMissingAtTheStart(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer c.Close()
	j := openJournal(t, t.TempDir())
	id := j.Live().ID()
	stop := start(t, j, options(c))
	appendAll(t, j, 1, 100)
	time.Sleep(700 * time.Millisecond)
	require.Zero(t, j.Live().Acknowledged())
	require.NoError(t, c.CreateTopic(topic, 5, nil))
	require.Eventually(t, func() bool { return j.Live().Acknowledged() == 100 }, time.Minute, 5*time.Millisecond)
	stop()
	requireAll(t, consume(t, c), id, 100, true)
}

func TestWhatAnOlderStreamLeftIsShippedUnderItsOwnName(t *testing.T) {
	c := cluster(t)
	dir := t.TempDir()
	var ids []uint64
	for range 2 {
		j := openJournal(t, dir)
		ids = append(ids, j.Live().ID())
		appendAll(t, j, 1, 1000)
		require.NoError(t, j.Close())
	}
	j := openJournal(t, dir)
	ids = append(ids, j.Live().ID())
	stop := start(t, j, options(c))
	appendAll(t, j, 1, 1000)
	require.Eventually(t, func() bool { return len(j.Streams()) == 1 }, time.Minute, time.Millisecond)
	stop()
	l := consume(t, c)
	for _, id := range ids {
		requireAll(t, l, id, 1000, true)
	}
	require.Zero(t, l.early)
}

func TestOptionsThatMakeNoSenseAreRefusedWithTheCure(t *testing.T) {
	j := openJournal(t, t.TempDir())
	for _, o := range []Options{{}, {Brokers: []string{"x:1"}, BatchBytes: 1 << 30}, {Brokers: []string{"x:1"}, Compression: "rar"},
		{Brokers: []string{"x:1"}, MaxInflight: 1}, {Brokers: []string{"x:1"}, Linger: -1}, {Brokers: []string{"x:y:z"}}} {
		_, err := New(j, o)
		require.Error(t, err, "%+v", o)
	}
}

// A clock that is set back ends the stream and begins another; both arrive and are announced, each with a time that never went back.
func TestAClockThatIsSetBack(t *testing.T) {
	c := cluster(t)
	var back atomic.Int64
	clock := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	j, err := journal.Open(journal.Options{Dir: t.TempDir(), Lanes: lanes, SegmentBytes: 64 << 10, MaxBytes: 8 << 20, Clock: clock})
	require.NoError(t, err)
	defer j.Close()
	o := options(c)
	o.Clock = clock
	stop := start(t, j, o)
	first := j.Live().ID()
	appendAll(t, j, 1, 100)
	time.Sleep(100 * time.Millisecond) // a mark or two
	back.Store(int64(time.Hour))
	require.Eventually(t, func() bool { return j.Live().ID() != first }, time.Minute, time.Millisecond)
	second := j.Live().ID()
	appendAll(t, j, 1, 50)
	require.Eventually(t, func() bool { return len(j.Streams()) == 1 && j.Live().Acknowledged() == 50 }, time.Minute, time.Millisecond)
	stop()
	l := consume(t, c)
	requireAll(t, l, first, 100, true)
	requireAll(t, l, second, 50, true)
	require.Less(t, l.last[second][0].BeganUs, l.last[first][0].TimeUs, "the second one has the new clock's time")
}

// A large backlog does not hold a fresh click up for long, and the fresh ones do not hold the backlog up.
func TestABacklogAndFreshClicksShareTheWay(t *testing.T) {
	c := cluster(t)
	dir := t.TempDir()
	j := openJournal(t, dir)
	appendAll(t, j, 1, 20_000)
	require.NoError(t, j.Close())
	var bytes atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		n := 0
		for _, t := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				n += len(p.Records)
			}
		}
		bytes.Add(int64(n))
		time.Sleep(time.Duration(n) * time.Second / 2_000_000) // 2 MB/s
		return nil, nil, false
	})
	j = openJournal(t, dir)
	older := j.Streams()[0]
	o := options(c)
	o.Compression, o.BatchBytes, o.MaxInflight = "none", 8<<10, 200_000
	stop := start(t, j, o)
	require.Eventually(t, func() bool { return older.Acknowledged() > 1000 }, time.Minute, time.Millisecond)
	slowest := time.Duration(0)
	for i := range 5 {
		began := time.Now()
		appendAll(t, j, i+1, i+1)
		require.Eventually(t, func() bool { return j.Live().Acknowledged() == uint64(i+1) }, time.Minute, 200*time.Microsecond)
		slowest = max(slowest, time.Since(began))
	}
	require.Less(t, older.Acknowledged(), uint64(20_000), "or there was no backlog to wait behind")
	require.Less(t, slowest, 400*time.Millisecond, "at 2 MB/s, 100 kB of the backlog are on the wire before it")
	require.Eventually(t, func() bool { return len(j.Streams()) == 1 }, time.Minute, time.Millisecond)
	stop()
}
