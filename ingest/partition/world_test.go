package partition

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/ingest/announcements"
	"spillway.dev/ingest/changed"
	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/deadletter"
	"spillway.dev/ingest/enrich"
	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/table"
	"spillway.dev/ingest/topic"
	"spillway.dev/schemas/event"
	"spillway.dev/service/engines"
)

// TestMain lets more tests run at a time than there are CPUs: they wait for each other's faults most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// world is a ClickHouse, a Kafka, what was journaled, and any number of owners that all believe to be right.
type world struct {
	t         testing.TB
	address   engines.Addresses
	table     *table.Table // past all proxies
	server    *faultproxy.Server
	cluster   *kfake.Cluster
	client    *kgo.Client
	admin     *kadm.Client
	log       *slog.Logger
	rules     *enrich.Rules
	topicName string
	group     string

	mu     sync.Mutex
	events map[name]bool // all that Kafka has acknowledged
}

// name is an event's name.
type name struct {
	stream    uint64
	partition int32
	sequence  uint64
}

// kafkaOf is a broker of its own.
func kafkaOf(t testing.TB, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, options...)...)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster
}

const partitions = 2

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldAt(t, kafkaOf(t))
}

func newWorldAt(t testing.TB, cluster *kfake.Cluster) *world {
	t.Helper()
	w := &world{t: t, cluster: cluster, topicName: "spillway.events", group: "spillway", events: map[name]bool{}}
	var out io.Writer = io.Discard
	if os.Getenv("SPILLWAY_TEST_LOG") != "" {
		out = os.Stderr
	}
	w.log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cluster.TopicInfo(w.topicName) == nil {
		require.NoError(t, cluster.CreateTopic(w.topicName, partitions, nil))
		require.NoError(t, cluster.CreateTopic(w.topicName+".dead", 1, nil))
	}
	w.address = tabletest.Addresses(t)
	w.address.Topic = w.topicName
	w.table = tabletest.At(t, w.address)
	base, err := url.Parse(w.address.ClickHouse)
	require.NoError(t, err)
	w.server = faultproxy.NewServer(t, base.String())
	w.client, err = kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic(w.topicName),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond), kgo.UnknownTopicRetries(20))
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	w.rules, err = enrich.NewRules()
	require.NoError(t, err)
	return w
}

// quick are options under which what takes seconds in life takes milliseconds.
func quick() Options {
	return Options{Rows: 8, Age: 5 * time.Millisecond, Answer: 2 * time.Second, Grace: 500 * time.Millisecond, Commit: 20 * time.Millisecond,
		Look: 40 * time.Millisecond, Settle: 150 * time.Millisecond, Backoff: 2 * time.Millisecond}
}

// worker is a process that ingests, but for the group: it is told what it owns.
type worker struct {
	*world
	proxy   *faultproxy.Proxy
	parts   Parts
	options Options
	metrics *prometheus.Registry
	commits func(apply func()) // decides on each commit; nil applies it
}

func (w *world) worker(options Options) *worker {
	w.t.Helper()
	k := &worker{world: w, proxy: w.server.New(w.t), options: options, metrics: prometheus.NewRegistry()}
	address := w.address
	address.ClickHouse = k.proxy.URL()
	tbl := tabletest.At(w.t, address)
	kafka := []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.MetadataMinAge(10 * time.Millisecond)}
	of, err := topic.Open(w.topicName, w.group, 1<<20, kafka...)
	require.NoError(w.t, err)
	w.t.Cleanup(of.Close)
	letters, err := deadletter.Open(w.topicName+".dead", w.log, k.metrics, kafka...)
	require.NoError(w.t, err)
	w.t.Cleanup(letters.Close)
	writer := announcements.NewWriter(tbl, 20*time.Millisecond, w.log, k.metrics)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	k.parts = Parts{Shards: table.NewShards(tbl), Fence: fence.New(tbl, 100*time.Millisecond), Topic: of, Blocks: columns.NewPool(2, w.rules, 1<<20), Announcements: writer,
		Hints: changed.New(tbl, w.log, k.metrics), Letters: letters, Metrics: NewMetrics(k.metrics), Log: w.log, Commit: k.commit}
	return k
}

// commit commits at once, and in the background, as the group would.
func (k *worker) commit(partition int32, at topic.Commit) {
	apply := func() {
		var offsets kadm.Offsets
		offsets.Add(kadm.Offset{Topic: k.topicName, Partition: partition, At: at.Offset, LeaderEpoch: at.Epoch, Metadata: at.Metadata()})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, _ = k.admin.CommitOffsets(ctx, k.group, offsets)
	}
	if k.commits != nil {
		k.commits(apply)
		return
	}
	apply()
}

// running is an owner at work.
type running struct {
	*Owner
	stop context.CancelFunc
	done chan error
}

