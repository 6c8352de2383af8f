// Package engines says where Kafka, ClickHouse and PostgreSQL are and opens them the way every service needs them: nothing below
// repeats an insert by itself, and nothing waits for ever.
package engines

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	schema "spillway.dev/schemas/clickhouse"
)

// Addresses of the three engines. An empty one means that it is not used, or that the standalone embeds it.
type Addresses struct {
	Kafka      []string `name:"kafka-brokers" env:"KAFKA_BROKERS" sep:"," placeholder:"HOST:PORT" help:"Kafka or Redpanda brokers."`
	ClickHouse string   `name:"clickhouse-url" env:"CLICKHOUSE_URL" placeholder:"http://USER:PASSWORD@HOST:PORT/DATABASE" help:"ClickHouse's HTTP interface."`
	Cluster    string   `name:"clickhouse-cluster" env:"SPILLWAY_CLICKHOUSE_CLUSTER" help:"Name of the ClickHouse cluster on which the tables are replicated and sharded. Empty: a single server."`
	Database   string   `name:"database-url" env:"DATABASE_URL" placeholder:"postgres://USER:PASSWORD@HOST:PORT/DATABASE" help:"PostgreSQL."`
	Topic      string   `name:"topic" env:"SPILLWAY_TOPIC" default:"spillway.events" help:"Kafka topic of the events."`
}

// DeadLetters is the topic of records that could not be taken in.
func (a Addresses) DeadLetters() string { return a.Topic + ".dead" }

// ErrNoAddress is wrapped by what is returned when an address is missing.
var ErrNoAddress = errors.New("no address")

// KafkaOptions are the options that all Kafka clients share.
func (a Addresses) KafkaOptions() ([]kgo.Opt, error) {
	if len(a.Kafka) == 0 {
		return nil, fmt.Errorf("Kafka: %w: set KAFKA_BROKERS, or use 'spillway run', which embeds a broker", ErrNoAddress)
	}
	return []kgo.Opt{kgo.SeedBrokers(a.Kafka...), kgo.ClientID("spillway"), kgo.DialTimeout(5 * time.Second)}, nil
}

// OpenPostgres returns a pool. It does not wait for the server: a query says when it is away.
func (a Addresses) OpenPostgres(ctx context.Context, connections int32) (*pgxpool.Pool, error) {
	if a.Database == "" {
		return nil, fmt.Errorf("PostgreSQL: %w: set DATABASE_URL, or use 'spillway run', which embeds a server", ErrNoAddress)
	}
	config, err := pgxpool.ParseConfig(a.Database)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL is not postgres://USER:PASSWORD@HOST:PORT/DATABASE: %w", err)
	}
	config.MaxConns = connections
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.ConnConfig.RuntimeParams["application_name"] = "spillway"
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// A question that nobody waits for any more ends at the server too. An older server, or one on another system than Linux, cannot: that is no
		// reason to have no connection.
		_, err := conn.Exec(ctx, "SET client_connection_check_interval = '2s'")
		var refused *pgconn.PgError
		if errors.As(err, &refused) {
			return nil
		}
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	return pool, nil
}

// ClickHouseOptions are the options of clickhouse-go for CLICKHOUSE_URL, and the layout of the tables there. Its database/sql
// driver repeats a statement when it believes the connection to be bad, so inserts use clickhouse.Open and its native API.
func (a Addresses) ClickHouseOptions() (*clickhouse.Options, schema.Layout, error) {
	layout := schema.Layout{Cluster: a.Cluster}
	if a.ClickHouse == "" {
		return nil, layout, fmt.Errorf("ClickHouse: %w: set CLICKHOUSE_URL, or use 'spillway run', which embeds the engine", ErrNoAddress)
	}
	const form = "http://USER:PASSWORD@HOST:PORT/DATABASE"
	u, err := url.Parse(a.ClickHouse)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, layout, fmt.Errorf("CLICKHOUSE_URL is not %s", form)
	}
	options, err := clickhouse.ParseDSN(a.ClickHouse)
	if err != nil {
		return nil, layout, fmt.Errorf("CLICKHOUSE_URL is not %s: %w", form, err)
	}
	layout.Database = strings.Trim(u.Path, "/")
	if layout.Database == "" {
		layout.Database = "spillway"
	}
	options.Auth.Database = layout.Database
	options.DialTimeout = 5 * time.Second
	return options, layout, nil
}

// MigrateClickHouse makes the database and brings its tables to the newest version.
func (a Addresses) MigrateClickHouse(ctx context.Context) error {
	options, layout, err := a.ClickHouseOptions()
	if err != nil {
		return err
	}
	options.Auth.Database = "default" // the layout's database may not be there yet
	db := clickhouse.OpenDB(options)
	defer db.Close()
	return schema.Migrate(ctx, db, layout)
}
