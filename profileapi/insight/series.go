package insight

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	schema "spillway.dev/schemas/clickhouse"
)

// Point is one bucket of a series.
type Point struct {
	Start  time.Time
	Views  int64
	Clicks int64
}

// Range is what a series is asked for.
type Range struct {
	// From and To bound the series in the profile's zone; it begins with the bucket that From is in and ends with the one before To.
	From, To time.Time
	Interval Interval
	Classes  []Class
}

// Series reads timelines from ClickHouse.
type Series struct {
	conn   driver.Conn
	layout schema.Layout
	// settings of every query. Tests add force_optimize_projection, which makes a query fail that would read raw events.
	settings clickhouse.Settings
}

// NewSeries returns a reader on conn.
func NewSeries(conn driver.Conn, layout schema.Layout) *Series {
	return &Series{conn: conn, layout: layout, settings: clickhouse.Settings{
		"max_execution_time": 10,
		// With either of them on, ClickHouse may read raw events instead of the projection.
		"optimize_aggregation_in_order": 0, "optimize_read_in_order": 0,
	}}
}

// day is a date as ClickHouse counts it: days since 1970-01-01.
type day int64

func dayOf(t time.Time) day {
	y, m, d := t.Date()
	return day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

// Read returns the buckets of the range, those without events too. Days that are closed come from the closed days, the others from
// the events' projection.
func (s *Series) Read(ctx context.Context, profile int64, r Range) ([]Point, error) {
	bounds, err := r.Interval.buckets(r.From, r.To)
	if err != nil {
		return nil, err
	}
	points := make([]Point, len(bounds)-1)
	for i := range points {
		points[i].Start = bounds[i]
	}
	if len(points) == 0 {
		return points, nil
	}
	from, to := bounds[0], bounds[len(bounds)-1]
	// An event's date is its local date in the zone that the profile had then; a day more on both sides covers every zone.
	first, last := dayOf(from.UTC())-1, dayOf(to.UTC())+1
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(s.settings))
	open, err := s.openDays(ctx, first, last)
	if err != nil {
		return nil, fmt.Errorf("read series of profile %d: %w", profile, err)
	}

	classes := quoted(r.Classes)
	starts := make([]string, len(points))
	index := make(map[int64]int, len(points))
	for i, p := range points {
		starts[i] = fmt.Sprint(p.Start.Unix())
		index[p.Start.Unix()] = i
	}
	// ClickHouse sums the quarter hours into the buckets; what comes back is a row a bucket and kind.
	bucket := func(quarter string) string {
		return "roundDown(toUInt32(" + quarter + "), [" + strings.Join(starts, ",") + "])"
	}
	where := func(quarter, days string) string {
		return fmt.Sprintf("profile_id = %d AND kind IN ('view', 'click') AND class IN (%s) AND %s AND toUInt32(%s) >= %d AND toUInt32(%[4]s) < %d",
			profile, classes, days, quarter, from.Unix(), to.Unix())
	}
	const quarter = "toStartOfFifteenMinutes(time)"
	closed := fmt.Sprintf("dimension = '' AND date BETWEEN toDate(%d) AND toDate(%d)", first, last)
	if len(open) > 0 {
		closed += " AND date NOT IN (" + dates(open) + ")"
	}
	query := "SELECT " + bucket("bucket") + " AS b, toInt8(kind) AS k, sum(events) AS n FROM " + s.layout.All("days") +
		" WHERE " + where("bucket", closed) + " GROUP BY b, k"
	if len(open) > 0 {
		query += " UNION ALL SELECT " + bucket(quarter) + " AS b, toInt8(kind) AS k, count() AS n FROM " + s.layout.All("events") +
			" WHERE " + where(quarter, "date IN ("+dates(open)+")") + " GROUP BY b, k"
	}
	rows, err := s.conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read series of profile %d: %w", profile, err)
	}
	defer rows.Close()
	for rows.Next() {
		var start uint32
		var kind int8
		var n uint64
		if err := rows.Scan(&start, &kind, &n); err != nil {
			return nil, fmt.Errorf("read series of profile %d: %w", profile, err)
		}
		i, ok := index[int64(start)]
		switch {
		case !ok:
			return nil, fmt.Errorf("read series of profile %d: a bucket at %d that was not asked for", profile, start)
		case kind == 1:
			points[i].Views += int64(n)
		default:
			points[i].Clicks += int64(n)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read series of profile %d: %w", profile, err)
	}
	return points, nil
}

// openDays returns the days from first to last that are not closed. A day is listed as closed only after its rows are in place, so
// whoever reads the list first and the days next counts each event once.
func (s *Series) openDays(ctx context.Context, first, last day) ([]day, error) {
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT toInt64(toUInt16(date)) FROM %s WHERE date BETWEEN toDate(%d) AND toDate(%d)",
		s.layout.All("closed_days"), first, last))
	if err != nil {
		return nil, fmt.Errorf("list closed days: %w", err)
	}
	defer rows.Close()
	closed := map[day]bool{}
	for rows.Next() {
		var d int64
		if err := rows.Scan(&d); err != nil {
			return nil, fmt.Errorf("list closed days: %w", err)
		}
		closed[day(d)] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list closed days: %w", err)
	}
	var open []day
	for d := first; d <= last; d++ {
		if !closed[d] {
			open = append(open, d)
		}
	}
	return open, nil
}

func dates(days []day) string {
	list := make([]string, len(days))
	for i, d := range days {
		list[i] = fmt.Sprintf("toDate(%d)", d)
	}
	return strings.Join(list, ",")
}

func quoted(classes []Class) string {
	list := make([]string, len(classes))
	for i, c := range classes {
		list[i] = "'" + string(c) + "'" // only values of Classes(), which the caller checked
	}
	return strings.Join(list, ",")
}
