//go:build kafka

package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/bench/process"
	"spillway.dev/bench/wire"
)

// jars is where `make test-kafka` keeps what Maven fetched.
const jars = "jars"

func start(t *testing.T, nodes int) *Cluster {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, Fetch(ctx, jars))
	starter, err := process.NewStarter(t.TempDir())
	require.NoError(t, err)
	c, err := Start(ctx, starter, Config{Jars: jars, Data: t.TempDir(), Nodes: nodes})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// One of three nodes is killed while records are produced through the relays: every acknowledged record is there afterwards.
func TestThreeNodesLoseOneAndNoRecord(t *testing.T) {
	c := start(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, c.Topic(ctx, "events", 3))
	relays, err := wire.NewKafka(c.Brokers())
	require.NoError(t, err)
	defer relays.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(relays.Brokers()...), kgo.DefaultProduceTopic("events"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for i := range 300 {
		if i == 100 {
			c.Nodes[2].Kill()
		}
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%d", i)}).FirstErr())
	}
	require.NoError(t, c.Nodes[2].Again(ctx, nil))
	require.NoError(t, c.Wait(ctx))
	consumer, err := kgo.NewClient(kgo.SeedBrokers(relays.Brokers()...), kgo.ConsumeTopics("events"), kgo.ConsumerGroup("g"))
	require.NoError(t, err)
	defer consumer.Close()
	seen := map[string]int{}
	for len(seen) < 300 {
		fetches := consumer.PollFetches(ctx)
		require.NoError(t, ctx.Err())
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
	}
	for value, n := range seen {
		require.Equal(t, 1, n, value)
	}
}
