package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPartsStopInOrderEachWhollyBeforeTheNext(t *testing.T) {
	var mu sync.Mutex
	var order []string
	part := func(name string) Part {
		return Part{Name: name, Run: func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			order = append(order, name+" stops")
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			order = append(order, name+" stopped")
			mu.Unlock()
			return ctx.Err()
		}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	require.NoError(t, Run(ctx, slog.New(slog.DiscardHandler), part("redirector"), part("ingest"), part("engines")))
	require.Equal(t, []string{"redirector stops", "redirector stopped", "ingest stops", "ingest stopped", "engines stops", "engines stopped"}, order)
}

func TestAPartThatFailsEndsTheOthers(t *testing.T) {
	stopped := false
	err := Run(context.Background(), slog.New(slog.DiscardHandler),
		Part{Name: "ingest", Run: func(context.Context) error { return errors.New("no such topic") }},
		Part{Name: "engines", Run: func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }},
	)
	require.EqualError(t, err, "ingest: no such topic")
	require.True(t, stopped)
}

func TestAPartThatDoesNotStopIsNamed(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := Run(ctx, slog.New(slog.DiscardHandler), Part{Name: "rollup", Grace: time.Millisecond, Run: func(context.Context) error {
		time.Sleep(time.Second)
		return nil
	}})
	require.ErrorContains(t, err, "stop rollup: still running")
}
