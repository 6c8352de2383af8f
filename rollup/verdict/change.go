// Package verdict judges visits of the past anew: it changes class, reason and rules_version of events that are already stored, and sees to
// it that everything derived follows. An event's name, and with it the fence, the audit and what is exported once, know nothing of its
// class.
//
//	hold the days ─▶ mark the closed ones ─▶ ALTER … UPDATE ─▶ release ─▶ hint the profiles
//
// Nobody closes a day between the mark and the change, and a change that has begun is finished before a day is closed; so whoever dies
// at any moment leaves days that are closed again by themselves, with the events as they then are, and to repeat everything does no harm.
// Lifetime counters follow the hints, and sweeps without them.
package verdict

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// Judgement is what is said of an event.
type Judgement struct {
	Class  string `json:"class"`  // as in the column class
	Reason string `json:"reason"` // empty for a person, unless a rule says so
}

// change is one statement's worth of new judgements, within one month.
type change struct {
	month uint32 // as 202611
	dates []table.Date
	// where selects the events, beside their month and dates.
	where string
	// class and reason are expressions over an event's columns.
	class, reason string
	version       string // so is this
}

// Changer changes events.
type Changer struct {
	tables *table.Tables
	pool   *pgxpool.Pool
	// step is called before each step of a change; an error ends it there. Tests crash there.
	step func(string) error
}

// NewChanger returns a changer.
func NewChanger(t *table.Tables, pool *pgxpool.Pool) *Changer {
	return &Changer{tables: t, pool: pool, step: func(string) error { return nil }}
}

// apply carries a change out and returns which days are to be closed again because of it.
func (c *Changer) apply(ctx context.Context, x change) (again []table.Date, err error) {
	if err := c.step("hold"); err != nil {
		return nil, err
	}
	release, err := day.Hold(ctx, c.pool, x.dates)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := c.step("mark"); err != nil {
		return nil, err
	}
	if again, err = day.Again(ctx, c.tables, x.dates); err != nil {
		return nil, err
	}
	if err := c.step("change"); err != nil {
		return nil, err
	}
	// Waits until every part of every replica is written anew. Constraints are checked when rows are inserted, not here: the fence stays.
	statement := fmt.Sprintf("ALTER TABLE %s %s UPDATE class = %s, reason = %s, rules_version = %s IN PARTITION %d WHERE date IN (%s) AND (%s)",
		c.tables.Local("events"), c.tables.OnCluster(), x.class, x.reason, x.version, x.month, table.Dates(x.dates), x.where)
	if err := c.tables.With("mutations_sync", 2).Exec(ctx, statement); err != nil {
		return again, fmt.Errorf("judge events anew: %w", err)
	}
	return again, c.step("release")
}

// Change judges the events of some dates for which a condition holds, and returns how many there were. It tells rollup of their profiles,
// and marks what of the dates is closed to be closed again. version is an expression for rules_version. It may be repeated.
func (c *Changer) Change(ctx context.Context, dates []table.Date, where string, is Judgement, version string) (events uint64, err error) {
	for _, month := range byMonth(dates) {
		in := "date IN (" + table.Dates(month) + ") AND (" + where + ")"
		profiles := map[uint64]bool{}
		touched := map[table.Date]bool{}
		var profile, n uint64
		var date uint16
		if err := c.tables.Each(ctx, "SELECT profile_id, toUInt16(date) AS d, count() FROM "+c.tables.All("events")+" WHERE "+in+" GROUP BY profile_id, d", []any{&profile, &date, &n}, func() error {
			profiles[profile], touched[table.Date(date)] = true, true
			events += n
			return nil
		}); err != nil {
			return 0, fmt.Errorf("count what is judged anew: %w", err)
		}
		if len(touched) == 0 {
			continue
		}
		x := change{month: monthOf(month[0]), dates: sortedDates(touched), where: where, class: quote(is.Class), reason: quote(is.Reason), version: version}
		if _, err := c.apply(ctx, x); err != nil {
			return 0, err
		}
		if err := c.hint(ctx, x.dates, "profile_id IN ("+table.Numbers(slices.Collect(maps.Keys(profiles)))+")"); err != nil {
			return 0, err
		}
	}
	return events, nil
}

// mostHints is how many profiles' days are told of. Beyond, the counters follow the sweeps.
const mostHints = 100_000

// hint tells rollup of the profiles that have events of the dates for which a condition holds. Closed days that are not due are left
// out: counters follow the closing, and a hint would have them looked at in vain.
func (c *Changer) hint(ctx context.Context, dates []table.Date, where string) error {
	if err := c.step("hint"); err != nil {
		return err
	}
	closed, err := day.ReadClosed(ctx, c.tables)
	if err != nil {
		return err
	}
	due := closed.Due()
	var told []table.Date
	for _, d := range dates {
		if !closed.Has(d) || slices.Contains(due, d) {
			told = append(told, d)
		}
	}
	if len(told) == 0 {
		return nil
	}
	where = "date IN (" + table.Dates(told) + ") AND (" + where + ")"
	err = c.tables.Exec(ctx, fmt.Sprintf("INSERT INTO %s (profile_id, date) SELECT profile_id, date FROM %s WHERE %s GROUP BY profile_id, date LIMIT %d",
		c.tables.Local("changed"), c.tables.All("events"), where, mostHints))
	if err != nil {
		return fmt.Errorf("tell of profiles that were judged anew: %w", err)
	}
	return nil
}

// monthOf names the partition that a date is in.
func monthOf(d table.Date) uint32 {
	t := d.Time()
	return uint32(t.Year())*100 + uint32(t.Month())
}

// byMonth sorts dates into their partitions, the oldest first.
func byMonth(dates []table.Date) [][]table.Date {
	sorted := slices.Compact(slices.Sorted(slices.Values(dates)))
	var months [][]table.Date
	for _, d := range sorted {
		if n := len(months); n > 0 && monthOf(months[n-1][0]) == monthOf(d) {
			months[n-1] = append(months[n-1], d)
			continue
		}
		months = append(months, []table.Date{d})
	}
	return months
}

// CloseAgain closes days that are due and waits for those that another rollup closes or that are being changed, at most for patience.
func CloseAgain(ctx context.Context, t *table.Tables, closer *day.Closer, dates []table.Date, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		closed, err := day.ReadClosed(ctx, t)
		if err != nil {
			return err
		}
		var last error
		for _, d := range closed.Due() {
			if slices.Contains(dates, d) {
				if _, err := closer.Close(ctx, d); err != nil {
					last = err
				}
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("days are not closed again yet, rollup goes on with them: %w", last)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// quote writes a text as a literal of a query.
func quote(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('\'')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
