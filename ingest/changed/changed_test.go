package changed_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/changed"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/ingest/internal/tabletest"
)

func touched(hints ...uint64) func(func(uint64, uint16) bool) {
	return func(yield func(uint64, uint16) bool) {
		for _, p := range hints {
			if !yield(p, 20000) {
				return
			}
		}
	}
}

func TestHintsAreWrittenOnceAndLostWithoutHarm(t *testing.T) {
	address := tabletest.Addresses(t)
	tbl := tabletest.At(t, address)
	proxy := faultproxy.NewServer(t, address.ClickHouse).New(t)
	behind := address
	behind.ClickHouse = proxy.URL()
	h := changed.New(tabletest.At(t, behind), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.Add(touched(1, 2, 1))
	count := func() uint64 {
		return tabletest.Number(t, tbl, "SELECT count() FROM changed WHERE date = '2024-10-04'")
	}
	require.Eventually(t, func() bool { return count() == 2 }, time.Minute, time.Millisecond)
	proxy.Down(true)
	h.Add(touched(3))
	time.Sleep(150 * time.Millisecond)
	proxy.Down(false)
	h.Add(touched(4))
	require.Eventually(t, func() bool { return count() == 3 }, time.Minute, time.Millisecond)
	h.Add(touched(5))
	cancel()
	require.NoError(t, <-done)
	require.EqualValues(t, 4, count(), "what is left is written at the end")
}
