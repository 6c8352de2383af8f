package export

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
	"spillway.dev/service/spillwaytest"
)

// A run that goes on takes in what comes, outlives an hour's failure of ClickHouse, and ends without an error.
func TestRunGoesOn(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	f.insert(streamA, 0, 1, 10, day0)
	registry := prometheus.NewRegistry()
	var log spillwaytest.Output
	e, err := New(t.Context(), Config{To: root, Every: time.Second}, f.addresses, slog.New(slog.NewTextHandler(&log, nil)), registry, io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	s := openStore(t, root)
	chain := manifest.Chain{Store: s}
	reaches := func(head uint64) {
		t.Helper()
		require.Eventually(t, func() bool {
			n, err := chain.Head(context.Background())
			return err == nil && n == head
		}, 20*time.Second, 50*time.Millisecond)
	}
	reaches(1)
	f.exec("RENAME TABLE closed_days TO hidden")
	f.insert(streamA, 0, 11, 20, day0)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "will be tried again") }, 20*time.Second, 50*time.Millisecond)
	f.exec("RENAME TABLE hidden TO closed_days")
	reaches(2)
	cancel()
	require.NoError(t, <-ended)
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP spillway_export_events_total Events published.
# TYPE spillway_export_events_total counter
spillway_export_events_total 20
# HELP spillway_export_cuts_total Cuts published.
# TYPE spillway_export_cuts_total counter
spillway_export_cuts_total 2
`), "spillway_export_events_total", "spillway_export_cuts_total"))
}

// A single run says what it did; one that is stopped says so, and leaves what it published.
func TestRunOnce(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	f.insert(streamA, 0, 1, 1000, day0)
	root := t.TempDir()
	var bar bytes.Buffer
	run := func(ctx context.Context) error {
		e, err := New(t.Context(), Config{To: root, Events: 300}, f.addresses, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), &bar)
		require.NoError(t, err)
		return e.Run(ctx)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(stopped)
	require.ErrorContains(t, err, "run it again to go on")
	require.False(t, errors.Is(err, context.Canceled), "a run that was stopped did not succeed")
	require.NoError(t, run(t.Context()))
	require.Contains(t, bar.String(), "1000 events and 0 closed days in 4 files")
	require.Contains(t, bar.String(), "manifests/000000000004.json")
}

func TestConfigErrorsHaveACure(t *testing.T) {
	t.Parallel()
	for problem, change := range map[string]func(*Config){
		"--to or SPILLWAY_EXPORT_TO": func(c *Config) { c.To = "" },
		"use a second or more":       func(c *Config) { c.Every = time.Millisecond },
		"use 0 (for ever) or more":   func(c *Config) { c.Hold = -1 },
		"use at most 200000000":      func(c *Config) { c.Events = 1 << 40 },
		"use 1 MB to 1 GB":           func(c *Config) { c.FileSize = 10 },
		"use a date (2026-01-31":     func(c *Config) { c.Since = "yesterday" },
		"is not before --until":      func(c *Config) { c.Since, c.Until = "2026-01-02", "2026-01-02" },
	} {
		config := Config{To: t.TempDir()}
		change(&config)
		_, err := New(t.Context(), config, engines.Addresses{ClickHouse: "http://127.0.0.1:1/spillway"}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
		require.ErrorContains(t, err, problem)
	}
	_, err := New(t.Context(), Config{To: t.TempDir()}, engines.Addresses{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.ErrorContains(t, err, "set CLICKHOUSE_URL")
	e, err := New(t.Context(), Config{To: t.TempDir()}, engines.Addresses{ClickHouse: "http://127.0.0.1:1/spillway"}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	require.ErrorContains(t, e.Run(t.Context()), "say with CLICKHOUSE_URL where it is")
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	for address, cure := range map[string]string{
		strings.Replace(enginetest.ClickHouse(t), "?", "_none?", 1): "start ingest or rollup, which make the tables",
		stranger.URL + "/spillway":                                  "check whether it is ClickHouse's HTTP interface",
	} {
		e, err := New(t.Context(), Config{To: t.TempDir()}, engines.Addresses{ClickHouse: address}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
		require.NoError(t, err)
		require.ErrorContains(t, e.Run(t.Context()), cure)
	}
}
