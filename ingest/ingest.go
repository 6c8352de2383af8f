// Package ingest brings events from Kafka into ClickHouse, each exactly once.
//
//	group ──assigns──▶ partition (take, read, skip, insert) ──▶ ClickHouse
//	  ▲                    │ reads topic, knows by presence what is there, decodes into columns, enriches,
//	  └──── commits ◀──────┘ holds the fence; what cannot be taken in goes to deadletter
//
// The packages are the nouns of that sentence; begin with package partition, which says how a partition is taken and why no event is
// lost or counted twice. What streams announce of themselves goes to announcements, and rollup is told by changed what to count.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/ingest/announcements"
	"spillway.dev/ingest/changed"
	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/deadletter"
	"spillway.dev/ingest/enrich"
	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/group"
	"spillway.dev/ingest/partition"
	"spillway.dev/ingest/table"
	"spillway.dev/ingest/topic"
	"spillway.dev/service/engines"
	"spillway.dev/service/lifecycle"
)

// Config says what is ingested and how. The zero value of a field means its default, where it has one.
type Config struct {
	Group         string        `name:"group" env:"SPILLWAY_INGEST_GROUP" default:"spillway" help:"Kafka consumer group."`
	Rewind        bool          `name:"rewind" env:"SPILLWAY_INGEST_REWIND" help:"Begin at the earliest offset, once: brings a ClickHouse that was restored from a backup to the last event. Always safe. Stop other ingests meanwhile, or start them with it too."`
	Rows          int           `name:"ingest-rows" env:"SPILLWAY_INGEST_ROWS" default:"400000" help:"Most rows of an insert, which only a backlog reaches."`
	Age           time.Duration `name:"ingest-age" env:"SPILLWAY_INGEST_AGE" default:"500ms" help:"Longest pause between two inserts of a partition while events come."`
	Answer        time.Duration `name:"ingest-answer" env:"SPILLWAY_INGEST_ANSWER" default:"60s" help:"After this time an insert counts as without an answer."`
	Linger        time.Duration `name:"ingest-linger" env:"SPILLWAY_INGEST_LINGER" default:"10s" help:"How long another owner's running insert is waited for before it is killed."`
	Settle        time.Duration `name:"ingest-settle" env:"SPILLWAY_INGEST_SETTLE" default:"1m" help:"How long announced events may be missing before Kafka is read again for them."`
	Blocks        int           `name:"ingest-blocks" env:"SPILLWAY_INGEST_BLOCKS" default:"0" help:"Blocks of rows that are filled and inserted at a time; each takes up to 120 MB when there is a backlog. 0: twice the number of CPUs."`
	CacheBytes    int           `name:"ingest-cache" env:"SPILLWAY_INGEST_CACHE" default:"8388608" help:"Bytes of remembered user agents, for each block."`
	FetchBytes    int32         `name:"ingest-fetch" env:"SPILLWAY_INGEST_FETCH" default:"2097152" help:"Bytes fetched at a time from a partition."`
	RetentionDays int           `name:"ingest-retention-days" env:"SPILLWAY_RETENTION_DAYS" default:"400" help:"Days that raw events are kept. Events of an older month are set aside. 0: keep all."`
	Session       time.Duration `name:"ingest-session" env:"SPILLWAY_INGEST_SESSION" default:"10s" help:"Silence after which the group takes an ingest for dead."`
	Discover      time.Duration `name:"ingest-discover" env:"SPILLWAY_INGEST_DISCOVER" default:"30s" help:"How often is looked for partitions that were added to the topic."`
}

// check returns an error with its cure.
func (c *Config) check() error {
	if c.Group == "" {
		c.Group = "spillway"
	}
	if c.RetentionDays == 0 {
		c.RetentionDays = math.MaxUint16 // keep all: more days than a date of ClickHouse counts
	}
	if c.Blocks <= 0 {
		c.Blocks = 2 * runtime.GOMAXPROCS(0)
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = 8 << 20
	}
	if c.FetchBytes <= 0 {
		c.FetchBytes = 2 << 20
	}
	switch {
	case c.Rows < 0 || c.Rows > 1_000_000:
		return fmt.Errorf("ingest: %d rows an insert: use 1 to 1000000 (SPILLWAY_INGEST_ROWS)", c.Rows)
	case c.Age < 0 || c.Age > time.Minute:
		return fmt.Errorf("ingest: a pause of %s between inserts: use 1ms to 1m (SPILLWAY_INGEST_AGE)", c.Age)
	case c.FetchBytes < 64<<10:
		return fmt.Errorf("ingest: %d bytes a fetch: use at least 65536 (SPILLWAY_INGEST_FETCH)", c.FetchBytes)
	case c.RetentionDays < 0:
		return fmt.Errorf("ingest: a retention of %d days: use 1 or more (SPILLWAY_RETENTION_DAYS)", c.RetentionDays)
	case c.Session != 0 && c.Session < 100*time.Millisecond:
		return fmt.Errorf("ingest: a session of %s: use at least 100ms (SPILLWAY_INGEST_SESSION)", c.Session)
	}
	return nil
}

