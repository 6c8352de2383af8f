package replay

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/bench/cluster"
)

// A part of a real log goes through every process of Spillway, twice; then once more while nobody counts.
func TestALogIsCountedLineByLine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cluster.StartForTest(ctx, t, cluster.Options{Redirectors: 1, Ingests: 1, Rollups: 1})
	require.NoError(t, err)
	config := Config{
		File: "testdata/apache_logs", Visitors: "http://" + c.Redirectors[0].Listen, API: "http://" + c.ProfileAPI.Listen, Token: c.Token,
		Site: "https://example.com", MaxLinks: 100,
	}
	replay := func() (string, error) {
		var out strings.Builder
		r, err := New(config, &out, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		err = r.Run(ctx)
		return out.String(), err
	}
	for range 2 {
		out, err := replay()
		require.NoError(t, err)
		require.Contains(t, out, "It adds up: 407 lines = 9 left out + ")
		require.Contains(t, out, "each of the 100 links has the clicks that the log gave it")
		for _, counted := range []string{"person", "bot", "head"} {
			require.Contains(t, out, "  "+counted+"\n")
		}
	}

	require.NoError(t, c.Ingests[0].Signal(syscall.SIGSTOP))
	defer func() { require.NoError(t, c.Ingests[0].Signal(syscall.SIGCONT)) }()
	config.Settle = 300 * time.Millisecond
	_, err = replay()
	require.True(t, errors.Is(err, ErrDoesNotAddUp), "%v", err)
	require.ErrorContains(t, err, "clicks: 0 counted")
}
