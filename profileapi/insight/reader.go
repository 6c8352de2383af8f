package insight

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"

	schema "spillway.dev/schemas/clickhouse"
)

// Reader answers questions about ranges of time.
type Reader struct {
	conn   driver.Conn
	pool   *pgxpool.Pool
	layout schema.Layout
	// settings of every query. Tests add force_optimize_projection, which makes a query fail that would read raw events.
	settings clickhouse.Settings
	memory   memory
}

// NewReader returns a reader of ClickHouse through conn. From pool it reads which months' events are deleted.
func NewReader(conn driver.Conn, pool *pgxpool.Pool, layout schema.Layout) *Reader {
	return &Reader{conn: conn, pool: pool, layout: layout, settings: clickhouse.Settings{
		"max_execution_time": 10,
		// With either of them on, ClickHouse may read raw events instead of the projection.
		"optimize_aggregation_in_order": 0, "optimize_read_in_order": 0,
	}}
}

// each runs a query and calls f after each row was scanned.
func (r *Reader) each(ctx context.Context, query string, into []any, f func() error) error {
	rows, err := r.conn.Query(clickhouse.Context(ctx, clickhouse.WithSettings(r.settings)), query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Question is what is asked about a profile.
type Question struct {
	Profile int64
	// From and To bound the time: quarter hours, From included, To not.
	From, To time.Time
	Filters  Filters
	// Hide is a User-Agent whose events List leaves out; empty: none. Numbers count them.
	Hide string
	// outlook is shared by the questions of one report about the same time; nil: this one is asked alone.
	outlook *outlook
}

// alone gives a question an outlook of its own if it has none.
func (q *Question) alone() {
	if q.outlook == nil {
		q.outlook = &outlook{}
	}
}

// Source says what an answer was read from.
type Source string

// The sources.
const (
	// Aggregates are closed days and the projections of open ones: their cost does not depend on how many events there were.
	Aggregates Source = "aggregates"
	// Events are single events, which are deleted after a while.
	Events Source = "events"
)

// cell is one sum.
type cell struct {
	dimension string
	key       string
	kind      int8 // 1 view, 2 click, 3 distinct daily viewers
	class     Class
	page      bool // on the profile's page; only known where knowsPage
	events    uint64
}

const (
	kindView    = 1
	kindViewers = 3
)

// panel is what cells are told apart by.
type panel struct {
	dimension Dimension   // or empty
	starts    []time.Time // or nil: buckets by their starts
	viewers   bool        // distinct daily viewers too, where the dimension is not of the series, which do not know them
}

func (p panel) inSeries() bool { return p.dimension == "" || p.dimension.inSeries() }

// key is the SQL for a cell's key, quarter being the expression of the quarter hour.
func (p panel) key(quarter string) string {
	switch {
	case p.starts != nil:
		starts := make([]string, len(p.starts))
		for i, s := range p.starts {
			starts[i] = strconv.FormatInt(s.Unix(), 10)
		}
		return "toString(roundDown(toUInt32(" + quarter + "), [" + strings.Join(starts, ",") + "]))"
	case p.dimension != "":
		return p.dimension.value()
	}
	return "''"
}

// count adds up events by panel, kind and class, all panels at once. What can be read from aggregates is; the source says whether
// all of it was.
func (r *Reader) count(ctx context.Context, q Question, panels []panel) (cells []cell, source Source, err error) {
	d, err := r.daysFor(ctx, q)
	if err != nil {
		return nil, "", err
	}
	source = Aggregates
	var parts []string
	var cutting []panel // panels of whole days, for which the ends of the range matter
	var single []panel  // panels of single events
	for _, p := range panels {
		switch {
		case p.inSeries() && q.Filters.inSeries():
			whole, byQuarter := d.wholeIn(p.starts)
			for _, date := range whole {
				cells = d.closed[date].cells(cells, p, q.Filters)
			}
			parts = append(parts, r.series(q, byQuarter, d.open, p)...)
		case whole(p, q.Filters) != "":
			cutting = append(cutting, p)
		default:
			source = Events
			if len(d.open) < int(d.last-d.first)+1 {
				// An open day has its events; a closed one may have lost them.
				var all []day
				for date := d.first; date <= d.last; date++ {
					all = append(all, date)
				}
				if err := r.retained(ctx, all); err != nil {
					return nil, "", err
				}
			}
			single = append(single, p)
		}
	}
	if len(single) > 0 {
		parts = append(parts, r.raw(q, fmt.Sprintf("date BETWEEN toDate(%d) AND toDate(%d)", d.first, d.last), single)...)
	}
	if len(cutting) > 0 {
		s, err := r.splitOf(ctx, q.Profile, d)
		if err != nil {
			return nil, "", err
		}
		if err := r.unfold(ctx, q, &s); err != nil {
			return nil, "", err
		}
		var closedCut []day
		for _, date := range s.cut {
			if !contains(d.open, date) {
				closedCut = append(closedCut, date)
			}
		}
		if err := r.retained(ctx, closedCut); err != nil {
			return nil, "", err
		}
		if some := append(append([]day{}, s.open...), s.cut...); len(some) > 0 {
			parts = append(parts, r.raw(q, "date IN ("+dates(some)+")", cutting)...)
		}
		if len(s.whole) > 0 {
			of, err := r.kept(ctx, q, s.whole, cutting)
			if err != nil {
				return nil, "", err
			}
			cells = append(cells, of...)
		}
	}
	if len(parts) == 0 {
		return cells, source, nil
	}
	var c cell
	var class string
	err = r.each(ctx, strings.Join(parts, " UNION ALL "), []any{&c.dimension, &c.key, &c.kind, &class, &c.page, &c.events}, func() error {
		c.class = Class(class)
		cells = append(cells, c)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return cells, source, nil
}

func contains(list []day, d day) bool {
	for _, have := range list {
		if have == d {
			return true
		}
	}
	return false
}

// atOnce ends a SELECT that reads a granule or two of each part: all columns at once. To read those of the condition first, and then those of the rows
// that it lets pass, ClickHouse weighs conditions by the statistics of every column of each part, which can be half of the work.
const atOnce = " SETTINGS optimize_move_to_prewhere = 0"

const quarter = "toStartOfFifteenMinutes(time)"

// series reads a panel by the quarter hour, from closed days and from the projection of open ones.
func (r *Reader) series(q Question, closed, open []day, p panel) (parts []string) {
	one := func(table, at, events, where string, list []day) {
		if len(list) == 0 {
			return
		}
		parts = append(parts, fmt.Sprintf(`SELECT %s AS d, %s AS k, toInt8(kind) AS i, toString(class) AS c, surface = 'page' AS p, %s AS n FROM %s
			WHERE profile_id = %d AND kind IN ('view', 'click') AND %sdate IN (%s) AND toUInt32(%s) >= %d AND toUInt32(%[8]s) < %[10]d%s GROUP BY k, i, c, p%s`,
			literal(string(p.dimension)), p.key(at), events, r.layout.All(table), q.Profile, where, dates(list), at, q.From.Unix(), q.To.Unix(), q.Filters.condition(), atOnce))
	}
	one("days", "bucket", "sum(events)", "dimension = '' AND ", closed)
	one("events", quarter, "count()", "", open)
	return parts
}

// raw reads panels from single events, which it reads once for all of those that are told apart by a dimension.
func (r *Reader) raw(q Question, where string, panels []panel) []string {
	from := func(join string) string {
		return fmt.Sprintf("FROM %s%s WHERE profile_id = %d AND %s AND time >= toDateTime64(%d, 6, 'UTC') AND time < toDateTime64(%d, 6, 'UTC')%s",
			r.layout.All("events"), join, q.Profile, where, q.From.Unix(), q.To.Unix(), q.Filters.condition())
	}
	const cells = "toInt8(kind) AS i, toString(class) AS c, surface = 'page' AS p, count() AS n"
	const seen = "AND kind IN ('view', 'click') GROUP BY"
	var parts, words, viewed []string
	for _, p := range panels {
		if p.dimension == "" {
			parts = append(parts, fmt.Sprintf("SELECT '' AS d, %s AS k, %s %s %s k, i, c, p", p.key(quarter), cells, from(""), seen))
			continue
		}
		word := fmt.Sprintf("(%s, %s)", literal(string(p.dimension)), p.key(quarter))
		words = append(words, word)
		if p.viewers && !p.inSeries() {
			viewed = append(viewed, word)
		}
	}
	if len(words) > 0 {
		parts = append(parts, fmt.Sprintf("SELECT word.1 AS d, word.2 AS k, %s %s %s d, k, i, c, p", cells, from(" ARRAY JOIN ["+strings.Join(words, ",")+"] AS word"), seen))
	}
	if len(viewed) > 0 {
		// A visitor id is of one date, so days are counted one by one and added up.
		parts = append(parts, fmt.Sprintf(`SELECT d, k, toInt8(%d) AS i, c, 0 = 1 AS p, sum(u) AS n FROM (SELECT date, word.1 AS d, word.2 AS k, toString(class) AS c, uniqExact(visitor) AS u %s
			AND kind = 'view' GROUP BY date, d, k, c) GROUP BY d, k, c`, kindViewers, from(" ARRAY JOIN ["+strings.Join(viewed, ",")+"] AS word")))
	}
	return parts
}

// whole returns the panel of closed days that answers p under the filters, or "" if there is none: each of them tells apart the values
// of one dimension and the links.
func whole(p panel, f Filters) Dimension {
	if p.starts != nil {
		return ""
	}
	dimension := p.dimension
	if dimension == ByLink {
		dimension = ""
	}
	for _, one := range f.without(ByLink) {
		if dimension != "" && one.Dimension != dimension {
			return ""
		}
		dimension = one.Dimension
	}
	return dimension
}

// values are what f asks of d; nil: it does not ask for any.
func (f Filters) values(d Dimension) []string {
	for _, one := range f.only(d) {
		return one.Values
	}
	return nil
}

func (f Filters) only(d Dimension) Filters {
	for _, one := range f {
		if one.Dimension == d {
			return Filters{one}
		}
	}
	return nil
}
