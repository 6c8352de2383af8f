// Package eventtest gives rollup's tests real engines with Spillway's tables, and puts events into them as ingest does.
package eventtest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/table"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// Engines are a fresh database of each kind.
type Engines struct {
	*table.Tables
	Pool      *pgxpool.Pool
	Addresses engines.Addresses

	t      testing.TB
	stream uint64
	last   atomic.Uint64
}

// New migrates fresh databases. It needs bin/spillway (`make build`).
func New(t testing.TB) *Engines {
	t.Helper()
	e := &Engines{t: t, stream: 0x5eed, Addresses: engines.Addresses{ClickHouse: enginetest.ClickHouse(t), Database: enginetest.Postgres(t)}}
	ctx := t.Context()
	require.NoError(t, e.Addresses.MigrateClickHouse(ctx))
	require.NoError(t, postgres.Migrate(ctx, e.Addresses.Database))
	var err error
	e.Pool, err = e.Addresses.OpenPostgres(ctx, 8)
	require.NoError(t, err)
	t.Cleanup(e.Pool.Close)
	options, layout, err := e.Addresses.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	e.Tables = table.New(conn, layout)
	for partition := range uint32(4) {
		e.Run("INSERT INTO " + layout.Local("terms") + " VALUES (" + table.Numbers([]uint64{uint64(partition)}) + ", 1)")
	}
	return e
}

// Run runs a statement that must succeed.
func (e *Engines) Run(statement string) {
	e.t.Helper()
	require.NoError(e.t, e.Exec(context.Background(), statement))
}

// Number is the answer of a query that has one number.
func (e *Engines) Number(query string) uint64 {
	e.t.Helper()
	var n uint64
	require.NoError(e.t, e.Row(context.Background(), "SELECT toUInt64(("+query+"))", &n))
	return n
}

// Event is a row of events; what is zero gets a plain value.
type Event struct {
	Stream    uint64
	Partition uint32
	Sequence  uint64 // zero: the next of the stream that all events without a stream belong to
	Time      time.Time
	Date      table.Date // zero: the UTC date of Time
	Kind      string     // "view" or "click"; empty: "view", or "click" where there is a link
	Class     string     // empty: "person"
	Profile   uint64
	Link      uint64
	Visitor   uint64
	Surface   string // empty: "page"
	Country   string
	Referrer  string // referrer_host
	Agent     string // user_agent
	Reason    string
}

// Insert puts events into the table and tells rollup of them, in that order, as ingest does.
func (e *Engines) Insert(events ...Event) {
	e.t.Helper()
	ctx := context.Background()
	batch, err := e.Batch(ctx, "INSERT INTO "+e.Local("events")+" (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, link_id, visitor, surface, country, referrer_host, user_agent, reason)")
	require.NoError(e.t, err)
	hints, err := e.Batch(ctx, "INSERT INTO "+e.Local("changed")+" (profile_id, date)")
	require.NoError(e.t, err)
	for _, v := range events {
		if v.Stream == 0 {
			v.Stream = e.stream
		}
		if v.Sequence == 0 {
			v.Sequence = e.last.Add(1)
		}
		if v.Date == 0 {
			v.Date = table.DateOf(v.Time)
		}
		if v.Kind == "" {
			v.Kind = "view"
			if v.Link != 0 {
				v.Kind = "click"
			}
		}
		if v.Class == "" {
			v.Class = "person"
		}
		if v.Surface == "" {
			v.Surface = "page"
		}
		require.NoError(e.t, batch.Append(v.Stream, v.Partition, v.Sequence, v.Sequence, uint64(1), v.Time, v.Date.Time(), v.Kind, v.Class, v.Profile, v.Link,
			v.Visitor, v.Surface, v.Country, v.Referrer, v.Agent, v.Reason))
		require.NoError(e.t, hints.Append(v.Profile, v.Date.Time()))
	}
	require.NoError(e.t, batch.Send())
	require.NoError(e.t, hints.Send())
}

// Announce says of a stream's partition what its shipper says.
func (e *Engines) Announce(a Announcement) {
	e.t.Helper()
	batch, err := e.Batch(context.Background(), "INSERT INTO "+e.Local("announcements")+
		" (partition, stream, time, journaled, unreadable, dropped, dropped_since, dropped_until, final, began, origin, partitions, run)")
	require.NoError(e.t, err)
	unreadable := [][]any{}
	for _, r := range a.Unreadable {
		unreadable = append(unreadable, []any{r[0], r[1]})
	}
	if a.Partitions == 0 {
		a.Partitions = 1
	}
	var final uint8
	if a.Final {
		final = 1
	}
	require.NoError(e.t, batch.Append(a.Partition, a.Stream, a.Time, a.Journaled, unreadable, a.Dropped, a.DroppedSince, a.DroppedUntil, final, a.Began, a.Origin,
		a.Partitions, uint32(1)))
	require.NoError(e.t, batch.Send())
}

// Announcement is a row of announcements.
type Announcement struct {
	Partition                  uint32
	Stream                     uint64
	Time                       time.Time
	Journaled                  uint64
	Unreadable                 [][2]uint64
	Dropped                    uint64
	DroppedSince, DroppedUntil time.Time
	Final                      bool
	Began                      time.Time
	Origin                     string
	Partitions                 uint32 // zero: 1
}
