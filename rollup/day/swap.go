package day

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/table"
)

// ErrBusy is returned when another rollup is closing the day.
var ErrBusy = errors.New("another rollup is closing the day")

// ErrShrunk is returned when a day would be closed with fewer events than it was closed with before.
var ErrShrunk = errors.New("the day has fewer events than it was closed with")

// closingLocks is the first key of the advisory locks that keep rollups from doing the same work; the second is the date. They save work;
// nothing depends on them.
const closingLocks = 0x53505754

// result is what became of a day that was to be closed.
type result struct {
	events uint64 // with so many it was closed
	again  bool   // it had been closed before
	err    error
}

// Close computes a day and swaps it in, and returns how many events it has. The day stays as it was when an error is returned, unless
// the error is in listing it: then it is not yet listed, or with the number of events that it had before, and due again.
func (c *Closer) Close(ctx context.Context, date table.Date) (events uint64, err error) {
	results, err := c.closeTogether(ctx, []table.Date{date})
	return results[date].events, errors.Join(err, results[date].err)
}

// closeTogether is Close for several days, which have few events together or are a single one. What is returned as the error is said of all
// days; each day may have one of its own beside it.
func (c *Closer) closeTogether(ctx context.Context, dates []table.Date) (results map[table.Date]result, err error) {
	results = map[table.Date]result{}
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return results, fmt.Errorf("close %s: %w", span(dates), err)
	}
	defer conn.Release()
	alone, err := lock(ctx, conn, dates)
	defer func() {
		// Also when ctx has ended: the connection goes back to the pool.
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1, d) FROM unnest($2::int[]) AS d", closingLocks, alone)
		err = errors.Join(err, unlockErr)
	}()
	if err != nil {
		return results, fmt.Errorf("close %s: %w", span(dates), err)
	}
	mine := make([]table.Date, 0, len(dates))
	for _, d := range dates {
		if !slices.Contains(alone, int32(d)) {
			results[d] = result{err: fmt.Errorf("close %s: %w", d, ErrBusy)}
			continue
		}
		mine = append(mine, d)
	}
	if len(mine) == 0 {
		return results, nil
	}
	began := time.Now()
	if err := c.closeAlone(ctx, mine, results); err != nil {
		return results, fmt.Errorf("close %s: %w", span(mine), err)
	}
	each := time.Since(began) / time.Duration(len(mine))
	for _, d := range mine {
		if r := results[d]; r.err == nil {
			c.metrics.closed(r.again, each)
			c.log.Info("closed a day", "date", d, "events", r.events, "again", r.again, "took", each.Round(time.Millisecond))
		}
	}
	return results, nil
}

// lock takes the locks of those days that nobody else is closing, and returns which they are.
func lock(ctx context.Context, conn *pgxpool.Conn, dates []table.Date) (alone []int32, err error) {
	keys := make([]int32, len(dates))
	for i, d := range dates {
		keys[i] = int32(d)
	}
	rows, err := conn.Query(ctx, "SELECT d, pg_try_advisory_lock($1, d) FROM unnest($2::int[]) AS d", closingLocks, keys)
	if err != nil {
		return nil, err
	}
	var key int32
	var got bool
	_, err = pgx.ForEachRow(rows, []any{&key, &got}, func() error {
		if got {
			alone = append(alone, key)
		}
		return nil
	})
	return alone, err
}

// span names days in an error.
func span(dates []table.Date) string {
	if len(dates) == 1 {
		return dates[0].String()
	}
	return fmt.Sprintf("%d days from %s to %s", len(dates), dates[0], dates[len(dates)-1])
}

