package insight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// day is a date as ClickHouse counts it: days since 1970-01-01.
type day int64

func dayOf(t time.Time) day {
	y, m, d := t.Date()
	return day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

func (d day) time() time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// A date begins where the clock is ahead of UTC by 14 hours and ends where it is behind by 12.
const (
	earliest = -14 * time.Hour
	latest   = 36 * time.Hour
)

// days says where the events of a range of time are to be found.
type days struct {
	from, to    time.Time // whole quarter hours
	first, last day       // every event of the range has a date between them
	open        []day     // those of them that are not closed
	closed      map[day]*closedDay
}

// settling is for how long after a closing the day's rows are read anew each time on a cluster, where a replica may not have them yet that is asked.
const settling = time.Hour

// daysOf finds out which days of a range are open, and what the others have of the profile.
func (r *Reader) daysOf(ctx context.Context, profile int64, from, to time.Time) (days, error) {
	d := days{from: from, to: to, first: dayOf(from.UTC().Add(-latest)), last: dayOf(to.UTC().Add(-earliest))}
	closings, settled := map[day]closing{}, map[day]closing{}
	var date, at, now int64
	err := r.each(ctx, fmt.Sprintf("SELECT toInt64(toUInt16(date)) AS d, toUnixTimestamp64Milli(max(closed_at)), toUnixTimestamp64Milli(now64(3)) FROM %s WHERE date BETWEEN toDate(%d) AND toDate(%d) GROUP BY d",
		r.layout.All("closed_days"), d.first, d.last), []any{&date, &at, &now}, func() error {
		closings[day(date)] = closing(at)
		if r.layout.Cluster == "" || now-at > settling.Milliseconds() {
			settled[day(date)] = closing(at)
		}
		return nil
	})
	if err != nil {
		return days{}, fmt.Errorf("list closed days: %w", err)
	}
	// A day is listed as closed only after its rows are in place, so whoever reads the list first and the days next counts each event once, and has of
	// a closing no older rows.
	d.closed = r.memory.find(profile, settled)
	var unknown []day
	for date := d.first; date <= d.last; date++ {
		if _, closed := closings[date]; !closed {
			d.open = append(d.open, date)
		} else if d.closed[date] == nil {
			unknown = append(unknown, date)
		}
	}
	if len(unknown) > 0 {
		read, err := r.readClosed(ctx, profile, unknown)
		if err != nil {
			return days{}, err
		}
		maps.Copy(d.closed, read)
	}
	keep := maps.Clone(d.closed)
	maps.DeleteFunc(keep, func(date day, _ *closedDay) bool { return settled[date] == 0 })
	r.memory.keep(profile, keep, settled)
	return d, nil
}

// split tells the days of a range apart by whether all of a day's events are in the range, some, or none.
type split struct {
	whole []day // closed, all events in the range
	open  []day // open, all events in the range
	cut   []day // some events in the range
}

// splitOf asks of the days at both ends of the range when their events were: all others lie inside it in every time zone.
func (r *Reader) splitOf(ctx context.Context, profile int64, d days) (split, error) {
	var s split
	var edgeClosed, edgeOpen []day
	put := func(date day, of span, whole *[]day) {
		switch {
		case of.first >= d.from.Unix() && of.last < d.to.Unix():
			*whole = append(*whole, date)
		case of.last >= d.from.Unix() && of.first < d.to.Unix():
			s.cut = append(s.cut, date)
		}
	}
	for date := d.first; date <= d.last; date++ {
		start, end := date.time().Add(earliest), date.time().Add(latest)
		c := d.closed[date]
		inside := !start.Before(d.from) && !end.After(d.to)
		switch {
		case inside && c == nil:
			s.open = append(s.open, date)
		case c == nil:
			edgeOpen = append(edgeOpen, date)
		case c.empty():
		case inside:
			s.whole = append(s.whole, date)
		case c.span == span{}:
			edgeClosed = append(edgeClosed, date)
		default:
			put(date, c.span, &s.whole)
		}
	}
	look := func(query string, whole *[]day) error {
		var date int64
		var of span
		return r.each(ctx, query, []any{&date, &of.first, &of.last}, func() error { put(day(date), of, whole); return nil })
	}
	if len(edgeClosed) > 0 {
		if err := look(fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toInt64(min(toUInt32(bucket))), toInt64(max(toUInt32(bucket))) FROM %s
			WHERE profile_id = %d AND dimension = '' AND date IN (%s) GROUP BY d`, r.layout.All("days"), profile, dates(edgeClosed)), &s.whole); err != nil {
			return split{}, fmt.Errorf("look at the ends of the range: %w", err)
		}
	}
	if len(edgeOpen) > 0 {
		if err := look(fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toInt64(min(toUInt32(b))), toInt64(max(toUInt32(b))) FROM (
			SELECT date, toStartOfFifteenMinutes(time) AS b, count() FROM %s WHERE profile_id = %d AND date IN (%s) GROUP BY date, b%s) GROUP BY d`,
			r.layout.All("events"), profile, dates(edgeOpen), atOnce), &s.open); err != nil {
			return split{}, fmt.Errorf("look at the ends of the range: %w", err)
		}
	}
	return s, nil
}

