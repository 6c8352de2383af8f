// Package weekly reports a profile's week: what a creator wants to know on Monday morning, in the numbers that the insights show for the
// same seven days.
package weekly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway.dev/profileapi/insight"
)

// Week is one week of a time zone, from Monday's beginning to the next.
type Week struct{ From, To time.Time }

// Before returns the last whole week before t, in t's time zone.
func Before(t time.Time) Week {
	within := t.Add(time.Nanosecond) // Back looks at what is before its time
	return Week{insight.Week.Back(within, 2), insight.Week.Back(within, 1)}
}

// Name is the week as ISO 8601 writes it, as in 2026-W47.
func (w Week) Name() string {
	year, week := w.From.ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, week)
}

// Numbers are a week's counts of people. Rates are null where there is nothing to divide by.
type Numbers struct {
	Views          int64    `json:"views"`
	Clicks         int64    `json:"clicks"`
	CTR            *float64 `json:"ctr"`
	UniqueVisitors *int64   `json:"unique_visitors"`
}

// Link is one of the most clicked.
type Link struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Clicks int64  `json:"clicks"`
}

// Origin is where visits came from.
type Origin struct {
	Dimension insight.Dimension `json:"dimension"`
	Value     string            `json:"value"`
	Views     int64             `json:"views"`
	Clicks    int64             `json:"clicks"`
}

// Report is a profile's week.
type Report struct {
	Week     string    `json:"week"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Timezone string    `json:"timezone"`
	Numbers
	// Before is the week before, and Change how this one differs: 0.25 is a quarter more. Null where there was nothing before.
	Before Numbers `json:"before"`
	Change Change  `json:"change"`
	Links  []Link  `json:"links"`
	// Origins are the most frequent channels, sites and countries.
	Origins []Origin `json:"origins"`
	// Complete is false while events of the week may still be missing.
	Complete bool `json:"complete"`
}

// Change is how a week differs from the one before it.
type Change struct {
	Views          *float64 `json:"views"`
	Clicks         *float64 `json:"clicks"`
	UniqueVisitors *float64 `json:"unique_visitors"`
}

// Best is how many links and origins of a kind a report names.
const Best = 3

// ErrUnavailable is returned while the numbers of the week cannot be read.
var ErrUnavailable = errors.New("the numbers of the week cannot be read now")

// Read makes the report of a profile's week. now is the clock.
func Read(ctx context.Context, reader *insight.Reader, profile int64, w Week, now time.Time, log *slog.Logger) (*Report, error) {
	people := []insight.Class{insight.Person}
	r, err := reader.Report(ctx, insight.Ask{
		Profile: profile, From: w.From, To: w.To, Interval: insight.Day, Classes: people, Compare: true, Now: now,
		Dimensions: []insight.Dimension{"channel", "referrer_host", "country"}, Limit: Best + 1,
		Only: []insight.Part{insight.PartTotals, insight.PartLinks},
	}, log)
	if err != nil {
		return nil, err
	}
	if r.Totals == nil || r.Previous == nil || r.Links == nil || r.Breakdowns == nil {
		return nil, ErrUnavailable
	}
	out := &Report{Week: w.Name(), From: r.From, To: r.To, Timezone: r.From.Location().String(), Numbers: numbers(r.Totals), Before: numbers(r.Previous)}
	if through := r.Lifetime.Completeness.Through; through != nil && !through.Before(w.To) {
		// A recorder that fell silent earlier says nothing about this week.
		out.Complete = !slices.ContainsFunc(r.Gaps, func(g insight.Gap) bool { return !g.To.IsZero() || !g.From.Before(w.From) })
	}
	out.Change = Change{insight.Growth(float64(out.Views), float64(out.Before.Views)), insight.Growth(float64(out.Clicks), float64(out.Before.Clicks)), nil}
	if out.UniqueVisitors != nil && out.Before.UniqueVisitors != nil {
		out.Change.UniqueVisitors = insight.Growth(float64(*out.UniqueVisitors), float64(*out.Before.UniqueVisitors))
	}
	titles := map[int64]string{}
	for _, l := range r.Lifetime.Links {
		titles[l.ID] = l.Title
	}
	for id, t := range r.Links {
		if _, clicks := t.Of(people); clicks > 0 {
			out.Links = append(out.Links, Link{strconv.FormatInt(id, 10), cmp.Or(titles[id], "Link "+strconv.FormatInt(id, 10)), clicks})
		}
	}
	slices.SortFunc(out.Links, func(a, b Link) int { return cmp.Or(cmp.Compare(b.Clicks, a.Clicks), cmp.Compare(a.ID, b.ID)) })
	out.Links = out.Links[:min(len(out.Links), Best)]
	for _, b := range r.Breakdowns {
		named := 0
		for _, i := range b.Items {
			views, clicks := i.Of(people)
			if i.Value != "" && views+clicks > 0 && named < Best {
				out.Origins = append(out.Origins, Origin{b.Dimension, i.Value, views, clicks})
				named++
			}
		}
	}
	return out, nil
}

func numbers(t *insight.Totals) Numbers {
	c := t.Of([]insight.Class{insight.Person})
	n := Numbers{Views: c.Views, Clicks: c.Clicks, CTR: insight.Rate(c.Clicks, c.Views)}
	if t.KnowsUnique {
		n.UniqueVisitors = &c.UniqueVisitors
	}
	return n
}

// Quiet says whether there is nothing to tell: nobody came in this week or in the one before.
func (r *Report) Quiet() bool {
	return r.Views+r.Clicks+r.Before.Views+r.Before.Clicks == 0
}

// Span is the week in words, as in "9 to 15 November 2026".
func (r *Report) Span() string {
	from, last := r.From, r.To.Add(-time.Second)
	switch {
	case from.Year() != last.Year():
		return from.Format("2 January 2006") + " to " + last.Format("2 January 2006")
	case from.Month() != last.Month():
		return from.Format("2 January") + " to " + last.Format("2 January 2006")
	}
	return from.Format("2") + " to " + last.Format("2 January 2006")
}

// Days are the week's days as the dashboard's page is asked for them.
func (r *Report) Days() url.Values {
	return url.Values{"from": {r.From.Format(time.DateOnly)}, "to": {r.To.Add(-time.Second).Format(time.DateOnly)}}
}

// Sentence is the report in a line.
func (r *Report) Sentence() string {
	parts := []string{counted(r.Views, "view", r.Change.Views), counted(r.Clicks, "click", r.Change.Clicks)}
	if r.UniqueVisitors != nil {
		parts = append(parts, counted(*r.UniqueVisitors, "visitor", r.Change.UniqueVisitors))
	}
	s := "Your week, " + r.Span() + ": " + strings.Join(parts, ", ") + "."
	if len(r.Links) > 0 {
		s += " Most clicked: " + r.Links[0].Title + "."
	}
	return s
}

func counted(n int64, what string, change *float64) string {
	s := insight.Number(n) + " " + what
	if n != 1 {
		s += "s"
	}
	if change != nil {
		s += " (" + Percent(*change) + ")"
	}
	return s
}

// Percent writes a change with its sign, as in +25 %.
func Percent(change float64) string {
	s := strconv.FormatFloat(change*100, 'f', 0, 64)
	if s == "0" || s == "-0" {
		return "±0 %"
	}
	return strings.Replace("+"+s, "+-", "−", 1) + " %"
}