// Ingest is the service.
type Ingest struct {
	config        Config
	addresses     engines.Addresses
	log           *slog.Logger
	table         *table.Table
	shards        *table.Shards
	topic         *topic.Topic
	letters       *deadletter.Box
	announcements *announcements.Writer
	hints         *changed.Hints
	group         *group.Group
}

// New checks the configuration and puts the service together. It does not wait for the engines.
func New(config Config, addresses engines.Addresses, log *slog.Logger, metrics prometheus.Registerer) (*Ingest, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if addresses.Topic == "" {
		addresses.Topic = "spillway.events"
	}
	kafka, err := addresses.KafkaOptions()
	if err != nil {
		return nil, err
	}
	rules, err := enrich.NewRules()
	if err != nil {
		return nil, err
	}
	i := &Ingest{config: config, addresses: addresses, log: log}
	if i.table, err = table.Open(addresses); err != nil {
		return nil, err
	}
	i.shards = table.NewShards(i.table)
	if i.topic, err = topic.Open(addresses.Topic, config.Group, config.FetchBytes, kafka...); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	if i.letters, err = deadletter.Open(addresses.DeadLetters(), log, metrics, kafka...); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	i.announcements = announcements.NewWriter(i.table, time.Second, log, metrics)
	i.hints = changed.New(i.table, log, metrics)
	owners := owners{
		parts: partition.Parts{
			Shards:        i.shards,
			Fence:         fence.New(i.table, config.Linger),
			Topic:         i.topic,
			Blocks:        columns.NewPool(config.Blocks, rules, config.CacheBytes),
			Announcements: i.announcements,
			Hints:         i.hints,
			Letters:       i.letters,
			Commit:        func(p int32, at topic.Commit) { i.group.Mark(p, at) },
			Metrics:       partition.NewMetrics(metrics),
			Log:           log,
		},
		options: partition.Options{
			Rows: config.Rows, Age: config.Age, Answer: config.Answer, Settle: config.Settle, RetentionDays: config.RetentionDays, Rewind: config.Rewind,
		},
		of: map[int32]*partition.Owner{},
	}
	i.group, err = group.New(config.Group, addresses.Topic, group.Options{Session: config.Session, Discover: config.Discover}, owners.own, log, kafka...)
	if err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// Close lets go of the connections. Run does so by itself.
func (i *Ingest) Close() error {
	if i.letters != nil {
		i.letters.Close()
	}
	if i.topic != nil {
		i.topic.Close()
	}
	return errors.Join(i.shards.Close(), i.table.Close())
}

// Ready says whether both engines answer.
func (i *Ingest) Ready(ctx context.Context) error {
	if err := i.topic.Ping(ctx); err != nil {
		return err
	}
	return i.table.Ping(ctx)
}

// Run ingests until ctx ends. It brings ClickHouse's tables to the newest version first, and waits for engines that are away.
func (i *Ingest) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, i.Close()) }()
	if !i.await(ctx, "ClickHouse", i.addresses.MigrateClickHouse) || !i.await(ctx, "Kafka", i.topic.Ping) {
		return nil
	}
	if err := i.letters.Create(ctx); err != nil && ctx.Err() == nil {
		i.log.Warn("make the topic yourself if the broker does not", "error", err)
	}
	return lifecycle.Run(ctx, i.log,
		lifecycle.Part{Name: "group", Run: i.group.Run, Grace: 15 * time.Second},
		lifecycle.Part{Name: "announcements", Run: i.announcements.Run},
		lifecycle.Part{Name: "hints", Run: i.hints.Run},
	)
}

// await tries until it succeeds. False: ctx has ended before.
func (i *Ingest) await(ctx context.Context, what string, try func(context.Context) error) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := try(limited)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		i.log.Warn("waiting for "+what, "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