// start lets a worker own a partition.
func (k *worker) start(partition int32, change ...func(*Owner)) *running {
	o := New(partition, k.parts, k.options)
	for _, c := range change {
		c(o)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{o, stop, make(chan error, 1)}
	go func() { r.done <- o.Run(ctx) }()
	k.t.Cleanup(stop)
	return r
}

// end stops an owner and returns what it ended with.
func (r *running) end() error {
	r.stop()
	return <-r.done
}

// day is a date that is kept, days since 1970-01-01.
func day(ago int) uint32 { return uint32(time.Now().Unix()/86400) - uint32(ago) }

// batch makes a batch of events, whose dates lie in two months.
func batch(stream, first uint64, count int) []byte {
	value := event.AppendHeader(nil, stream, first)
	for i := range count {
		value = appendEvent(value, first+uint64(i), day(0)-31*uint32(i%2))
	}
	return value
}

func appendEvent(to []byte, sequence uint64, date uint32) []byte {
	to, err := event.AppendEvent(to, &event.Event{TimeUs: int64(date)*86400e6 + int64(sequence), Kind: event.Kind_KIND_CLICK, Class: event.Class_CLASS_PERSON,
		ProfileId: sequence % 3, LinkId: 7, Date: date, UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0"})
	if err != nil {
		panic(err)
	}
	return to
}

// announce makes an announcement.
func announce(stream, journaled uint64, unreadable ...*event.Range) []byte {
	value, err := event.AppendAnnouncement(event.AppendHeader(nil, stream, 0), &event.Announcement{TimeUs: time.Now().UnixMicro(), Journaled: journaled,
		BeganUs: 1, Origin: "test", Partitions: partitions, Run: 4, Unreadable: unreadable})
	if err != nil {
		panic(err)
	}
	return value
}

// produce writes values to a partition and returns the offset of the first.
func (w *world) produce(partition int32, values ...[]byte) int64 {
	w.t.Helper()
	first := int64(-1)
	for _, v := range values {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		r, err := w.client.ProduceSync(ctx, &kgo.Record{Partition: partition, Value: v}).First()
		cancel()
		require.NoError(w.t, err)
		if first < 0 {
			first = r.Offset
		}
	}
	return first
}

// click journals and ships events first … first+count-1 of a stream.
func (w *world) click(partition int32, stream, first uint64, count int) {
	w.t.Helper()
	w.produce(partition, batch(stream, first, count))
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range uint64(count) {
		w.events[name{stream, partition, first + i}] = true
	}
}

// forget takes events out of what is expected.
func (w *world) forget(partition int32, stream, first, last uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := first; i <= last; i++ {
		delete(w.events, name{stream, partition, i})
	}
}

func (w *world) number(question string) uint64 { return tabletest.Number(w.t, w.table, question) }
func (w *world) exec(statement string)         { tabletest.Exec(w.t, w.table, statement) }

// stored returns how often each event is in the table.
func (w *world) stored() map[name]int {
	w.t.Helper()
	rows, err := w.table.Query(context.Background(), "SELECT stream, partition, sequence, count() FROM events GROUP BY stream, partition, sequence")
	require.NoError(w.t, err)
	defer rows.Close()
	all := map[name]int{}
	for rows.Next() {
		var (
			n         name
			partition uint32
			count     uint64
		)
		require.NoError(w.t, rows.Scan(&n.stream, &partition, &n.sequence, &count))
		n.partition = int32(partition)
		all[n] = int(count)
	}
	require.NoError(w.t, rows.Err())
	return all
}

// verdict says what is wrong with the table: lost, doubled or unknown events. Empty: it is exact.
func (w *world) verdict() string {
	w.mu.Lock()
	expected := make(map[name]bool, len(w.events))
	for n := range w.events {
		expected[n] = true
	}
	w.mu.Unlock()
	var stored map[name]int
	w.server.Look(func() { stored = w.stored() })
	for n, count := range stored {
		switch {
		case count > 1:
			return fmt.Sprintf("doubled: %v is there %d times", n, count)
		case !expected[n]:
			return fmt.Sprintf("unknown: %v was never journaled", n)
		}
		delete(expected, n)
	}
	for n := range expected {
		return fmt.Sprintf("lost: %v and %d more", n, len(expected)-1)
	}
	return ""
}

// exact waits until the table is exact, and looks again a little later.
func (w *world) exact() {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute) // longer than a lingering insert is waited for and killed
	for {
		v := w.verdict()
		if v == "" {
			break
		}
		if time.Now().After(deadline) {
			require.Empty(w.t, v)
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	require.Empty(w.t, w.verdict())
}

// dropMonth takes away the rows of a date's month.
func (w *world) dropMonth(date uint32) {
	w.t.Helper()
	w.exec("ALTER TABLE events DROP PARTITION " + time.Unix(int64(date)*86400, 0).UTC().Format("200601"))
}

// lose takes rows away, as a ClickHouse does that was restored or lost what was not on disk.
func (w *world) lose(where string) {
	w.t.Helper()
	w.exec("ALTER TABLE events DELETE WHERE " + where + " SETTINGS mutations_sync = 2")
}
