// Package tree runs the embedded engines that a standalone needs: those whose address was not given. ClickHouse and PostgreSQL are
// child processes that are started again when they die; Kafka runs in this process.
package tree

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/standalone/datadir"
	"spillway.dev/standalone/engines"
	"spillway.dev/standalone/kafka"
	"spillway.dev/standalone/supervise"
)

// Config says where the embedded engines keep their data and serve.
type Config struct {
	Data                string        `name:"data" env:"SPILLWAY_DATA" default:"./data" type:"path" help:"Data directory."`
	ClickHouseListen    string        `name:"clickhouse-listen" env:"SPILLWAY_CLICKHOUSE_LISTEN" default:"127.0.0.1:18123" help:"Address of the embedded ClickHouse (HTTP)."`
	PostgresListen      string        `name:"postgres-listen" env:"SPILLWAY_POSTGRES_LISTEN" default:"127.0.0.1:15432" help:"Address of the embedded PostgreSQL."`
	PostgresUser        string        `name:"postgres-user" env:"SPILLWAY_POSTGRES_USER" help:"User that runs the embedded PostgreSQL if Spillway is started as root. Default: the cluster's owner, else postgres, else nobody."`
	KafkaListen         string        `name:"kafka-listen" env:"SPILLWAY_KAFKA_LISTEN" default:"127.0.0.1:19092" help:"Address of the embedded Kafka broker."`
	KafkaPartitions     int           `name:"kafka-partitions" env:"SPILLWAY_KAFKA_PARTITIONS" default:"4" help:"Partitions of the embedded broker's topic when it is made."`
	KafkaRetention      time.Duration `name:"kafka-retention" env:"SPILLWAY_KAFKA_RETENTION" default:"168h" help:"For how long the embedded broker keeps records."`
	KafkaRetentionBytes int64         `name:"kafka-retention-bytes" env:"SPILLWAY_KAFKA_RETENTION_BYTES" default:"1073741824" help:"Bytes the embedded broker keeps of each partition."`
	KafkaSync           bool          `name:"kafka-sync" env:"SPILLWAY_KAFKA_SYNC" help:"Let the embedded broker write every batch through to the disk."`

	// Program is the binary whose `engine` commands are run. Empty: this one.
	Program string `kong:"-"`
}

// Addresses are where the engines serve. What is given to Start is not embedded.
type Addresses struct {
	Kafka      []string // HOST:PORT
	ClickHouse string   // http://HOST:PORT/DATABASE
	Postgres   string   // postgres://USER@HOST:PORT/DATABASE
}

// Topic and database of the embedded engines.
const (
	defaultTopic    = "spillway.events"
	defaultDatabase = "spillway"
)

// Tree is the running engines and the data directory they share.
type Tree struct {
	Addresses Addresses

	log    *slog.Logger
	dir    *datadir.Dir
	broker *kafka.Broker
	failed chan error

	mu      sync.Mutex
	keepers map[string]*supervise.Keeper
}

