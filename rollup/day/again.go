package day

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/table"
)

// Hold keeps every rollup from closing the dates until release is called or this process ends; it waits for those that are closing one
// of them. Whoever changes events of days that may be closed calls Hold, Again, changes, and releases: a change that has begun is
// finished before a day is closed (Closer.Close waits for it), so the mark of Again is never taken off by a closing that did not see it.
func Hold(ctx context.Context, pool *pgxpool.Pool, dates []table.Date) (release func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("hold days open: %w", err)
	}
	// Not given back to the pool: a lock that could not be taken back must end with its connection.
	held := conn.Hijack()
	release = func() { _ = held.Close(context.WithoutCancel(ctx)) }
	for _, d := range slices.Sorted(slices.Values(dates)) { // in order, so that two wait for each other never
		if _, err := held.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", closingLocks, int32(d)); err != nil {
			release()
			return nil, fmt.Errorf("hold %s open: %w", d, err)
		}
	}
	return release, nil
}

// Again lists those of the dates that are closed as closed with no events, which makes them due: until they are closed again, readers
// have their rows as they are. It returns which they are.
func Again(ctx context.Context, t *table.Tables, dates []table.Date) ([]table.Date, error) {
	closed, err := ReadClosed(ctx, t)
	if err != nil {
		return nil, err
	}
	var marked []table.Date
	for _, d := range dates {
		if closed.Has(d) {
			marked = append(marked, d)
		}
	}
	if len(marked) == 0 {
		return nil, nil
	}
	// Later than what is listed, also where the clock went back.
	if err := t.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (date, events, closed_at)
		SELECT date, toUInt64(0), greatest(now64(3, 'UTC'), max(closed_at) + toIntervalMillisecond(1)) FROM %s WHERE date IN (%s) GROUP BY date`,
		t.Local("closed_days"), t.All("closed_days"), table.Dates(marked))); err != nil {
		return nil, fmt.Errorf("mark days to be closed again: %w", err)
	}
	return marked, nil
}

// Due returns the days that are marked to be closed again.
func (c Closed) Due() []table.Date {
	var due []table.Date
	for _, d := range c.dates {
		if c.Days[d].Events == 0 {
			due = append(due, d)
		}
	}
	return due
}

// ErrChanging is returned when events are being changed: the day is closed when that is done.
var ErrChanging = errors.New("events are being changed")

// changes returns a number that is another one whenever events were changed in between, or an error that wraps ErrChanging if they are
// being changed now.
func (c *Closer) changes(ctx context.Context) (uint64, error) {
	var all, running uint64
	var failure string
	if err := c.tables.Row(ctx, fmt.Sprintf(`SELECT groupBitXor(cityHash64(mutation_id, command)), countIf(NOT is_done AND NOT is_killed), anyIf(latest_fail_reason, NOT is_done AND latest_fail_reason != '')
		FROM %s WHERE database = '%s' AND table = 'events' AND NOT (%s)`, c.tables.System("mutations"), c.tables.Database, trimming), &all, &running, &failure); err != nil {
		return 0, fmt.Errorf("look for changes of events: %w", err)
	}
	switch {
	case running > 0 && failure != "":
		return 0, fmt.Errorf("a change of events fails (system.mutations has it; KILL MUTATION gives it up): %s", failure)
	case running > 0:
		return 0, ErrChanging
	}
	return all, nil
}
