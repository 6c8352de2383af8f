package insight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// span says from which to which quarter hour a closed day has events of a profile: the starts of both, in seconds.
type span struct{ first, last int64 }

// spansOf reads the spans of a range's closed days. It has none of days that were closed before spans were kept.
func (r *Reader) spansOf(ctx context.Context, profile int64, d days) (map[day]span, error) {
	if int(d.last-d.first)+1-len(d.open) <= r.fewDays {
		return nil, nil
	}
	spans := map[day]span{}
	var date int64
	var s span
	if err := r.each(ctx, fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toInt64(minIf(toUInt32(bucket), dimension = 'link')) AS f, toInt64(maxIf(toUInt32(bucket), dimension = 'surface')) AS l
		FROM %s WHERE profile_id = %d AND dimension IN ('link', 'surface') AND %s GROUP BY d HAVING f > 0 AND l >= f`, r.layout.All("days"), profile, d.closedWithout(nil)),
		[]any{&date, &s.first, &s.last}, func() error { spans[day(date)] = s; return nil }); err != nil {
		return nil, fmt.Errorf("read when closed days begin and end: %w", err)
	}
	return spans, nil
}

// outlook is what several questions about one time need to know first.
type outlook struct {
	daysOnce, spansOnce sync.Once
	days                days
	spans               map[day]span
	daysErr, spansErr   error
}

// daysFor is daysOf, asked once for all questions that share an outlook.
func (r *Reader) daysFor(ctx context.Context, q Question) (days, error) {
	if q.outlook == nil {
		return r.daysOf(ctx, q.From, q.To)
	}
	o := q.outlook
	o.daysOnce.Do(func() { o.days, o.daysErr = r.daysOf(ctx, q.From, q.To) })
	return o.days, o.daysErr
}

// spansFor is spansOf, asked once for all questions that share an outlook.
func (r *Reader) spansFor(ctx context.Context, q Question, d days) (map[day]span, error) {
	if q.outlook == nil {
		return r.spansOf(ctx, q.Profile, d)
	}
	o := q.outlook
	o.spansOnce.Do(func() { o.spans, o.spansErr = r.spansOf(ctx, q.Profile, d) })
	return o.spans, o.spansErr
}

// closedWithout is a condition on the rows of closed days other than those of the list; empty: there are none.
func (d days) closedWithout(list []day) string {
	but := append(slices.Clone(d.open), list...)
	if len(but) > int(d.last-d.first) {
		return ""
	}
	c := fmt.Sprintf("date BETWEEN toDate(%d) AND toDate(%d)", d.first, d.last)
	if len(but) > 0 {
		c += " AND date NOT IN (" + dates(but) + ")"
	}
	return c
}

// wholeIn returns the closed days that lie in the range, and, if buckets' starts are given, in one bucket.
func (d days) wholeIn(spans map[day]span, starts []time.Time) []day {
	var list []day
	for date, s := range spans {
		if s.first >= d.from.Unix() && s.last < d.to.Unix() && (starts == nil || bucketOf(starts, s.first) == bucketOf(starts, s.last)) {
			list = append(list, date)
		}
	}
	slices.Sort(list)
	return list
}

// bucketOf returns the index of the bucket that a moment is in.
func bucketOf(starts []time.Time, seconds int64) int {
	i, found := slices.BinarySearchFunc(starts, seconds, func(start time.Time, s int64) int { return int(start.Unix() - s) })
	if found {
		return i
	}
	return i - 1
}

// wholeDays reads a panel of the series from the sums of whole closed days.
func (r *Reader) wholeDays(q Question, list []day, p panel) string {
	key := p.key("bucket") // the last quarter hour of a row, which is in its day's bucket
	if p.dimension == BySurface {
		key = "value"
	}
	condition := q.Filters.only(ByLink).condition()
	for _, f := range q.Filters.only(BySurface) {
		words := make([]string, len(f.Values))
		for i, v := range f.Values {
			words[i] = literal(v)
		}
		condition += " AND value IN (" + strings.Join(words, ",") + ")"
	}
	return fmt.Sprintf(`SELECT %s AS d, %s AS k, toInt8(kind) AS i, toString(class) AS c, value = 'page' AS p, sum(events) AS n FROM %s
		WHERE profile_id = %d AND dimension = 'surface' AND date IN (%s) AND kind IN ('view', 'click')%s GROUP BY k, i, c, p`,
		literal(string(p.dimension)), key, r.layout.All("days"), q.Profile, dates(list), condition)
}
