// Package cluster runs Spillway as a platform would: every service as a process of its own, several of each, and the three engines as
// processes too, all on ports that the kernel chose. Each service has a relay of its own to each engine that it uses, so that what is
// between any two of them can be spoiled (package wire), and each process can be killed, stopped, continued and started again
// (package process). The programs are those of production: only addresses and directories differ.
package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/creator"
	"spillway.dev/bench/kafka"
	"spillway.dev/bench/port"
	"spillway.dev/bench/process"
	"spillway.dev/bench/wire"
	"spillway.dev/profileapi/account"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
)

// Options say what runs.
type Options struct {
	// Binary is bin/spillway.
	Binary string
	// Dir holds everything: the engines' data, journals, logs. It must be empty, or not there.
	Dir string
	// Redirectors, Ingests and Rollups are how many of each there are. One profileapi runs always.
	Redirectors, Ingests, Rollups int
	// Partitions of the topic; zero means 4.
	Partitions int
	// Kafka is a cluster that runs already; nil: the embedded broker is started.
	Kafka *kafka.Cluster
	// Env is set for every service, by name.
	Env map[string]string
}

// Cluster is what runs.
type Cluster struct {
	Options
	Broker      *process.Process // nil with Options.Kafka
	ClickHouse  *process.Process
	Postgres    *process.Process
	Redirectors []*Service
	Ingests     []*Service
	Rollups     []*Service
	ProfileAPI  *Service
	// API is the creators' API, with Token, which is of scope admin.
	API   *creator.API
	Token string
	// ClickHouseURL and PostgresURL lead to the engines without any relay.
	ClickHouseURL, PostgresURL string

	starter *process.Starter
	ports   port.Finder
	mu      sync.Mutex
	all     []*process.Process // guarded by mu; in the order of their starts
	relays  []interface{ Close() error }
}

// Service is a process of Spillway.
type Service struct {
	*process.Process
	Listen string // what it serves, host:port; empty for those that serve nothing
	Admin  string // metrics and health, host:port
	Dir    string // its directory; empty for those that have none

	// The relays to the engines; nil for those that it does not use.
	Kafka      *wire.Kafka
	ClickHouse *wire.ClickHouse
	Postgres   *wire.Relay

	spec process.Spec
}

// Topic is where the events are.
const Topic = "spillway.events"

// Start starts the engines, then the services, and waits until all are ready. What was started ends with Close, or with this process.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Partitions == 0 {
		o.Partitions = 4
	}
	if _, err := os.Stat(o.Binary); err != nil {
		return nil, fmt.Errorf("start cluster: %w: run 'make build' first", err)
	}
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	// PostgreSQL does not run as root, and whoever it runs as must get to its directory.
	if err := os.Chmod(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c := &Cluster{Options: o}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start cluster: %w", err)
			c.Close()
		}
	}()
	if c.starter, err = process.NewStarter(filepath.Join(o.Dir, "logs")); err != nil {
		return nil, err
	}
	if err := c.startEngines(ctx); err != nil {
		return nil, err
	}
	// Services bring the tables to the newest version themselves, while they already serve; an experiment begins after that.
	if err := errors.Join(postgres.Migrate(ctx, c.PostgresURL), engines.Addresses{ClickHouse: c.ClickHouseURL}.MigrateClickHouse(ctx)); err != nil {
		return nil, err
	}
	if err := c.startServices(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends everything at once.
func (c *Cluster) Close() {
	c.mu.Lock()
	all := slices.Clone(c.all)
	c.mu.Unlock()
	for _, p := range slices.Backward(all) {
		p.Kill()
	}
	for _, r := range c.relays {
		_ = r.Close() // nothing can be done about it, and nothing depends on it
	}
}

// Stop asks every service to end, one kind after another, then the engines, and returns what did not end well.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	all := slices.Clone(c.all)
	c.mu.Unlock()
	var failed []error
	for _, p := range slices.Backward(all) {
		failed = append(failed, p.Stop(30*time.Second))
	}
	c.Close()
	return errors.Join(failed...)
}

func (c *Cluster) run(ctx context.Context, spec process.Spec) (*process.Process, error) {
	p, err := c.starter.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.all = append(c.all, p)
	c.mu.Unlock()
	return p, nil
}

// EngineDir is the directory of an engine's data: kafka, clickhouse or postgres.
func (c *Cluster) EngineDir(engine string) string { return filepath.Join(c.Dir, engine, "data") }

