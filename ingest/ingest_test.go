package ingest_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/table"
	"spillway.dev/schemas/event"
	"spillway.dev/service/engines"
)

func logger() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("SPILLWAY_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// platform is the two engines, what was produced, and any number of ingests.
type platform struct {
	t       *testing.T
	address engines.Addresses
	cluster *kfake.Cluster
	client  *kgo.Client
	table   *table.Table
	server  *faultproxy.Server

	mu   sync.Mutex
	sent uint64
}

func newPlatform(t *testing.T, partitions int32) *platform {
	t.Helper()
	p := &platform{t: t, address: tabletest.Addresses(t)}
	p.address.Topic = "spillway.events"
	var err error
	p.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, p.address.Topic), kfake.GroupMinSessionTimeout(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(p.cluster.Close)
	p.address.Kafka = p.cluster.ListenAddrs()
	p.client, err = kgo.NewClient(kgo.SeedBrokers(p.address.Kafka...), kgo.DefaultProduceTopic(p.address.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(p.client.Close)
	p.table = tabletest.At(t, p.address)
	p.server = faultproxy.NewServer(t, p.address.ClickHouse)
	return p
}

// process is one ingest behind a proxy of its own.
type process struct {
	proxy   *faultproxy.Proxy
	metrics *prometheus.Registry
	stop    context.CancelFunc
	done    chan error
}

func (p *platform) start(config ingest.Config) *process {
	p.t.Helper()
	r := &process{proxy: p.server.New(p.t), metrics: prometheus.NewRegistry(), done: make(chan error, 1)}
	address := p.address
	address.ClickHouse = r.proxy.URL()
	config.Session, config.Discover, config.Answer, config.Linger = time.Second, 200*time.Millisecond, 5*time.Second, time.Second
	service, err := ingest.New(config, address, logger(), r.metrics)
	require.NoError(p.t, err)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- service.Run(ctx) }()
	p.t.Cleanup(func() { stop(); <-r.done; r.done <- nil })
	return r
}

func (r *process) end(t *testing.T) {
	t.Helper()
	r.stop()
	err := <-r.done
	r.done <- nil
	require.NoError(t, err)
}

// click produces n events of a stream to a partition.
func (p *platform) click(partition int32, stream, first uint64, n int) {
	p.t.Helper()
	value := event.AppendHeader(nil, stream, first)
	var err error
	for range n {
		value, err = event.AppendEvent(value, &event.Event{TimeUs: time.Now().UnixMicro(), Kind: event.Kind_KIND_CLICK, ProfileId: 5, LinkId: 6,
			Date: uint32(time.Now().Unix() / 86400), UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0"})
		require.NoError(p.t, err)
	}
	require.NoError(p.t, p.client.ProduceSync(context.Background(), &kgo.Record{Partition: partition, Value: value}).FirstErr())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += uint64(n)
}

// exact waits until all that was sent is in the table, once.
func (p *platform) exact() {
	p.t.Helper()
	p.mu.Lock()
	sent := p.sent
	p.mu.Unlock()
	const names = "SELECT uniqExact(stream, partition, sequence) FROM events"
	require.Eventually(p.t, func() bool { return tabletest.Number(p.t, p.table, names) == sent }, time.Minute, 10*time.Millisecond)
	require.Equal(p.t, sent, tabletest.Number(p.t, p.table, "SELECT count() FROM events"))
}

func TestAClickIsInTheTableInAMoment(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, 4)
	r := p.start(ingest.Config{})
	for i := range int32(4) {
		p.click(i, 77, 1, 10)
	}
	p.exact()
	time.Sleep(time.Second)
	began := time.Now()
	p.click(1, 77, 11, 1)
	p.exact()
	require.Less(t, time.Since(began), 10*time.Second) // 40 ms on a machine that has nothing else to do
	t.Log("one click took", time.Since(began).Round(time.Millisecond))
	require.Eventually(t, func() bool {
		return tabletest.Number(t, p.table, "SELECT count() FROM changed WHERE profile_id = 5") > 0
	}, time.Minute, 10*time.Millisecond)
	problems, err := testutil.GatherAndLint(r.metrics)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := r.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "spillway_ingest_freshness_seconds" {
			require.EqualValues(t, 41, f.GetMetric()[0].GetHistogram().GetSampleCount())
		}
	}
	r.end(t)
}

// Three ingests share the partitions while they come and go, are thrown out of the group, and lose answers; the topic grows.
func TestManyIngests(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, 4)
	var producing sync.WaitGroup
	stop := make(chan struct{})
	produce := func(partition int32) {
		producing.Go(func() {
			for first := uint64(1); ; first += 5 {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					p.click(partition, 9, first, 5)
				}
			}
		})
	}
	for i := range int32(4) {
		produce(i)
	}
	one, two := p.start(ingest.Config{}), p.start(ingest.Config{})
	time.Sleep(500 * time.Millisecond)
	three := p.start(ingest.Config{})
	two.proxy.Decide(func(r faultproxy.Request) faultproxy.Fate {
		if r.Insert() && time.Now().UnixMilli()%5 == 0 {
			return faultproxy.Fate{Error: true}
		}
		return faultproxy.Fate{}
	})
	time.Sleep(500 * time.Millisecond)
	_, err := kadm.NewClient(p.client).CreatePartitions(t.Context(), 2, p.address.Topic)
	require.NoError(t, err)
	p.client.ForceMetadataRefresh()
	time.Sleep(500 * time.Millisecond)
	produce(4)
	produce(5)
	// Everybody is thrown out once.
	p.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "spillway", Err: kerr.UnknownMemberID, TopLevel: true, Count: 3})
	time.Sleep(time.Second)
	one.proxy.Down(true) // it cannot reach ClickHouse any more, and ends
	one.end(t)
	three.end(t)
	time.Sleep(500 * time.Millisecond)
	four := p.start(ingest.Config{})
	time.Sleep(500 * time.Millisecond)
	close(stop)
	producing.Wait()
	p.exact()
	two.end(t)
	p.click(0, 10, 1, 5)
	p.exact()
	four.end(t)
}

