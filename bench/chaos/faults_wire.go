package chaos

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/bench/cluster"
	"spillway.dev/bench/wire"
)

// wireFaults are what happens between processes that are well.
func wireFaults(session time.Duration) []Fault {
	long := session + 2*time.Second
	all := []Fault{
		{
			Name: "broker away", Does: "Every connection to it is reset, and each that comes; for a minute in the middle of the load.",
			Expect: "The journals take it all.",
			Hold:   5 * time.Second, Longest: time.Minute, Short: true, Random: true, Touches: []string{"broker"}, strike: onEngine("broker", (*wire.Relay).Away),
		},
		{
			Name: "dead route to the broker", Does: "Nothing passes in either direction, and nobody says so.",
			Hold: long, Random: true, Touches: []string{"broker"}, strike: onEngine("broker", (*wire.Relay).Stick),
		},
		{
			Name: "slow broker", Does: "Everything arrives 400 ms later, in each direction.",
			Hold: 4 * time.Second, Random: true, Touches: []string{"broker"}, strike: onEngine("broker", late(400*time.Millisecond)),
		},
		{
			Name: "ClickHouse away", Does: "Every connection to it is reset, and each that comes.",
			Hold: 5 * time.Second, Random: true, Touches: []string{"clickhouse"}, strike: onEngine("clickhouse", (*wire.Relay).Away),
		},
		{
			Name: "dead route to ClickHouse", Does: "Nothing passes, for longer than the group's session.",
			Hold: long, Random: true, Touches: []string{"clickhouse"}, strike: onEngine("clickhouse", (*wire.Relay).Stick),
		},
		{
			Name: "PostgreSQL away", Does: "Every connection to it is reset, and each that comes.",
			Hold: 5 * time.Second, Random: true, Touches: []string{"postgres"}, strike: onEngine("postgres", (*wire.Relay).Away),
		},
		{
			Name: "dead route to PostgreSQL", Does: "Nothing passes in either direction.",
			Hold: 4 * time.Second, Random: true, Touches: []string{"postgres"}, strike: onEngine("postgres", (*wire.Relay).Stick),
		},
		{
			Name: "PostgreSQL's connections killed", Does: "pg_terminate_backend of all of them, five times.",
			Hold: 100 * time.Millisecond, Random: true, Touches: []string{"postgres"}, strike: terminateBackends,
		},
		{
			Name: "one ingest cut off from Kafka", Does: "It still reaches ClickHouse, for longer than its session: the fence alone keeps it from writing.",
			Hold: long, Random: true, Touches: []string{"ingest-1"}, strike: onService("ingest-1", "broker", (*wire.Relay).Stick),
		},
		{
			Name: "one ingest cut off from ClickHouse", Does: "It still is a member of the group, and holds its partitions.",
			Hold: long, Random: true, Touches: []string{"ingest-1"}, strike: onService("ingest-1", "clickhouse", (*wire.Relay).Stick),
		},
		{
			Name: "resets between every pair", Does: "Every connection between any two processes is reset, eight times.",
			Touches: []string{"broker", "clickhouse", "postgres"}, Random: true, strike: resets,
		},
		{
			Name: "latency between every pair", Does: "150 ms more in each direction between any two processes.",
			Hold: 4 * time.Second, Touches: []string{"broker", "clickhouse", "postgres"}, Random: true, strike: everywhere(late(150 * time.Millisecond)),
		},
	}
	for _, s := range []struct {
		strike wire.Strike
		name   string
		does   string
		held   time.Duration
		short  bool
	}{
		{wire.CutBefore, "insert cut before the commit", "The connection ends before ClickHouse has seen the insert.", 0, false},
		{wire.CutHalfway, "insert cut halfway", "The connection ends when ClickHouse has half of the insert.", 0, false},
		{wire.CutAfter, "insert cut after the commit", "ClickHouse has committed, and the connection ends before it can say so.", 0, true},
		{wire.FailAfter, "500 after the commit", "ClickHouse has committed, and a proxy answers 500 in its place.", 0, false},
		{wire.HoldBefore, "insert held back", "It reaches ClickHouse only after longer than the group's session.", long, false},
		{wire.HoldAfter, "answer held back", "ClickHouse has committed, and says so only after longer than the group's session.", long, false},
	} {
		all = append(all, Fault{
			Name: s.name, Does: s.does + " The next three inserts of each ingest.",
			Hold: 2*time.Second + s.held, Short: s.short, Random: true, Touches: []string{"ingest-1", "ingest-2"}, strike: inserts(s.strike, s.held),
		})
	}
	return all
}

func late(d time.Duration) func(*wire.Relay) {
	return func(r *wire.Relay) { r.Delay(d) }
}

// relays calls f for the relays from the services that are meant to the engine ("" for all).
func (a *arena) relays(from, engine string, f func(*wire.Relay)) {
	for _, s := range a.Services() {
		if from != "" && s.Name != from {
			continue
		}
		for name, relays := range s.Relays() {
			if engine != "" && name != engine {
				continue
			}
			for _, r := range relays {
				f(r)
			}
		}
	}
}

func between(from, engine string, f func(*wire.Relay)) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		a.relays(from, engine, f)
		return func(context.Context) error {
			a.relays(from, engine, (*wire.Relay).Heal)
			return nil
		}, nil
	}
}

func onEngine(engine string, f func(*wire.Relay)) strike { return between("", engine, f) }

func onService(service, engine string, f func(*wire.Relay)) strike {
	return between(service, engine, f)
}

func everywhere(f func(*wire.Relay)) strike { return between("", "", f) }

func resets(ctx context.Context, a *arena) (func(context.Context) error, error) {
	for range 8 {
		a.relays("", "", func(r *wire.Relay) { r.Reset() })
		if err := sleep(ctx, 150*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return healed, nil
}

func terminateBackends(ctx context.Context, a *arena) (func(context.Context) error, error) {
	for range 5 {
		if _, err := a.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`); err != nil {
			return nil, fmt.Errorf("kill PostgreSQL's connections: %w", err)
		}
		if err := sleep(ctx, 150*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return healed, nil
}

func inserts(s wire.Strike, held time.Duration) strike {
	return func(_ context.Context, a *arena) (func(context.Context) error, error) {
		each := func(f func(*cluster.Service)) {
			for _, i := range a.Ingests {
				f(i)
			}
		}
		each(func(i *cluster.Service) { i.ClickHouse.StrikeInserts("events", s, 3, held) })
		return func(context.Context) error {
			each(func(i *cluster.Service) { i.ClickHouse.StrikeInserts("events", wire.Spare, 0, 0) })
			return nil
		}, nil
	}
}
