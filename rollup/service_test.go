package rollup

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
)

// plain is the configuration by default, but for what makes a test fast.
func plain() Config {
	return Config{Interval: 100 * time.Millisecond, Grace: 0, Compare: time.Second, Sweep: 5 * time.Minute, Silent: 15 * time.Minute, Lost: 192 * time.Hour, Retention: 400}
}

func start(t *testing.T, config Config, where engines.Addresses) (registry *prometheus.Registry) {
	t.Helper()
	registry = prometheus.NewRegistry()
	s, err := New(t.Context(), config, where, slog.New(slog.NewTextHandler(t.Output(), nil)), registry, &admin.Health{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("rollup does not stop")
		}
	})
	return registry
}

func TestTwoRollupsKeepTheNumbersRight(t *testing.T) {
	e := eventtest.New(t)
	for range 2 {
		start(t, plain(), e.Addresses)
	}
	now := time.Now().UTC()
	var clicks, views uint64
	for i := range uint64(10) {
		at := now.AddDate(0, 0, -int(i)) // open and closed days
		e.Insert(eventtest.Event{Stream: 9, Sequence: 2*i + 1, Time: at, Profile: 1, Visitor: i}, eventtest.Event{Stream: 9, Sequence: 2*i + 2, Time: at, Profile: 1, Link: 4, Visitor: i})
		views, clicks = views+1, clicks+1
		time.Sleep(20 * time.Millisecond)
	}
	announced := now.Add(-10 * time.Second)
	e.Announce(eventtest.Announcement{Stream: 9, Journaled: 20, Time: announced, Began: now.AddDate(0, 0, -20)})
	require.Eventually(t, func() bool {
		var v, c, unique uint64
		var through *time.Time
		err := e.Pool.QueryRow(t.Context(), `SELECT views, clicks, unique_visitors, (SELECT complete_through FROM completeness) FROM profile_counters WHERE profile_id = 1 AND class = 'person'`).
			Scan(&v, &c, &unique, &through)
		return err == nil && v == views && c == clicks && unique == 10 && through != nil && through.Equal(announced.Truncate(time.Microsecond))
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool { return e.Number("SELECT uniqExact(date) FROM "+e.Local("closed_days")) >= 7 }, time.Minute, 100*time.Millisecond)
}

func TestEnginesThatAreAwayAreWaitedFor(t *testing.T) {
	where := engines.Addresses{ClickHouse: "http://127.0.0.1:1/spillway", Database: "postgres://127.0.0.1:1/spillway"}
	start(t, plain(), where)
	time.Sleep(300 * time.Millisecond) // the clean-up asks for an end without an error
}

func TestTheConfigurationIsChecked(t *testing.T) {
	where := engines.Addresses{ClickHouse: "http://127.0.0.1:1/spillway", Database: "postgres://127.0.0.1:1/spillway"}
	for variable, change := range map[string]func(*Config){
		"SPILLWAY_ROLLUP_INTERVAL":    func(c *Config) { c.Interval = 0 },
		"SPILLWAY_ROLLUP_CLOSE_AFTER": func(c *Config) { c.Grace = -1 },
		"SPILLWAY_RETENTION_DAYS":     func(c *Config) { c.Retention = 3 },
	} {
		config := plain()
		change(&config)
		_, err := New(t.Context(), config, where, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), &admin.Health{})
		require.ErrorContains(t, err, variable)
	}
	_, err := New(t.Context(), plain(), engines.Addresses{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), &admin.Health{})
	require.ErrorContains(t, err, "CLICKHOUSE_URL")
}
