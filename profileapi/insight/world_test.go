package insight

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// world has engines with Spillway's tables and puts events into them, as ingest does, and closes days, as rollup does.
type world struct {
	*Reader
	t        testing.TB
	conn     driver.Conn
	pool     *pgxpool.Pool
	layout   schema.Layout
	sequence uint64
	// everyPanel closes days as they were closed once, with rows of columns in which nothing is set.
	everyPanel bool
}

// happened is an event.
type happened struct {
	time             time.Time
	date             day
	click            bool
	class            Class
	profile          int64
	link             uint64
	visitor          uint64
	surface          string
	country, channel string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	where := engines.Addresses{ClickHouse: enginetest.ClickHouse(t), Database: enginetest.Postgres(t)}
	ctx := t.Context()
	require.NoError(t, where.MigrateClickHouse(ctx))
	require.NoError(t, postgres.Migrate(ctx, where.Database))
	pool, err := where.OpenPostgres(ctx, 8)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	w := &world{Reader: NewReader(conn, pool, layout), t: t, conn: conn, pool: pool, layout: layout}
	w.run("INSERT INTO " + layout.Local("terms") + " VALUES (0, 1)")
	return w
}

func (w *world) run(statement string) {
	w.t.Helper()
	require.NoError(w.t, w.conn.Exec(w.t.Context(), statement), statement)
}

func (w *world) insert(events ...happened) {
	w.t.Helper()
	batch, err := w.conn.PrepareBatch(w.t.Context(), "INSERT INTO "+w.layout.Local("events")+
		" (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, link_id, visitor, surface, country, channel)")
	require.NoError(w.t, err)
	for _, e := range events {
		w.sequence++
		kind := "view"
		if e.click {
			kind = "click"
		}
		require.NoError(w.t, batch.Append(uint64(7), uint32(0), w.sequence, w.sequence, uint64(1), e.time, e.date.time(), kind, string(e.class), uint64(e.profile), e.link,
			e.visitor, e.surface, e.country, e.channel))
	}
	require.NoError(w.t, batch.Send())
}

// mostKept is how many values of a dimension a closed day of a world keeps of a profile.
const mostKept = 3

// close writes what rollup writes about a day (rollup/day), in the words of schemas/clickhouse/migrations/0002_days.sql.
func (w *world) close(date day) {
	w.t.Helper()
	from := fmt.Sprintf(" FROM %s WHERE date = toDate(%d) GROUP BY date, profile_id, class", w.layout.Local("events"), date)
	const none = "'unknown', toDateTime(0, 'UTC')"
	panels := []string{
		"SELECT date, profile_id, '', '', kind, class, link_id, surface, toStartOfFifteenMinutes(time), count(), 0" + from + ", kind, link_id, surface, toStartOfFifteenMinutes(time)",
		"SELECT date, profile_id, 'visitors', '', kind, class, 0, " + none + ", count(), uniqExact(visitor)" + from + ", kind",
		"SELECT date, profile_id, 'visitors', '', 'unknown', class, 0, " + none + ", count(), uniqExact(visitor)" + from,
	}
	panels = append(panels, "SELECT date, profile_id, 'link', '', kind, class, link_id, 'unknown', min(toStartOfFifteenMinutes(time)), count(), uniqExact(visitor)"+from+", kind, link_id")
	for _, d := range Dimensions() {
		if d == ByLink {
			continue
		}
		// A column that is unset in all of a profile's events has no rows; days that were closed earlier have them all the same.
		of, bucket := from, none
		if d == BySurface && !w.everyPanel {
			bucket = "'unknown', max(toStartOfFifteenMinutes(time))"
		}
		if d != BySurface && !w.everyPanel {
			of = fmt.Sprintf(" FROM %[1]s WHERE date = toDate(%[2]d) AND profile_id IN (SELECT profile_id FROM %[1]s WHERE date = toDate(%[2]d) AND toString(%[3]s) != '%[4]s') GROUP BY date, profile_id, class",
				w.layout.Local("events"), date, d, d.unset())
		}
		panels = append(panels, strings.ReplaceAll(fmt.Sprintf(`SELECT date, profile_id, '@', if((profile_id, toString(@)) IN (SELECT profile_id, word FROM (
			SELECT profile_id, toString(@) AS word, countIf(class = 'person') AS people, count() AS n FROM %s WHERE date = toDate(%d) GROUP BY profile_id, word
			ORDER BY profile_id, people DESC, n DESC, word LIMIT %d BY profile_id)), toString(@), '%s') AS v, kind, class, link_id, `,
			w.layout.Local("events"), date, mostKept, Rest)+bucket+", count(), uniqExact(visitor)", "@", string(d))+of+", kind, link_id, v")
	}
	for _, p := range panels {
		w.run("INSERT INTO " + w.layout.Local("days") + " (date, profile_id, dimension, value, kind, class, link_id, surface, bucket, events, visitors) " + p)
	}
	w.run(fmt.Sprintf("INSERT INTO %s (date, events, closed_at) SELECT toDate(%d), count(), now64(3) FROM %s WHERE date = toDate(%[2]d)", w.layout.Local("closed_days"), date, w.layout.Local("events")))
}
