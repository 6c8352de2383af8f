package ingest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/ingest"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/schemas/event"
	"spillway.dev/service/enginetest"
)

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBacklog takes in a backlog as fast as it goes, broker and ClickHouse in processes of their own beside it:
//
//	go test -run - -bench Backlog -benchtime 1x .
//
// SPILLWAY_BENCH_EVENTS says how many events, SPILLWAY_INGEST_ROWS how many rows an insert.
func BenchmarkBacklog(b *testing.B) {
	events := number("SPILLWAY_BENCH_EVENTS", 1_000_000)
	const partitions, size = 4, 256
	for b.Loop() {
		b.StopTimer()
		address := tabletest.Addresses(b)
		address.Kafka, address.Topic = enginetest.Kafka(b), enginetest.Name()
		client, err := kgo.NewClient(kgo.SeedBrokers(address.Kafka...), kgo.DefaultProduceTopic(address.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		require.NoError(b, err)
		_, err = kadm.NewClient(client).CreateTopic(b.Context(), partitions, 1, nil, address.Topic)
		require.NoError(b, err)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range events / size {
			p := i % partitions
			value := event.AppendHeader(nil, 1, uint64(i/partitions*size+1))
			for range size {
				value = spike(b, value, random)
			}
			client.Produce(b.Context(), &kgo.Record{Partition: int32(p), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					b.Error(err)
				}
			})
		}
		require.NoError(b, client.Flush(b.Context()))
		client.Close()
		metrics := prometheus.NewRegistry()
		service, err := ingest.New(ingest.Config{Group: address.Topic, Rows: number("SPILLWAY_INGEST_ROWS", 0)}, address, slog.New(slog.DiscardHandler), metrics)
		require.NoError(b, err)
		before := cpu()
		b.StartTimer()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- service.Run(ctx) }()
		want := float64(events / size * size)
		for sum(b, metrics, "spillway_ingest_rows_total") < want {
			time.Sleep(10 * time.Millisecond)
		}
		b.StopTimer()
		used := cpu() - before
		b.ReportMetric(want/b.Elapsed().Seconds()*float64(1), "events/s")
		b.ReportMetric(float64(used.Nanoseconds())/want, "cpu-ns/event")
		b.ReportMetric(want/sum(b, metrics, "spillway_ingest_inserts_total"), "rows/insert")
		stop()
		require.NoError(b, <-done)
		b.StartTimer()
	}
}

func number(variable string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return standard
}

func sum(b *testing.B, metrics *prometheus.Registry, name string) (total float64) {
	families, err := metrics.Gather()
	require.NoError(b, err)
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// spike appends an event as they come when a creator's link goes viral: many people with few kinds of devices, one profile.
func spike(b *testing.B, to []byte, r *rand.Rand) []byte {
	agents := [...]string{
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/21F90 Instagram 334.0.4.32.98 (iPhone15,2; iOS 17_5_1; en_US; en; scale=3.00; 1179x2556; 6097754%d)",
		"Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A.%d; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/125.0.6422.53 Mobile Safari/537.36 musical_ly_2023405030",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36",
	}
	var visitor [8]byte
	binary.LittleEndian.PutUint64(visitor[:], r.Uint64())
	to, err := event.AppendEvent(to, &event.Event{TimeUs: time.Now().UnixMicro(), Kind: event.Kind_KIND_CLICK, Class: event.Class_CLASS_PERSON, ProfileId: 4711 + r.Uint64N(100),
		LinkId: r.Uint64N(500), Visitor: binary.LittleEndian.Uint64(visitor[:]), Date: uint32(time.Now().Unix() / 86400), Surface: event.Surface_SURFACE_PAGE,
		Country: [...]string{"DE", "US", "BR", "IN"}[r.IntN(4)], Language: "en-US", Host: "me.example",
		UserAgent: fmt.Sprintf(agents[r.IntN(len(agents))], r.IntN(100)), Referrer: [...]string{"", "https://l.instagram.com/", "https://me.example/ada"}[r.IntN(3)]})
	require.NoError(b, err)
	return to
}
