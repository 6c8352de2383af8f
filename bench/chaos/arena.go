package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/cluster"
	"spillway.dev/bench/kafka"
	"spillway.dev/bench/load"
	"spillway.dev/bench/process"
	"spillway.dev/bench/visit"
)

// arena is a cluster on which faults strike, and its visitors.
type arena struct {
	*cluster.Cluster
	profile string
	links   []load.Link
	pool    *pgxpool.Pool // to PostgreSQL, around the relays; connections are made again when they fail
	random  *rand.Rand
	mounts  []string
	session time.Duration // after so much silence the group takes an ingest for dead
}

// handle is the profile whose page and links the visitors want.
const handle = "chaos"

// newArena starts a cluster in dir. Its file systems are small ones of their own where on says so.
func newArena(ctx context.Context, dir, binary string, broker *kafka.Cluster, on ground, seed uint64) (_ *arena, err error) {
	a := &arena{random: rand.New(rand.NewPCG(seed, uint64(on))), session: sessionOf(broker != nil)}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make arena: %w", err)
	}
	if on == limited {
		sizes := map[string]int{"redirector-1": 16, "clickhouse": 768, "postgres": 384, "kafka": 128}
		if broker != nil {
			delete(sizes, "kafka") // is there already
		}
		for name, megabytes := range sizes {
			mount := filepath.Join(dir, name)
			if err := mountSmall(mount, megabytes); err != nil {
				return nil, err
			}
			a.mounts = append(a.mounts, mount)
		}
	}
	a.Cluster, err = cluster.Start(ctx, cluster.Options{
		Binary: binary, Dir: dir, Redirectors: 2, Ingests: 2, Rollups: 2, Kafka: broker,
		Env: map[string]string{
			// Small segments, so that a short load fills, recycles and loses some.
			"SPILLWAY_JOURNAL_SEGMENT_BYTES": "65536", "SPILLWAY_JOURNAL_BYTES": "67108864",
			// Production's patience is minutes; an experiment has seconds.
			"SPILLWAY_INGEST_SESSION": a.session.String(), "SPILLWAY_INGEST_SETTLE": "3s", "SPILLWAY_INGEST_ANSWER": "10s", "SPILLWAY_INGEST_LINGER": "3s",
			"SPILLWAY_LOG_LEVEL": "INFO",
		},
	})
	if err != nil {
		return nil, err
	}
	if a.pool, err = pgxpool.New(ctx, a.PostgresURL); err != nil {
		return nil, fmt.Errorf("make arena: %w", err)
	}
	profile, links, err := a.API.Numbered(ctx, handle, 40)
	if err != nil {
		return nil, fmt.Errorf("make arena: %w", err)
	}
	a.profile = profile
	for _, l := range links {
		a.links = append(a.links, load.Link{ID: l.ID, Code: l.Code})
	}
	return a, a.warm(ctx)
}

// warm makes every redirector one that has served for a while: it has seen the page and each link, and a snapshot of what it knows is on
// its disk, as it is a minute after that, or when it ends.
func (a *arena) warm(ctx context.Context) error {
	for _, r := range a.Redirectors {
		client := visit.New(r.Listen)
		defer client.Close()
		targets := []string{"/" + handle}
		for _, l := range a.links {
			targets = append(targets, "/l/"+l.Code)
		}
		for _, target := range targets {
			if answer, err := client.Do(&visit.Request{Target: target, UserAgent: "warm"}, time.Now().Add(5*time.Second)); err != nil || answer.Status >= 400 {
				return errors.Join(fmt.Errorf("make arena: %s of %s: status %d", target, r.Name, answer.Status), err)
			}
		}
		restart, err := terminate(r.Name)(ctx, a)
		if err == nil {
			err = restart(ctx)
		}
		if err == nil {
			err = r.Ready(ctx, 30*time.Second)
		}
		if err != nil {
			return fmt.Errorf("make arena: %w", err)
		}
	}
	return nil
}

func (a *arena) close() {
	if a.pool != nil {
		a.pool.Close()
	}
	if a.Cluster != nil {
		a.Close()
	}
	for _, m := range a.mounts {
		unmount(m)
	}
}

// attempts is what the visitors of one load saw.
type attempts struct {
	*load.Result
	ledger *bytes.Buffer
	run    string
}

// load sends visitors to both redirectors and returns when the last one was answered or gave up.
func (a *arena) load(ctx context.Context, run string, rate float64, duration time.Duration) (*attempts, error) {
	seen := &attempts{ledger: &bytes.Buffer{}, run: run + strconv.FormatUint(a.random.Uint64N(1<<40), 36)}
	l, err := load.New(load.Config{
		Targets: []string{a.Redirectors[0].Listen, a.Redirectors[1].Listen}, Handle: handle, Links: a.links,
		Rate: rate, Duration: duration, Connections: 24, Views: 0.2, Heads: 0.02, Prefetches: 0.02, Timeout: time.Second,
		Run: seen.run, Seed: a.random.Uint64(),
	}, seen.ledger)
	if err != nil {
		return nil, err
	}
	seen.Result, err = l.Run(ctx)
	return seen, err
}

// process returns the process of that name: redirector-1, ingest-2, rollup-1, profileapi, broker, clickhouse, postgres; of a real
// Kafka's other nodes broker-2 and broker-3.
func (a *arena) process(name string) *process.Process {
	if p := a.Engines()[name]; p != nil {
		return p
	}
	return a.service(name).Process
}

func (a *arena) service(name string) *cluster.Service {
	for _, s := range a.Services() {
		if s.Name == name {
			return s
		}
	}
	panic("BUG: no service is called " + name)
}

// start starts a process that has ended again, and waits until it can do its work. Services wait for engines that are away, so their
// readiness is not waited for.
func (a *arena) start(ctx context.Context, name string) error {
	if a.process(name).Running() {
		return nil
	}
	if err := a.process(name).Again(ctx, nil); err != nil {
		return err
	}
	if strings.HasPrefix(name, "broker") && a.Options.Kafka != nil {
		return a.Options.Kafka.Wait(ctx)
	}
	return nil
}

// revive heals everything and starts what has ended. It returns the names of those that had, and how.
func (a *arena) revive(ctx context.Context) (ended []string, err error) {
	var failed []error
	for _, s := range a.Services() {
		s.Heal()
	}
	for _, name := range slices.Sorted(maps.Keys(a.Engines())) {
		if !a.process(name).Running() {
			ended = append(ended, name+": "+a.process(name).State())
			failed = append(failed, a.start(ctx, name))
		}
	}
	for _, s := range a.Services() {
		if !s.Running() {
			ended = append(ended, s.Name+": "+s.State())
			failed = append(failed, a.start(ctx, s.Name))
		}
	}
	for _, s := range a.Services() {
		failed = append(failed, s.Ready(ctx, 45*time.Second))
	}
	return ended, errors.Join(failed...)
}
