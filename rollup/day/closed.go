package day

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway.dev/rollup/table"
)

// Closed says which days are closed. A reader that takes it first, reads those days from the closed days and all others from the
// events counts each event once, whatever is closed meanwhile: a day is listed only after its rows are in place.
type Closed struct {
	Days  map[table.Date]Close
	dates []table.Date // of Days, sorted
}

// Close is what is known of a closed day.
type Close struct {
	Events uint64 // as many had the day when it was closed
	At     time.Time
}

// ReadClosed reads the list.
func ReadClosed(ctx context.Context, t *table.Tables) (Closed, error) {
	c := Closed{Days: map[table.Date]Close{}}
	var date uint16
	var day Close
	err := t.Each(ctx, "SELECT toUInt16(date) AS d, argMax(events, closed_at), max(closed_at) FROM "+t.All("closed_days")+" GROUP BY d ORDER BY d",
		[]any{&date, &day.Events, &day.At}, func() error {
			c.Days[table.Date(date)] = day
			c.dates = append(c.dates, table.Date(date))
			return nil
		})
	if err != nil {
		return Closed{}, fmt.Errorf("read closed days: %w", err)
	}
	return c, nil
}

// Has says whether a date is closed.
func (c Closed) Has(d table.Date) bool {
	_, ok := c.Days[d]
	return ok
}

// Changed returns the dates that were closed, or closed again, since before.
func (c Closed) Changed(before Closed) []table.Date {
	var changed []table.Date
	for _, d := range c.dates {
		if then, ok := before.Days[d]; !ok || !then.At.Equal(c.Days[d].At) {
			changed = append(changed, d)
		}
	}
	return changed
}

// gaps are the days between the first and the last closed one that are not closed: those without events, and those whose closing is
// pending.
func (c Closed) gaps() []table.Date {
	var gaps []table.Date
	for i := 1; i < len(c.dates); i++ {
		for d := c.dates[i-1] + 1; d < c.dates[i]; d++ {
			gaps = append(gaps, d)
		}
	}
	return gaps
}

// Condition is true for the rows, in a table with a column date, whose day is closed.
func (c Closed) Condition() string {
	if len(c.dates) == 0 {
		return "false"
	}
	condition := fmt.Sprintf("date BETWEEN %s AND %s", c.dates[0].Literal(), c.dates[len(c.dates)-1].Literal())
	if gaps := c.gaps(); len(gaps) > 0 {
		condition += " AND date NOT IN (" + table.Dates(gaps) + ")"
	}
	return "(" + condition + ")"
}

// OpenCondition is true for the rows whose day is not closed. It is written as ranges, which the tables' indexes can use.
func (c Closed) OpenCondition() string {
	if len(c.dates) == 0 {
		return "date >= toDate(0)"
	}
	conditions := []string{"date > " + c.dates[len(c.dates)-1].Literal(), "date < " + c.dates[0].Literal()}
	if gaps := c.gaps(); len(gaps) > 0 {
		conditions = append(conditions, "date IN ("+table.Dates(gaps)+")")
	}
	return "(" + strings.Join(conditions, " OR ") + ")"
}

// Without returns the list without the days whose events were dropped, or are about to be.
func (c Closed) Without(expired Expired) Closed {
	kept := Closed{Days: map[table.Date]Close{}}
	for _, d := range c.dates {
		if !expired.Has(d) {
			kept.Days[d] = c.Days[d]
			kept.dates = append(kept.dates, d)
		}
	}
	return kept
}

// Dates returns the closed dates, sorted.
func (c Closed) Dates() []table.Date { return slices.Clone(c.dates) }