func (c *Cluster) startEngines(ctx context.Context) error {
	var wait sync.WaitGroup
	failed := make([]error, 3)
	start := func(i int, engine string, into **process.Process, args ...string) {
		wait.Go(func() {
			spec := process.Spec{Name: engine, Path: c.Binary, Ready: "ready ", Args: append([]string{
				"engine", engine, "--with-parent", "--data", c.EngineDir(engine), "--listen", "127.0.0.1:0"}, args...)}
			if failed[i] = os.MkdirAll(filepath.Dir(c.EngineDir(engine)), 0o755); failed[i] == nil {
				*into, failed[i] = c.run(ctx, spec)
			}
		})
	}
	start(0, "clickhouse", &c.ClickHouse)
	start(1, "postgres", &c.Postgres)
	if c.Kafka == nil {
		start(2, "kafka", &c.Broker, "--partitions", strconv.Itoa(c.Partitions))
	} else {
		failed[2] = errors.Join(c.Kafka.Topic(ctx, Topic, c.Partitions), c.Kafka.Topic(ctx, Topic+".dead", 1))
	}
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	c.ClickHouseURL, c.PostgresURL = c.ClickHouse.Line(), c.Postgres.Line()
	for _, p := range []*process.Process{c.ClickHouse, c.Postgres, c.Broker} {
		if p != nil {
			p.Args = pinned(p.Args, p.Line())
		}
	}
	return nil
}

// pinned makes an engine that is started again serve the port that the kernel gave it the first time.
func pinned(args []string, line string) []string {
	address := line
	if u, err := url.Parse(line); err == nil && u.Host != "" {
		address = u.Host
	}
	args = slices.Clone(args)
	args[slices.Index(args, "--listen")+1] = address
	return args
}

// Brokers are the addresses of the Kafka brokers themselves, without relays.
func (c *Cluster) Brokers() []string {
	if c.Kafka != nil {
		return c.Kafka.Brokers()
	}
	return strings.Split(c.Broker.Line(), ",")
}

// Engines returns the processes that are the engines, by name. Of a cluster of Apache Kafka the first node is "broker" here, the others
// are "broker-2" and "broker-3".
func (c *Cluster) Engines() map[string]*process.Process {
	engines := map[string]*process.Process{"broker": c.Broker, "clickhouse": c.ClickHouse, "postgres": c.Postgres}
	if c.Kafka != nil {
		engines["broker"] = c.Kafka.Nodes[0]
		for i, node := range c.Kafka.Nodes[1:] {
			engines["broker-"+strconv.Itoa(i+2)] = node
		}
	}
	return engines
}

// Services returns all services, in the order of the way of a click.
func (c *Cluster) Services() []*Service {
	return slices.Concat(c.Redirectors, c.Ingests, c.Rollups, []*Service{c.ProfileAPI})
}

func (c *Cluster) startServices(ctx context.Context) error {
	var err error
	if c.ProfileAPI, err = c.service("profileapi", false, true, true); err != nil {
		return err
	}
	for i := range max(c.Options.Redirectors, c.Options.Ingests, c.Options.Rollups) {
		name := "-" + strconv.Itoa(i+1)
		for _, kind := range []struct {
			name                     string
			n                        int
			all                      *[]*Service
			kafka, columns, postgres bool
		}{
			{"redirector", c.Options.Redirectors, &c.Redirectors, true, false, true},
			{"ingest", c.Options.Ingests, &c.Ingests, true, true, false},
			{"rollup", c.Options.Rollups, &c.Rollups, false, true, true},
		} {
			if i < kind.n {
				s, err := c.service(kind.name+name, kind.kafka, kind.columns, kind.postgres)
				if err != nil {
					return err
				}
				*kind.all = append(*kind.all, s)
			}
		}
	}
	for _, s := range c.Services() {
		if s.Process, err = c.run(ctx, s.spec); err != nil {
			return err
		}
	}
	for _, s := range c.Services() {
		if err := s.Ready(ctx, time.Minute); err != nil {
			return err
		}
	}
	c.Token = "sw_" + rand.Text()
	pool, err := pgxpool.New(ctx, c.PostgresURL)
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	defer pool.Close()
	if _, err := account.EnsureAdminToken(ctx, pool, c.Token); err != nil {
		return err
	}
	c.API, err = creator.New("http://"+c.ProfileAPI.Listen, c.Token)
	return err
}
