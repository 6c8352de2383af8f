package kafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/standalone/kafka"
)

const topic = "spillway.events"

var quiet = slog.New(slog.DiscardHandler)

func start(t *testing.T, cfg kafka.Config) *kafka.Broker {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Topic = topic
	broker, err := kafka.Start(t.Context(), cfg, quiet)
	require.NoError(t, err)
	return broker
}

func client(t *testing.T, broker *kafka.Broker, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(broker.Addr())}, options...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func produce(t *testing.T, c *kgo.Client, from, to int) {
	t.Helper()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 3), Value: fmt.Append(nil, i)})
	}
	require.NoError(t, c.ProduceSync(t.Context(), records...).FirstErr())
}

// Records, the retention, partitions and a group's offsets with their metadata are there after a restart, on the same port.
func TestARestartKeepsEverything(t *testing.T) {
	cfg := kafka.Config{Data: t.TempDir(), Partitions: 3, Retention: 36 * time.Hour, RetentionBytes: 12 << 20}
	broker := start(t, cfg)
	c := client(t, broker, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, c, 0, 3000)
	admin := kadm.NewClient(c)
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: 1, At: 500, LeaderEpoch: 0, Metadata: "a note"})
	require.NoError(t, admin.CommitAllOffsets(t.Context(), "ingest", offsets))
	cfg.Listen = broker.Addr()
	c.Close()
	broker.Stop()

	cfg.Partitions = 7 // of a topic that is there already: no change
	broker = start(t, cfg)
	defer broker.Stop()
	require.Equal(t, cfg.Listen, broker.Addr())
	c = client(t, broker, kgo.ConsumeTopics(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin = kadm.NewClient(c)
	topics, err := admin.ListTopics(t.Context())
	require.NoError(t, err)
	require.Len(t, topics[topic].Partitions, 3)
	require.Len(t, topics[topic+".dead"].Partitions, 1)
	configs, err := admin.DescribeTopicConfigs(t.Context(), topic)
	require.NoError(t, err)
	set := map[string]string{}
	for _, c := range configs[0].Configs {
		set[c.Key] = c.MaybeValue()
	}
	require.Equal(t, "129600000", set["retention.ms"])
	require.Equal(t, "12582912", set["retention.bytes"])
	committed, err := admin.FetchOffsets(t.Context(), "ingest")
	require.NoError(t, err)
	at, ok := committed.Lookup(topic, 1)
	require.True(t, ok)
	require.EqualValues(t, 500, at.At)
	require.Equal(t, "a note", at.Metadata)

	produce(t, c, 3000, 3300)
	seen := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(seen) < 3300 {
		fetches := c.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
	}
	for value, n := range seen {
		require.Equal(t, 1, n, value)
	}
}

// A start reads the whole log: what is beyond the retention must go, by its size too.
func TestRetentionBoundsTheLog(t *testing.T) {
	broker := start(t, kafka.Config{Data: t.TempDir(), Partitions: 1, RetentionBytes: 1 << 20, RetentionCheck: 100 * time.Millisecond})
	defer broker.Stop()
	c := client(t, broker, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := make([]byte, 32<<10)
	for range 200 {
		require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Value: value}).FirstErr())
	}
	admin := kadm.NewClient(c)
	require.Eventually(t, func() bool {
		from, err := admin.ListStartOffsets(t.Context(), topic)
		require.NoError(t, err)
		first, ok := from.Lookup(topic, 0)
		require.True(t, ok)
		return first.Offset > 100
	}, time.Minute, 100*time.Millisecond)
}

func TestWhatCannotStartSaysTheCureInOneLine(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer holder.Close()
	for listen, want := range map[string]string{
		holder.Addr().String(): "--kafka-listen or SPILLWAY_KAFKA_LISTEN",
		"0.0.0.0:0":            "KAFKA_BROKERS",
		"127.0.0.1":            "HOST:PORT",
	} {
		_, err := kafka.Start(t.Context(), kafka.Config{Data: t.TempDir(), Listen: listen}, quiet)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "\n")
	}
}

// librdkafka, which is not franz-go, reads it as well, where kcat is installed; else franz-go without what it negotiates.
func TestOtherClientsRead(t *testing.T) {
	broker := start(t, kafka.Config{Data: t.TempDir(), Partitions: 3})
	defer broker.Stop()
	produce(t, client(t, broker, kgo.RecordPartitioner(kgo.ManualPartitioner())), 0, 100)
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		c := client(t, broker, kgo.ConsumeTopics(topic), kgo.DisableFetchSessions())
		n := 0
		for n < 100 {
			fetches := c.PollFetches(t.Context())
			require.NoError(t, fetches.Err())
			n += fetches.NumRecords()
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, kcat, "-b", broker.Addr(), "-C", "-t", topic, "-o", "beginning", "-e", "-q").Output()
	require.NoError(t, err)
	require.Equal(t, 100, strings.Count(string(out), "\n"))
}
