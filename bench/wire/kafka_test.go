package wire

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A client behind the relays never finds the way around them: when they are away, nothing arrives.
func TestKafkaClientsStayBehindTheRelays(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(6, "events"))
	require.NoError(t, err)
	defer cluster.Close()
	k, err := NewKafka(cluster.ListenAddrs())
	require.NoError(t, err)
	defer k.Close()
	require.Len(t, k.Brokers(), 3)

	behind := map[string]bool{}
	for _, b := range k.Brokers() {
		behind[b] = true
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.DefaultProduceTopic("events"), kgo.ConsumeTopics("events"), kgo.ConsumerGroup("g"),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.RecordDeliveryTimeout(5*time.Second),
		kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			if !behind[address] {
				return nil, errors.New("around the relays to " + address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 60 {
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Value: []byte(strings.Repeat("x", 1000))}).FirstErr())
	}
	for n := 0; n < 60; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		n += fetches.NumRecords()
	}
	for _, r := range k.Relays() {
		require.Positive(t, r.Reset())
		r.Away()
	}
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	require.Error(t, client.Ping(short))
	for _, r := range k.Relays() {
		r.Heal()
	}
	require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Value: []byte("back")}).FirstErr())
}