// Start takes the data directory and starts the engines whose address is not given, all at once. topic is the events' topic, empty:
// spillway.events. An error is one line with the cure; nothing is left running then.
func Start(ctx context.Context, cfg Config, given Addresses, topic string, log *slog.Logger, metrics prometheus.Registerer) (*Tree, error) {
	if topic == "" {
		topic = defaultTopic
	}
	restarts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_standalone_engine_restarts_total",
		Help: "Starts of an embedded engine after it had died.",
	}, []string{"engine"})
	if err := metrics.Register(restarts); err != nil {
		return nil, fmt.Errorf("register the engines' metrics: %w", err)
	}
	if cfg.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		cfg.Program = self
	}
	if given.ClickHouse == "" || given.Postgres == "" {
		// Said here, once, instead of by each child.
		if _, err := engines.Find(cfg.Program); err != nil {
			return nil, err
		}
	}
	dir, err := datadir.Open(ctx, cfg.Data, 2*time.Second)
	if err != nil {
		return nil, err
	}
	t := &Tree{Addresses: given, log: log, dir: dir, failed: make(chan error, 3), keepers: map[string]*supervise.Keeper{}}
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	start := func(wanted bool, f func() error) {
		if !wanted {
			return
		}
		wait.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				cancel()
			}
		})
	}
	keep := func(name, engine, listen string, address *string, args ...string) func() error {
		counter := restarts.WithLabelValues(engine)
		return func() error {
			keeper, err := supervise.Keep(starting, t.spec(cfg.Program, name, engine, listen, args, counter.Inc), log)
			if err != nil {
				return err
			}
			*address = keeper.Address()
			t.mu.Lock()
			t.keepers[name] = keeper
			t.mu.Unlock()
			go t.watch(keeper)
			return nil
		}
	}
	start(given.ClickHouse == "", keep("ClickHouse", "clickhouse", cfg.ClickHouseListen, &t.Addresses.ClickHouse, "--database", defaultDatabase))
	postgres := []string{"--database", defaultDatabase}
	if cfg.PostgresUser != "" {
		postgres = append(postgres, "--user", cfg.PostgresUser)
	}
	start(given.Postgres == "", keep("PostgreSQL", "postgres", cfg.PostgresListen, &t.Addresses.Postgres, postgres...))
	start(len(given.Kafka) == 0, func() error {
		broker, err := kafka.Start(starting, kafka.Config{
			Data: filepath.Join(dir.Path, "kafka"), Listen: cfg.KafkaListen, Topic: topic, Partitions: cfg.KafkaPartitions,
			Retention: cfg.KafkaRetention, RetentionBytes: cfg.KafkaRetentionBytes, Sync: cfg.KafkaSync,
		}, log)
		if err != nil {
			return err
		}
		t.broker, t.Addresses.Kafka = broker, strings.Split(broker.Addr(), ",")
		return nil
	})
	wait.Wait()
	if len(errs) > 0 {
		t.Stop(context.Background())
		// The first is the reason; others were cancelled because of it.
		for _, err := range errs {
			if !errors.Is(err, context.Canceled) {
				return nil, err
			}
		}
		return nil, errs[0]
	}
	return t, nil
}

// spec is the child process of an engine.
func (t *Tree) spec(program, name, engine, listen string, args []string, restarted func()) supervise.Spec {
	return supervise.Spec{
		Name: name,
		Command: func(address string) supervise.Command {
			at := listen
			if _, served, ok := strings.Cut(address, "127.0.0.1:"); ok {
				// The port that the kernel chose at the first start is handed out already.
				number, _, _ := strings.Cut(served, "/")
				at = "127.0.0.1:" + number
			}
			all := append([]string{"engine", engine, "--with-parent", "--data", filepath.Join(t.dir.Path, engine), "--listen", at}, args...)
			return supervise.Command{Path: program, Args: all, Errors: func(line string) { t.say(name, line) }}
		},
		Restarted: restarted,
	}
}

// say hands on a child's log line, at the level that the child gave it.
func (t *Tree) say(name, line string) {
	level, message := slog.LevelWarn, line
	if _, rest, ok := strings.Cut(line, " level="); ok {
		text, after, _ := strings.Cut(rest, " msg=")
		if level.UnmarshalText([]byte(text)) == nil {
			message = after
			if quoted, err := strconv.QuotedPrefix(after); err == nil {
				unquoted, _ := strconv.Unquote(quoted)
				message = unquoted + after[len(quoted):]
			}
		}
	}
	if level < slog.LevelWarn {
		level = slog.LevelDebug // what an engine says in passing would drown the services
	}
	t.log.Log(context.Background(), level, message, "engine", name)
}

func (t *Tree) watch(keeper *supervise.Keeper) {
	if err, ok := <-keeper.Failed(); ok {
		t.failed <- err
	}
}

// Data is the data directory, which is this process's until Stop.
func (t *Tree) Data() string { return t.dir.Path }

// Failed receives the reason when an engine kept dying and was given up: the standalone cannot go on.
func (t *Tree) Failed() <-chan error { return t.failed }

// Pid is the process id of a child, by its name ("ClickHouse", "PostgreSQL"), or 0.
func (t *Tree) Pid(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if keeper := t.keepers[name]; keeper != nil {
		return keeper.Pid()
	}
	return 0
}

// Stop ends the engines and gives the data directory back. What uses the engines must have ended before. When ctx ends, what
// still runs is killed; the engines' data is safe either way.
func (t *Tree) Stop(ctx context.Context) {
	var wait sync.WaitGroup
	t.mu.Lock()
	for _, keeper := range t.keepers {
		wait.Go(func() { keeper.Stop(ctx) })
	}
	t.mu.Unlock()
	if t.broker != nil {
		wait.Go(t.broker.Stop)
	}
	wait.Wait()
	if err := t.dir.Close(); err != nil {
		t.log.Warn("the data directory could not be given back", "error", err)
	}
}
