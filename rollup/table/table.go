// Package table is how rollup's rooms ask ClickHouse: which database, which settings, and what a date is in a query.
package table

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	schema "spillway.dev/schemas/clickhouse"
)

// Tables are the tables of one ClickHouse database.
//
// On a cluster all rollups must be pointed at the same shard: closed days are kept there, and read through Distributed tables.
type Tables struct {
	schema.Layout
	conn     driver.Conn
	settings clickhouse.Settings
}

// New returns the tables that conn reaches.
func New(conn driver.Conn, layout schema.Layout) *Tables {
	return &Tables{Layout: layout, conn: conn, settings: clickhouse.Settings{
		// With either of them on, ClickHouse may read raw events where a projection has the answer.
		"optimize_aggregation_in_order": 0, "optimize_read_in_order": 0,
		// A list of a few thousand ids is part of the query.
		"max_query_size": 4 << 20, "max_ast_elements": 500_000, "max_expanded_ast_elements": 1_000_000,
	}}
}

// With returns the same tables, asked with one setting more.
func (t *Tables) With(name string, value any) *Tables {
	settings := clickhouse.Settings{name: value}
	for n, v := range t.settings {
		if n != name {
			settings[n] = v
		}
	}
	return &Tables{Layout: t.Layout, conn: t.conn, settings: settings}
}

func (t *Tables) context(ctx context.Context) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(t.settings))
}

// Exec runs a statement. It is sent once: nothing below repeats it.
func (t *Tables) Exec(ctx context.Context, statement string) error {
	return t.conn.Exec(t.context(ctx), statement)
}

// Row reads the one row of a query's answer.
func (t *Tables) Row(ctx context.Context, query string, into ...any) error {
	return t.conn.QueryRow(t.context(ctx), query).Scan(into...)
}

// Each calls scanned after each row of a query's answer was read into the destinations.
func (t *Tables) Each(ctx context.Context, query string, into []any, scanned func() error) error {
	rows, err := t.conn.Query(t.context(ctx), query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := scanned(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Batch begins an INSERT of rows.
func (t *Tables) Batch(ctx context.Context, statement string) (driver.Batch, error) {
	return t.conn.PrepareBatch(t.context(ctx), statement)
}

// System names one of ClickHouse's own tables, of all its nodes.
func (t *Tables) System(name string) string {
	if t.Cluster == "" {
		return "system." + name
	}
	return "clusterAllReplicas('" + t.Cluster + "', system." + name + ")"
}

// Date is a day as ClickHouse counts it: days since 1970-01-01.
type Date uint16

// DateOf returns the date of t in UTC.
func DateOf(t time.Time) Date { return Date(t.Unix() / 86400) }

// Time returns the date's midnight in UTC.
func (d Date) Time() time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

func (d Date) String() string { return d.Time().Format(time.DateOnly) }

// Literal is the date in a query.
func (d Date) Literal() string { return "toDate(" + strconv.Itoa(int(d)) + ")" }

// Dates are dates in a query: what stands in parentheses after IN.
func Dates(dates []Date) string {
	var b strings.Builder
	for i, d := range dates {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(d.Literal())
	}
	return b.String()
}

// Numbers are numbers in a query.
func Numbers(numbers []uint64) string {
	b := make([]byte, 0, 8*len(numbers))
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, n, 10)
	}
	return string(b)
}

// Time is a moment in a query, as the column type DateTime64(6, 'UTC').
func Time(t time.Time) string {
	return fmt.Sprintf("fromUnixTimestamp64Micro(%d, 'UTC')", t.UnixMicro())
}