// wholeIn tells the closed days apart that lie in the range, and, if buckets' starts are given, in one bucket, and those of which a panel has to
// be read from their series. Those without events in the range are neither.
func (d days) wholeIn(starts []time.Time) (whole, byQuarter []day) {
	for date := d.first; date <= d.last; date++ {
		c := d.closed[date]
		if c == nil || c.empty() {
			continue
		}
		s := c.span
		known := s != span{}
		switch {
		case known && (s.last < d.from.Unix() || s.first >= d.to.Unix()):
		case known && s.first >= d.from.Unix() && s.last < d.to.Unix() && (starts == nil || bucketOf(starts, s.first) == bucketOf(starts, s.last)):
			whole = append(whole, date)
		default:
			byQuarter = append(byQuarter, date)
		}
	}
	return whole, byQuarter
}

// outlook is what several questions about one time need to know first.
type outlook struct {
	once sync.Once
	days days
	err  error
}

// daysFor is daysOf, asked once for all questions that share an outlook.
func (r *Reader) daysFor(ctx context.Context, q Question) (days, error) {
	q.outlook.once.Do(func() { q.outlook.days, q.outlook.err = r.daysOf(ctx, q.Profile, q.From, q.To) })
	return q.outlook.days, q.outlook.err
}

// Expired is returned for a question that only raw events answer, about a time whose raw events are deleted.
type Expired struct {
	// Before is the first date of which raw events are there still.
	Before time.Time
}

func (e *Expired) Error() string {
	return "single events before " + e.Before.Format(time.DateOnly) + " are deleted: ask for a later time, or with no filter or one filter for whole days of the profile's time zone"
}

// unfold makes days cut ones of which the events have to be read because closed days have put values together that a filter asks for. Where
// the events are deleted it leaves them: what is found there is what was kept.
func (r *Reader) unfold(ctx context.Context, q Question, s *split) error {
	filters := q.Filters.without(ByLink)
	if len(filters) != 1 || filters[0].Dimension == BySurface || len(s.whole) == 0 {
		return nil
	}
	f := filters[0]
	values := make([]string, len(f.Values))
	for i, v := range f.Values {
		values[i] = literal(v)
	}
	// A day that has kept all of the values, or has kept all that there were, answers by itself.
	var date int64
	var folded []day
	err := r.each(ctx, fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d FROM %s WHERE profile_id = %d AND dimension = %s AND date IN (%s) AND value IN (%s, %s)
		GROUP BY d HAVING countIf(value = %[5]s) > 0 AND uniqExact(value) <= %[7]d`, r.layout.All("days"), q.Profile, literal(string(f.Dimension)), dates(s.whole),
		literal(Rest), strings.Join(values, ","), len(f.Values)), []any{&date}, func() error { folded = append(folded, day(date)); return nil })
	if err != nil {
		return fmt.Errorf("look for values that were put together: %w", err)
	}
	if len(folded) == 0 {
		return nil
	}
	before, err := r.expired(ctx)
	if err != nil {
		return err
	}
	for _, date := range folded {
		if !date.time().Before(before) {
			s.whole = slices.DeleteFunc(s.whole, func(d day) bool { return d == date })
			s.cut = append(s.cut, date)
		}
	}
	return nil
}

// retained returns an Expired error if raw events of one of the dates are deleted.
func (r *Reader) retained(ctx context.Context, list []day) error {
	if len(list) == 0 {
		return nil
	}
	before, err := r.expired(ctx)
	if err != nil {
		return err
	}
	if slices.Min(list).time().Before(before) {
		return &Expired{Before: before}
	}
	return nil
}

// expired returns the first date of which raw events are there still; zero: of all.
func (r *Reader) expired(ctx context.Context) (time.Time, error) {
	rows, err := r.pool.Query(ctx, `SELECT month FROM expired_months ORDER BY month DESC LIMIT 1`)
	if err != nil {
		return time.Time{}, fmt.Errorf("read which months have expired: %w", err)
	}
	months, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return time.Time{}, fmt.Errorf("read which months have expired: %w", err)
	}
	if len(months) == 0 {
		return time.Time{}, nil
	}
	return months[0].AddDate(0, 1, 0), nil
}

func dates(days []day) string {
	list := make([]string, len(days))
	for i, d := range days {
		list[i] = fmt.Sprintf("toDate(%d)", d)
	}
	return strings.Join(list, ",")
}
