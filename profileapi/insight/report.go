package insight

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// Ask is what a page, an answer of the API or a table of numbers is made from.
type Ask struct {
	Profile int64
	// From and To are whole buckets of Interval, in the zone that their days are meant in.
	From, To time.Time
	Interval Interval
	Filters  Filters
	Classes  []Class
	// Dimensions to break down by, with Limit values each (zero: all), sorted by By ("clicks", "views" or both).
	Dimensions []Dimension
	Limit      int
	By         string
	// Viewers asks for the distinct viewers of each value.
	Viewers bool
	// Compare asks for the previous period's totals too.
	Compare bool
	// Only leaves out what is not asked for: totals, series, links. Empty: all.
	Only []Part
	Now  time.Time
}

// Part of a report.
type Part string

// The parts that may be unavailable while others are there.
const (
	PartTotals     Part = "range"
	PartPrevious   Part = "previous"
	PartSeries     Part = "series"
	PartLinks      Part = "links"
	PartBreakdowns Part = "breakdowns"
)

// Value is one bucket of a report's series.
type Value struct {
	Start, End    time.Time
	Views, Clicks int64
	// Gap is true where all of the bucket is lost: its numbers are unknown, not zero.
	Gap bool
	// Complete is true where nothing is missing any more.
	Complete bool
	Tally    Tally
}

// Report is the answer to an Ask. All of it was counted the same way.
type Report struct {
	Ask
	Lifetime     Lifetime
	Totals       *Totals
	PreviousFrom time.Time
	PreviousTo   time.Time
	Previous     *Totals
	Series       []Value
	SeriesSource Source
	Links        map[int64]Tally // clicks in the range
	Breakdowns   []Breakdown
	Gaps         []Gap
	// Unavailable says of each part that is missing why.
	Unavailable map[Part]string
}

func (a Ask) wants(p Part) bool {
	if len(a.Only) == 0 {
		return true
	}
	for _, one := range a.Only {
		if one == p {
			return true
		}
	}
	return false
}

// Report answers an Ask. Lifetime numbers are needed; what ClickHouse has may be away, and is then said to be.
func (r *Reader) Report(ctx context.Context, a Ask, log *slog.Logger) (*Report, error) {
	life, err := ReadLifetime(ctx, r.pool, a.Profile, a.Classes)
	if err != nil {
		return nil, err
	}
	bounds, err := a.Interval.buckets(a.From, a.To)
	if err != nil {
		return nil, err
	}
	a.From, a.To = bounds[0], bounds[len(bounds)-1]
	out := &Report{Ask: a, Lifetime: life, Gaps: life.Completeness.Gaps(a.From, a.To), Unavailable: map[Part]string{}}
	q := Question{Profile: a.Profile, From: a.From, To: a.To, Filters: a.Filters, outlook: &outlook{}}
	failed := make(map[Part]error, 5)
	type done struct {
		part Part
		err  error
	}
	results := make(chan done, 5)
	group, ctx := errgroup.WithContext(ctx)
	start := func(part Part, f func() error) {
		group.Go(func() error { results <- done{part, f()}; return nil })
	}
	if a.wants(PartTotals) {
		start(PartTotals, func() error {
			t, err := r.Totals(ctx, q)
			if err == nil {
				out.Totals = &t
			}
			return err
		})
		if a.Compare {
			out.PreviousFrom, out.PreviousTo = a.Interval.Previous(a.From, a.To, a.Now)
			start(PartPrevious, func() error {
				q := q
				q.From, q.To, q.outlook = out.PreviousFrom, out.PreviousTo, nil
				t, err := r.Totals(ctx, q)
				if err == nil {
					out.Previous = &t
				}
				return err
			})
		}
	}
	var points []Point
	if a.wants(PartSeries) {
		start(PartSeries, func() (err error) {
			points, out.SeriesSource, err = r.Series(ctx, q, a.Interval)
			return err
		})
	}
	if a.wants(PartLinks) {
		start(PartLinks, func() error {
			b, err := r.Breakdowns(ctx, q, []Dimension{ByLink}, Order{Classes: a.Classes, By: "clicks"})
			if err != nil {
				return err
			}
			out.Links = map[int64]Tally{}
			for _, item := range b[0].Items {
				id, err := strconv.ParseInt(item.Value, 10, 64)
				if err == nil && id != 0 {
					out.Links[id] = item.Tally
				}
			}
			return nil
		})
	}
	if len(a.Dimensions) > 0 {
		start(PartBreakdowns, func() (err error) {
			out.Breakdowns, err = r.Breakdowns(ctx, q, a.Dimensions, Order{Classes: a.Classes, By: a.By, Limit: a.Limit, Viewers: a.Viewers})
			return err
		})
	}
	_ = group.Wait() // every function reports its own error
	close(results)
	for d := range results {
		if d.err != nil {
			failed[d.part] = d.err
		}
	}
	for part, err := range failed {
		var expired *Expired
		if errors.As(err, &expired) {
			out.Unavailable[part] = expired.Error()
			continue
		}
		log.Warn("a part of the insights cannot be had", "part", part, "profile", a.Profile, "error", err)
		out.Unavailable[part] = "the store of timelines does not answer; lifetime numbers are not affected"
	}
	if _, missing := out.Unavailable[PartSeries]; !missing && a.wants(PartSeries) {
		out.Series = make([]Value, len(points))
		for i, p := range points {
			out.Series[i] = out.value(p, bounds[i+1])
		}
	}
	return out, nil
}

// value says of a bucket what is known of it.
func (r *Report) value(p Point, end time.Time) Value {
	v := Value{Start: p.Start, End: end, Tally: p.Tally}
	v.Views, v.Clicks = p.Of(r.Classes)
	through := r.Lifetime.Completeness.Through
	v.Complete = through != nil && !through.Before(end)
	for _, g := range r.Gaps {
		if g.touches(p.Start, end) {
			v.Complete = false
		}
		if g.Lost && g.covers(p.Start, end) && v.Views == 0 && v.Clicks == 0 {
			v.Gap = true
		}
	}
	return v
}
