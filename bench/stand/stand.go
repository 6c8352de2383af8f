// Package stand is a test stand: the engines and the services of one experiment, each a process of its own with nothing between them,
// bound to the processors that the experiment gives it. Package cluster is for breaking things; this one is for measuring them.
package stand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/port"
	"spillway.dev/bench/process"
	schema "spillway.dev/schemas/postgres"
)

// patience is how long something may take that takes seconds; pollEvery is how often is looked.
const (
	patience  = 3 * time.Minute
	pollEvery = 50 * time.Millisecond
)

// Topic is where the events are.
const Topic = "spillway.events"

// Stand is what runs. Make it with New.
type Stand struct {
	Dir string
	// Env is what every service that is started finds in its environment, before what it is given itself.
	Env []string

	binary  string
	starter *process.Starter
	ports   port.Finder
	all     []*process.Process
	pool    *pgxpool.Pool
}

// Service is a process of Spillway.
type Service struct {
	*process.Process
	Listen string // what it serves, host:port; empty for those that serve nothing
	Admin  string // metrics and health, host:port
}

// New makes an empty stand in a new directory below dir. binary is bin/spillway.
func New(dir, binary string) (*Stand, error) {
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("test stand: %w: run 'make build' first", err)
	}
	dir, err := os.MkdirTemp(dir, "stand-")
	if err != nil {
		return nil, fmt.Errorf("test stand: %w", err)
	}
	s := &Stand{Dir: dir}
	// PostgreSQL does not run as root, and whoever it runs as must get to its directory.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("test stand: %w", err)
	}
	if s.binary, err = filepath.Abs(binary); err != nil {
		return nil, fmt.Errorf("test stand: %w", err)
	}
	if s.starter, err = process.NewStarter(filepath.Join(dir, "logs")); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends everything and removes the directory.
func (s *Stand) Close() {
	if s.pool != nil {
		s.pool.Close()
	}
	for _, p := range slices.Backward(s.all) {
		p.Kill()
	}
	_ = os.RemoveAll(s.Dir) // what cannot be removed is in the system's directory for such things
}

// Any leaves it to the kernel which processors a process runs on.
const Any = -1

// Start runs a program on one processor, or on Any.
func (s *Stand) Start(ctx context.Context, processor int, spec process.Spec) (*process.Process, error) {
	if processor >= 0 {
		// taskset becomes the program, which so sees from its first instruction how many processors it has.
		spec.Args = append([]string{"--cpu-list", strconv.Itoa(processor), spec.Path}, spec.Args...)
		spec.Path = "taskset"
	}
	p, err := s.starter.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, p)
	return p, nil
}

// Engine starts an embedded engine, clickhouse, postgres or kafka, with further arguments. Its Line is its address.
func (s *Stand) Engine(ctx context.Context, kind string, processor int, args ...string) (*process.Process, error) {
	address, err := s.Address()
	if err != nil {
		return nil, err
	}
	data := s.EngineDir(kind)
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return nil, fmt.Errorf("test stand: %w", err)
	}
	return s.Start(ctx, processor, process.Spec{Name: kind, Path: s.binary, Ready: "ready ", Args: append([]string{
		"engine", kind, "--with-parent", "--data", data, "--listen", address}, args...)})
}

// EngineDir is where an engine keeps its data.
func (s *Stand) EngineDir(kind string) string { return filepath.Join(s.Dir, kind, "data") }

// Address returns a free host:port.
func (s *Stand) Address() (string, error) {
	ports, err := s.ports.Find(1)
	if err != nil {
		return "", err
	}
	return "127.0.0.1:" + strconv.Itoa(ports[0]), nil
}

// Service starts a service, redirector, ingest, rollup or profileapi, and waits until it is ready. env says its engines and its options.
func (s *Stand) Service(ctx context.Context, kind, name string, processor int, env ...string) (*Service, error) {
	return s.ServiceOf(ctx, s.binary, kind, name, processor, env...)
}

