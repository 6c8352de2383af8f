package insight

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// visitors adds the distinct daily visitors of the question's time to counts, and says whether they can be known. Whole days have been
// counted; of a day that the range cuts, and where there are filters, single events are.
func (r *Reader) visitors(ctx context.Context, q Question, counts map[Class]Counts) (known bool, err error) {
	d, err := r.daysFor(ctx, q)
	if err != nil {
		return false, err
	}
	s, err := r.splitOf(ctx, q.Profile, d)
	if err != nil {
		return false, err
	}
	single := s.cut
	if len(q.Filters) > 0 {
		single = append(append(single, s.whole...), s.open...)
		s.whole, s.open = nil, nil
	}
	var closedSingle []day
	for _, date := range single {
		if !contains(d.open, date) {
			closedSingle = append(closedSingle, date)
		}
	}
	expired := (*Expired)(nil)
	if err := r.retained(ctx, closedSingle); errors.As(err, &expired) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	add := func(kind int8, class Class, n uint64) {
		c := counts[class]
		switch kind {
		case 0:
			c.UniqueVisitors += int64(n)
		case kindView:
			c.UniqueViewers += int64(n)
		default:
			c.UniqueClickers += int64(n)
		}
		counts[class] = c
	}
	for _, date := range s.whole {
		for _, v := range d.closed[date].visitors {
			add(v.kind, v.class.Value(), v.n)
		}
	}
	// A visitor id is of one date, so days are counted one by one and added up.
	var parts []string
	if len(s.open) > 0 {
		for _, k := range []struct{ value, group string }{{"toInt8(kind)", ", kind"}, {"toInt8(0)", ""}} {
			parts = append(parts, fmt.Sprintf(`SELECT k, c, sum(n) FROM (SELECT date, toString(class) AS c, %s AS k, uniq(visitor) AS n FROM %s
				WHERE profile_id = %d AND kind IN ('view', 'click') AND date IN (%s) GROUP BY date, class%s%s) GROUP BY k, c`,
				k.value, r.layout.All("events"), q.Profile, dates(s.open), k.group, atOnce))
		}
	}
	if len(single) > 0 {
		how := atOnce
		if len(q.Filters) > 0 { // all days then, on many of which nothing passes
			how = ""
		}
		parts = append(parts, fmt.Sprintf(`SELECT of.1 AS k, c, sum(of.2) FROM (
				SELECT date, toString(class) AS c, [(toInt8(0), uniqExact(visitor)), (toInt8(1), uniqExactIf(visitor, kind = 'view')), (toInt8(2), uniqExactIf(visitor, kind = 'click'))] AS counts
				FROM %s WHERE profile_id = %d AND kind IN ('view', 'click') AND date IN (%s) AND time >= toDateTime64(%d, 6, 'UTC') AND time < toDateTime64(%d, 6, 'UTC')%s GROUP BY date, class%s)
			ARRAY JOIN counts AS of GROUP BY k, c`,
			r.layout.All("events"), q.Profile, dates(single), q.From.Unix(), q.To.Unix(), q.Filters.condition(), how))
	}
	if len(parts) == 0 {
		return true, nil
	}
	var kind int8
	var class string
	var n uint64
	return true, r.each(ctx, strings.Join(parts, " UNION ALL "), []any{&kind, &class, &n}, func() error {
		add(kind, Class(class), n)
		return nil
	})
}
