package kafka_test

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/standalone/kafka"
)

// While the disk is full nothing is acknowledged; what waited goes through when there is room again, once; a restart has all of it.
func TestAFullDiskLosesNothing(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		require.ErrorIs(t, err, syscall.EPERM, "only who may not mount may be without this test")
		return
	}
	defer func() { require.NoError(t, syscall.Unmount(disk, syscall.MNT_DETACH)) }()
	cfg := kafka.Config{Data: filepath.Join(disk, "kafka"), Partitions: 1}
	require.NoError(t, os.Mkdir(cfg.Data, 0o755))
	broker := start(t, cfg)
	filler := filepath.Join(disk, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 12<<20), 0o644))
	c := client(t, broker, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	const records, size = 200, 32 << 10 // 6.4 MB, where there is room for 4
	acknowledged := make(chan error, records)
	for range records {
		value := make([]byte, size)
		_, _ = rand.Read(value)
		c.Produce(t.Context(), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) { acknowledged <- err })
	}
	time.Sleep(500 * time.Millisecond)
	require.Less(t, len(acknowledged), records, "the disk is full and everything is acknowledged")
	require.NoError(t, os.Remove(filler))
	for range records {
		require.NoError(t, <-acknowledged)
	}
	c.Close()
	broker.Stop()
	broker = start(t, cfg)
	defer broker.Stop()
	reader := client(t, broker, kgo.ConsumeTopics(topic))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := 0
	for seen < records {
		fetches := reader.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		seen += fetches.NumRecords()
	}
	require.Equal(t, records, seen)
}