// ServiceOf starts a service of another bin/spillway.
func (s *Stand) ServiceOf(ctx context.Context, binary, kind, name string, processor int, env ...string) (*Service, error) {
	admin, err := s.Address()
	if err != nil {
		return nil, err
	}
	listen, err := s.Address()
	if err != nil {
		return nil, err
	}
	v := &Service{Admin: admin}
	// Whatever this process's own environment says, only the experiment's engines are used.
	environment := []string{"KAFKA_BROKERS=", "CLICKHOUSE_URL=", "DATABASE_URL=", "SPILLWAY_LOG_LEVEL=WARN", "SPILLWAY_ADMIN_LISTEN=" + admin}
	switch kind {
	case "redirector":
		v.Listen = listen
		journal := filepath.Join(s.Dir, name, "journal")
		if err := os.MkdirAll(filepath.Dir(journal), 0o755); err != nil {
			return nil, fmt.Errorf("test stand: %w", err)
		}
		environment = append(environment, "SPILLWAY_VISITORS_LISTEN="+listen, "SPILLWAY_JOURNAL="+journal, "SPILLWAY_SNAPSHOT=none")
	case "profileapi":
		v.Listen = listen
		environment = append(environment, "SPILLWAY_API_LISTEN="+listen, "SPILLWAY_API_RATE=0")
	}
	if v.Process, err = s.Start(ctx, processor, process.Spec{Name: name, Path: binary, Args: []string{kind}, Env: slices.Concat(s.Env, environment, env)}); err != nil {
		return nil, err
	}
	return v, v.ready(ctx)
}

// ready waits until the service says that it can do its work.
func (v *Service) ready(ctx context.Context) error {
	client := &http.Client{Timeout: 3 * time.Second}
	for deadline := time.Now().Add(time.Minute); ; {
		if !v.Running() {
			text, _ := os.ReadFile(v.Log()) // its reason, if it wrote one
			return fmt.Errorf("%s ended: %s", v.Name, strings.TrimSpace(string(text)))
		}
		response, err := client.Get("http://" + v.Admin + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after a minute: see %s", v.Name, v.Log())
		}
		if err := Pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// Pause waits, or returns ctx's error when that ends first.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Until asks again and again until done says so, or patience is over.
func Until(ctx context.Context, what string, patience, every time.Duration, done func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not after %s", what, patience)
		}
		if err := Pause(ctx, every); err != nil {
			return err
		}
	}
}

// Metrics returns the service's metrics. Those of one name and several labels are added up; a histogram is its _sum, _count and, under
// name{le="…"}, its _bucket.
func (v *Service) Metrics() (map[string]float64, error) {
	response, err := http.Get("http://" + v.Admin + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", v.Name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", v.Name, err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		at := strings.LastIndexByte(line, ' ')
		if line[0] == '#' || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", v.Name, err)
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		if _, le, bucket := strings.Cut(labels, `le="`); bucket {
			le, _, _ = strings.Cut(le, `"`)
			name = strings.TrimSuffix(name, "_bucket") + `{le="` + le + `"}`
		}
		all[name] += value
	}
	return all, nil
}

// Postgres starts PostgreSQL with Spillway's tables and returns a pool of connections to it.
func (s *Stand) Postgres(ctx context.Context, processor int) (*process.Process, *pgxpool.Pool, error) {
	p, err := s.Engine(ctx, "postgres", processor)
	if err != nil {
		return nil, nil, err
	}
	if err := schema.Migrate(ctx, p.Line()); err != nil {
		return nil, nil, err
	}
	if s.pool, err = pgxpool.New(ctx, p.Line()); err != nil {
		return nil, nil, fmt.Errorf("test stand: %w", err)
	}
	return p, s.pool, nil
}

// Links makes a profile of that handle with n links and returns its id. The i-th link, from 0, has the code Code(handle, i) and leads to
// Target(handle, i). The first twenty are shown on the page.
func Links(ctx context.Context, pool *pgxpool.Pool, handle string, n int) (profile int64, err error) {
	const statement = `
WITH account AS (INSERT INTO accounts (email) VALUES ($1 || '@spillway.example') RETURNING id),
     profile AS (INSERT INTO profiles (account_id, handle, title) SELECT id, $1, 'Measured' FROM account RETURNING id)
SELECT id FROM profile`
	tx, err := pool.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("make links: %w", err)
	}
	defer func() { err = errors.Join(err, ignoreDone(tx.Rollback(context.WithoutCancel(ctx)))) }()
	// Nobody has to be told of each link of a table that nobody knows yet.
	if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
		return 0, fmt.Errorf("make links: %w", err)
	}
	if err := tx.QueryRow(ctx, statement, handle).Scan(&profile); err != nil {
		return 0, fmt.Errorf("make links: %w", err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO links (profile_id, code, title, url, position, hidden)
SELECT $1, $2 || '-' || i, 'Link ' || i, 'https://example.com/' || $2 || '/' || i, i, i >= 20 FROM generate_series(0, $3 - 1) AS i`, profile, handle, n); err != nil {
		return 0, fmt.Errorf("make links: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, fmt.Errorf("make links: %w", err)
	}
	return profile, nil
}

// Code is the code of a link of Links.
func Code(handle string, i int) string { return handle + "-" + strconv.Itoa(i) }

// Target is where a link of Links leads.
func Target(handle string, i int) string {
	return "https://example.com/" + handle + "/" + strconv.Itoa(i)
}
