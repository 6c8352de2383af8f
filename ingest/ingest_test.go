package ingest_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/ingest"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/schemas/event"
)

func logger() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("SPILLWAY_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestAClickIsInTheTableInAMoment(t *testing.T) {
	a := tabletest.Addresses(t)
	a.Topic = "spillway.events"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, a.Topic))
	require.NoError(t, err)
	defer cluster.Close()
	a.Kafka = cluster.ListenAddrs()
	service, err := ingest.New(ingest.Config{}, a, logger(), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	producer, err := kgo.NewClient(kgo.SeedBrokers(a.Kafka...), kgo.DefaultProduceTopic(a.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer producer.Close()
	tbl := tabletest.At(t, a)

	send := func(partition int32, first uint64, n int) {
		value := event.AppendHeader(nil, 77, first)
		for range n {
			value, err = event.AppendEvent(value, &event.Event{TimeUs: time.Now().UnixMicro(), Kind: event.Kind_KIND_CLICK, ProfileId: 5, LinkId: 6,
				Date: uint32(time.Now().Unix() / 86400), UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0"})
			require.NoError(t, err)
		}
		require.NoError(t, producer.ProduceSync(ctx, &kgo.Record{Partition: partition, Value: value}).FirstErr())
	}
	count := func() uint64 {
		return tabletest.Number(t, tbl, "SELECT count() FROM events WHERE class = 'person' AND browser = 'Firefox'")
	}
	for p := range int32(4) {
		send(p, 1, 10)
	}
	began := time.Now()
	require.Eventually(t, func() bool { return count() == 40 }, 20*time.Second, 10*time.Millisecond)
	t.Log("from the start", time.Since(began))
	time.Sleep(time.Second)
	began = time.Now()
	send(1, 11, 1)
	require.Eventually(t, func() bool { return count() == 41 }, 5*time.Second, 2*time.Millisecond)
	t.Log("one click", time.Since(began))
	cancel()
	require.NoError(t, <-done)
}
