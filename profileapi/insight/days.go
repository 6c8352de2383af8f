package insight

import (
	"context"
	"fmt"
	"slices"
	"strings"
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
}

// daysOf finds out which days of a range are open.
func (r *Reader) daysOf(ctx context.Context, from, to time.Time) (days, error) {
	d := days{from: from, to: to, first: dayOf(from.UTC().Add(-latest)), last: dayOf(to.UTC().Add(-earliest))}
	closed := map[day]bool{}
	var date int64
	err := r.each(ctx, fmt.Sprintf("SELECT DISTINCT toInt64(toUInt16(date)) FROM %s WHERE date BETWEEN toDate(%d) AND toDate(%d)",
		r.layout.All("closed_days"), d.first, d.last), []any{&date}, func() error { closed[day(date)] = true; return nil })
	if err != nil {
		return days{}, fmt.Errorf("list closed days: %w", err)
	}
	// A day is listed as closed only after its rows are in place, so whoever reads the list first and the days next counts each event once.
	for date := d.first; date <= d.last; date++ {
		if !closed[date] {
			d.open = append(d.open, date)
		}
	}
	return d, nil
}

// split tells the days of a range apart by whether all of a day's events are in the range, some, or none.
type split struct {
	whole []day // closed, all events in the range
	open  []day // open, all events in the range
	cut   []day // some events in the range
}

// splitOf looks at the days at both ends of the range, which are few: all others lie inside it in every time zone.
func (r *Reader) splitOf(ctx context.Context, profile int64, d days) (split, error) {
	var s split
	var edgeClosed, edgeOpen []day
	for date := d.first; date <= d.last; date++ {
		start, end := date.time().Add(earliest), date.time().Add(latest)
		_, open := slices.BinarySearch(d.open, date)
		inside := !start.Before(d.from) && !end.After(d.to)
		switch {
		case inside && open:
			s.open = append(s.open, date)
		case inside:
			s.whole = append(s.whole, date)
		case open:
			edgeOpen = append(edgeOpen, date)
		default:
			edgeClosed = append(edgeClosed, date)
		}
	}
	look := func(query string, whole *[]day) error {
		var date, first, last int64
		return r.each(ctx, query, []any{&date, &first, &last}, func() error {
			switch {
			case first >= d.from.Unix() && last < d.to.Unix():
				*whole = append(*whole, day(date))
			case last >= d.from.Unix() && first < d.to.Unix():
				s.cut = append(s.cut, day(date))
			}
			return nil
		})
	}
	if len(edgeClosed) > 0 {
		if err := look(fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toInt64(min(toUInt32(bucket))), toInt64(max(toUInt32(bucket))) FROM %s
			WHERE profile_id = %d AND dimension = '' AND date IN (%s) GROUP BY d`, r.layout.All("days"), profile, dates(edgeClosed)), &s.whole); err != nil {
			return split{}, fmt.Errorf("look at the ends of the range: %w", err)
		}
	}
	if len(edgeOpen) > 0 {
		if err := look(fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toInt64(min(toUInt32(b))), toInt64(max(toUInt32(b))) FROM (
			SELECT date, toStartOfFifteenMinutes(time) AS b, count() FROM %s WHERE profile_id = %d AND date IN (%s) GROUP BY date, b) GROUP BY d`,
			r.layout.All("events"), profile, dates(edgeOpen)), &s.open); err != nil {
			return split{}, fmt.Errorf("look at the ends of the range: %w", err)
		}
	}
	return s, nil
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
