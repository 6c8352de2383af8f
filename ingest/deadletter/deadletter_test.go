package deadletter_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest/deadletter"
)

func TestLettersAreCountedWhenKafkaHasThem(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer cluster.Close()
	box, err := deadletter.Open("events.dead", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.MetadataMinAge(10*time.Millisecond))
	require.NoError(t, err)
	defer box.Close()
	require.NoError(t, box.Create(t.Context()))
	require.NoError(t, box.Create(t.Context()), "it is there already")
	s := box.Sender(t.Context())
	defer s.Close()
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord})
	big := make([]byte, 6<<20) // larger than the broker lets through, and not to be compressed
	_, _ = rand.Read(big)
	for i, value := range [][]byte{[]byte("one"), big, nil} {
		require.NoError(t, s.Send(&kgo.Record{Topic: "events", Partition: 3, Offset: int64(i), Key: []byte("k"), Value: value, Timestamp: time.UnixMilli(5),
			Headers: []kgo.RecordHeader{{Key: "own", Value: []byte("header")}}}, deadletter.Unreadable, errors.New("why")))
	}
	require.EqualValues(t, 3, s.Sent())
	require.Zero(t, s.Acknowledged())
	require.Eventually(t, func() bool { return s.Acknowledged() == 3 }, time.Minute, time.Millisecond)

	reader, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("events.dead"))
	require.NoError(t, err)
	defer reader.Close()
	seen := map[string]bool{}
	for len(seen) < 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		fetches := reader.PollFetches(ctx)
		cancel()
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			header := map[string]string{}
			for _, h := range r.Headers {
				header[h.Key] = string(h.Value)
			}
			at := header[deadletter.HeaderOffset]
			require.Equal(t, "header/unreadable/why/events/3/5/k", header["own"]+"/"+header[deadletter.HeaderReason]+"/"+header[deadletter.HeaderDetail]+"/"+
				header[deadletter.HeaderTopic]+"/"+header[deadletter.HeaderPartition]+"/"+header[deadletter.HeaderTimestamp]+"/"+string(r.Key))
			switch at {
			case "0":
				require.Equal(t, "one", string(r.Value))
			case "1":
				require.Zero(t, len(r.Value))
				require.Equal(t, "6291456", header[deadletter.HeaderLeftOut])
			}
			seen[at] = true
		})
	}
}

func TestASenderThatEndsGivesUp(t *testing.T) {
	box, err := deadletter.Open("events.dead", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), kgo.SeedBrokers("127.0.0.1:1"))
	require.NoError(t, err)
	defer box.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s := box.Sender(ctx)
	record := &kgo.Record{Value: []byte("x")}
	for range 1000 {
		require.NoError(t, s.Send(record, deadletter.Expired, errors.New("old")))
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	require.ErrorIs(t, s.Send(record, deadletter.Expired, errors.New("old")), context.Canceled, "there is no room, and then it ends")
	require.Zero(t, s.Acknowledged())
}