// The engines are away when it starts, and one after the other comes up.
func TestItWaitsForItsEngines(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, 1)
	r := p.start(ingest.Config{})
	r.proxy.Down(true)
	p.click(0, 1, 1, 3)
	time.Sleep(300 * time.Millisecond)
	select {
	case err := <-r.done:
		t.Fatal("ended:", err)
	default:
	}
	r.proxy.Down(false)
	p.exact()
	r.end(t)
}

func TestItStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	service, err := ingest.New(ingest.Config{}, engines.Addresses{Kafka: []string{"127.0.0.1:1"}, ClickHouse: "http://127.0.0.1:1/spillway", Topic: "x"}, logger(), prometheus.NewRegistry())
	require.NoError(t, err)
	require.Error(t, service.Ready(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, stop)
	require.NoError(t, service.Run(ctx))
}

func TestAWrongConfigurationSaysItsCure(t *testing.T) {
	t.Parallel()
	address := engines.Addresses{Kafka: []string{"127.0.0.1:1"}, ClickHouse: "http://127.0.0.1:1/spillway"}
	for cure, config := range map[string]ingest.Config{
		"SPILLWAY_INGEST_ROWS":    {Rows: -1},
		"SPILLWAY_INGEST_AGE":     {Age: time.Hour},
		"SPILLWAY_INGEST_FETCH":   {FetchBytes: 1},
		"SPILLWAY_RETENTION_DAYS": {RetentionDays: -1},
		"SPILLWAY_INGEST_SESSION": {Session: time.Millisecond},
	} {
		_, err := ingest.New(config, address, logger(), prometheus.NewRegistry())
		require.ErrorContains(t, err, cure)
	}
	_, err := ingest.New(ingest.Config{}, engines.Addresses{ClickHouse: address.ClickHouse}, logger(), prometheus.NewRegistry())
	require.ErrorContains(t, err, "KAFKA_BROKERS")
	_, err = ingest.New(ingest.Config{}, engines.Addresses{Kafka: address.Kafka}, logger(), prometheus.NewRegistry())
	require.ErrorContains(t, err, "CLICKHOUSE_URL")
}
