// Package clickhouse holds the schema of Spillway's ClickHouse database and brings a server to it: the table of events with its
// fence and projections, what streams announced, closed days.
//
// A migration that has landed is never edited; a column is added with a default and never changes its meaning
// (docs/decisions/0002-evolving-the-schemas.md).
package clickhouse

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"testing/fstest"
	"text/template"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var files embed.FS

// Layout says where the tables are and of which kind.
type Layout struct {
	// Database is the ClickHouse database; default "spillway".
	Database string
	// Cluster is the name of a ClickHouse cluster as in its remote_servers. Empty: one server, no replication. Otherwise every table is
	// made on all nodes and replicated within its shard, and terms live in Keeper, where they are linearizable.
	Cluster string
}

var name = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func (l Layout) check() error {
	if !name.MatchString(l.Database) {
		return fmt.Errorf("ClickHouse database %q: use letters, digits and _ only", l.Database)
	}
	if l.Cluster != "" && !name.MatchString(l.Cluster) {
		return fmt.Errorf("ClickHouse cluster %q: use letters, digits and _ only", l.Cluster)
	}
	return nil
}

// OnCluster is the clause of a DDL statement that runs it on all nodes.
func (l Layout) OnCluster() string {
	if l.Cluster == "" {
		return ""
	}
	return "ON CLUSTER " + l.Cluster
}

// TermsEngine is the engine of the table of terms. A Join table is read by joinGet at once and keeps nothing over a restart;
// a cluster needs terms that all replicas agree on, which KeeperMap gives.
func (l Layout) TermsEngine() string {
	if l.Cluster == "" {
		return "ENGINE = Join(any, left, partition) SETTINGS join_any_take_last_row = 1, persistent = 0"
	}
	return "ENGINE = KeeperMap('/spillway/" + l.Database + "/terms') PRIMARY KEY partition"
}

// CurrentTerm is the expression by which the constraint of events reads the term of the row's partition at its source; zero where
// there is none.
func (l Layout) CurrentTerm() string {
	if l.Cluster == "" {
		return "joinGet('" + l.Database + ".terms', 'term', partition)"
	}
	return "dictGetOrDefault('" + l.Database + ".current_terms', 'term', toUInt64(partition), toUInt64(0))"
}

// All names what a query reads to see the rows of every shard.
func (l Layout) All(table string) string {
	if l.Cluster == "" {
		return l.Database + "." + table
	}
	return l.Database + "." + table + "_all"
}

// Local names what is written: the table on the node that is asked.
func (l Layout) Local(table string) string { return l.Database + "." + table }

// MergeTree is the engine of a table of rows.
func (l Layout) MergeTree(table string) string { return l.engine("", table, "") }

// AggregatingMergeTree is the engine of a table whose rows of one key are aggregated.
func (l Layout) AggregatingMergeTree(table string) string { return l.engine("Aggregating", table, "") }

// ReplacingMergeTree is the engine of a table of which the row with the highest version counts.
func (l Layout) ReplacingMergeTree(table, version string) string {
	return l.engine("Replacing", table, version)
}

func (l Layout) engine(variant, table, argument string) string {
	if l.Cluster == "" {
		return variant + "MergeTree(" + argument + ")"
	}
	path := "'/clickhouse/tables/{shard}/" + l.Database + "/" + table + "', '{replica}'"
	if argument != "" {
		path += ", " + argument
	}
	return "Replicated" + variant + "MergeTree(" + path + ")"
}

// NoDeduplication is the setting that keeps a replicated table from dropping a block that looks like an older one: the fence
// and the sequences decide what is written, nothing else.
func (l Layout) NoDeduplication() string {
	if l.Cluster == "" {
		return "non_replicated_deduplication_window = 0"
	}
	return "replicated_deduplication_window = 0, replicated_deduplication_window_for_async_inserts = 0"
}

// Migrations returns the files that goose runs, written for this layout.
func (l Layout) Migrations() (fs.FS, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	all, err := template.ParseFS(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("ClickHouse migrations: %w", err)
	}
	written := fstest.MapFS{} // an in-memory file system is what goose reads; the standard library's stands in this package
	for _, t := range all.Templates() {
		var b bytes.Buffer
		if err := t.Execute(&b, l); err != nil {
			return nil, fmt.Errorf("ClickHouse migration %s: %w", t.Name(), err)
		}
		written[t.Name()] = &fstest.MapFile{Data: b.Bytes(), Mode: 0o444}
	}
	return written, nil
}

// Migrate makes the database if it is not there and brings it to the newest version. db talks to the server with any database
// selected. Every statement is one that may be repeated, so two processes that migrate at once do no harm.
func Migrate(ctx context.Context, db *sql.DB, l Layout) error {
	migrations, err := l.Migrations()
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS "+l.Database+" "+l.OnCluster()); err != nil {
		return fmt.Errorf("make ClickHouse database %s: %w", l.Database, err)
	}
	provider, err := goose.NewProvider(goose.DialectClickHouse, db, migrations, goose.WithTableName(l.Database+".schema_versions"))
	if err != nil {
		return fmt.Errorf("migrate ClickHouse: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate ClickHouse: %w", err)
	}
	return nil
}