func (c *Closer) closeAlone(ctx context.Context, dates []table.Date, results map[table.Date]result) (err error) {
	expired, err := ReadExpired(ctx, c.pool)
	if err != nil {
		return err
	}
	closed, err := ReadClosed(ctx, c.tables)
	if err != nil {
		return err
	}
	dates = slices.DeleteFunc(slices.Clone(dates), func(d table.Date) bool {
		results[d] = result{again: closed.Has(d)}
		if expired.Has(d) {
			results[d] = result{err: fmt.Errorf("close %s: its events have begun to expire", d)}
		}
		return expired.Has(d)
	})
	if len(dates) == 0 {
		return nil
	}
	in := " WHERE date IN (" + table.Dates(dates) + ")"
	// A day that is marked to be closed again must not lose events by that either.
	summed, err := c.numbers(ctx, "SELECT toUInt16(date) AS d, sumIf(events, dimension = '') FROM "+c.tables.All("days")+in+" GROUP BY d")
	if err != nil {
		return err
	}
	before := func(d table.Date) uint64 {
		if day, again := closed.Days[d]; again && day.Events == 0 {
			return summed[d]
		}
		return closed.Days[d].Events
	}
	// What is told of by hints after this moment may not be in what is computed.
	var at time.Time
	if err := c.tables.Row(ctx, "SELECT now64(3, 'UTC')", &at); err != nil {
		return err
	}
	// No two closings of a day have one name, also where the clock went back: who remembers a day asks whether it has another.
	for _, d := range dates {
		if last := closed.Days[d].At; !at.After(last) {
			at = last.Add(time.Millisecond)
		}
	}
	if err := c.step("stage"); err != nil {
		return err
	}
	changes, err := c.changes(ctx)
	if err != nil {
		return err
	}
	staging, err := c.stage(ctx)
	if err != nil {
		return err
	}
	if err := c.step("compute"); err != nil {
		return err
	}
	defer func() {
		if dropErr := c.tables.Exec(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS "+staging); dropErr != nil && err == nil {
			err = fmt.Errorf("drop staging table: %w", dropErr)
		}
	}()
	computed, err := c.compute(ctx, staging, dates)
	if err != nil {
		return err
	}
	if err := c.step("check"); err != nil {
		return err
	}
	// Retention may have dropped the events while they were read, so that only some of them were.
	now, err := c.numbers(ctx, "SELECT toUInt16(date) AS d, count() FROM "+c.tables.All("events")+in+" GROUP BY d")
	if err != nil {
		return err
	}
	changed, err := c.changes(ctx)
	if err != nil {
		return err
	}
	if err := c.step("swap"); err != nil {
		return err
	}
	var swapped []table.Date
	var failed error
	for _, d := range dates {
		r := results[d]
		switch of := computed[d]; {
		case of.moved || now[d] < of.events || changed != changes:
			r.err = fmt.Errorf("close %s: %w", d, ErrMoved)
		case of.events < before(d) || of.events == 0:
			r.err = fmt.Errorf("close %s: %w", d, ErrShrunk)
		default:
			if failed = c.tables.Exec(ctx, fmt.Sprintf("ALTER TABLE %s REPLACE PARTITION '%s' FROM %s", c.tables.Local("days"), d, staging)); failed != nil {
				failed = fmt.Errorf("swap %s in: %w", d, failed)
				break
			}
			r.events = of.events
			swapped = append(swapped, d)
		}
		results[d] = r
		if failed != nil {
			break // what was swapped until here is listed
		}
	}
	if len(swapped) > 0 {
		if err := c.list(ctx, swapped, at); err != nil {
			return errors.Join(failed, err)
		}
	}
	return errors.Join(failed, c.step("drop"))
}

// list lists days as closed, with what their rows add up to, so that the list never promises what the rows do not have.
func (c *Closer) list(ctx context.Context, dates []table.Date, at time.Time) error {
	if err := c.step("list"); err != nil {
		return err
	}
	if err := c.tables.Exec(ctx, fmt.Sprintf("INSERT INTO %s (date, events, closed_at) SELECT date, sum(events), toDateTime64(%s, 3, 'UTC') FROM %s WHERE date IN (%s) AND dimension = '' GROUP BY date",
		c.tables.Local("closed_days"), table.Time(at), c.tables.All("days"), table.Dates(dates))); err != nil {
		return fmt.Errorf("list as closed: %w", err)
	}
	return nil
}

// numbers reads a number of each day.
func (c *Closer) numbers(ctx context.Context, query string) (map[table.Date]uint64, error) {
	numbers := map[table.Date]uint64{}
	var date uint16
	var n uint64
	if err := c.tables.Each(ctx, query, []any{&date, &n}, func() error {
		numbers[table.Date(date)] = n
		return nil
	}); err != nil {
		return nil, fmt.Errorf("count the events of days: %w", err)
	}
	return numbers, nil
}
