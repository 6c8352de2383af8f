// Package retention lets raw events expire, a whole month at a time. What was counted of them stays: the closed days, and the record of
// which sequences of each stream there were, so that none of them is taken for missing, or taken in again.
//
// A month goes in steps, each of which may be the last one before a death:
//
//  1. every day of it is closed with exactly the events that it has;
//  2. the sequences of its streams are recorded, together with what was recorded before;
//  3. it still has the events that it had;
//  4. it is marked as expired: from now on none of its days is closed again;
//  5. its events are dropped.
//
// Nothing is inserted into the month meanwhile, because ingest sets aside what is of a month older than the retention, which must be told
// both services alike (SPILLWAY_RETENTION_DAYS), and the margin between the two is longer than an insert can take and than clocks differ.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/stream"
	"spillway.dev/rollup/table"
)

// Least is the shortest retention in days: longer than any day is open, and than a stream is usually late.
const Least = 32

// margin is how much longer than the retention a month is kept, so that ingest no longer writes into it.
const margin = 2 * 24 * time.Hour

// every is how often it is looked for months that may go.
const every = time.Hour

// lock is the advisory lock of whoever lets months expire: records of two at once could miss each other's months.
const lock = 0x5350_5758

// Options of an Expiry.
type Options struct {
	Days int              // raw events are kept for at least as many days
	Now  func() time.Time // nil: time.Now
}

// Expiry lets months expire.
type Expiry struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	closer  *day.Closer
	options Options
	log     *slog.Logger

	// step is called before each step; an error ends the round there. Tests die there.
	step func(string) error
}

// NewExpiry returns an expiry that closes days by closer.
func NewExpiry(t *table.Tables, pool *pgxpool.Pool, closer *day.Closer, o Options, log *slog.Logger) *Expiry {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Expiry{tables: t, pool: pool, closer: closer, options: o, log: log, step: func(string) error { return nil }}
}

// Run lets months expire until ctx ends.
func (x *Expiry) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := x.Round(ctx); err != nil && ctx.Err() == nil {
			x.log.Warn("raw events cannot expire now", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Round drops the months that are old enough, the oldest first.
func (x *Expiry) Round(ctx context.Context) (err error) {
	conn, err := x.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("let months expire: %w", err)
	}
	defer conn.Release()
	var alone bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", lock).Scan(&alone); err != nil {
		return fmt.Errorf("let months expire: %w", err)
	}
	if !alone {
		return nil // another rollup is at it
	}
	defer func() {
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", lock)
		err = errors.Join(err, unlockErr)
	}()
	var months []time.Time
	var month uint32
	if err := x.tables.Each(ctx, "SELECT toYYYYMM(date) AS m FROM "+x.tables.All("events")+" GROUP BY m ORDER BY m", []any{&month}, func() error {
		first := time.Date(int(month/100), time.Month(month%100), 1, 0, 0, 0, 0, time.UTC)
		if x.old(first) {
			months = append(months, first)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("list months of events: %w", err)
	}
	for _, m := range months {
		if err := x.expire(ctx, m); err != nil {
			// The next one may not overtake: records grow in the order of the months.
			return fmt.Errorf("let %s expire: %w", m.Format("2006-01"), err)
		}
	}
	return nil
}

// old says whether all of a month is older than the retention.
func (x *Expiry) old(first time.Time) bool {
	return first.AddDate(0, 1, x.options.Days).Add(margin).Before(x.options.Now())
}

// errLateRows is returned for a month that has been dropped and has rows again.
var errLateRows = errors.New("events were inserted after it had expired: they are not counted, and left for you to look at")

func (x *Expiry) expire(ctx context.Context, month time.Time) error {
	began := time.Now()
	if err := x.step("close"); err != nil {
		return err
	}
	events, err := x.closed(ctx, month)
	if err != nil {
		return err
	}
	if err := x.step("record"); err != nil {
		return err
	}
	if err := x.record(ctx, month); err != nil {
		return err
	}
	if err := x.step("check"); err != nil {
		return err
	}
	again, err := x.closed(ctx, month)
	if err != nil {
		return err
	}
	if again != events {
		return fmt.Errorf("%d events came while it was recorded", again-events)
	}
	if err := x.step("mark"); err != nil {
		return err
	}
	if _, err := x.pool.Exec(ctx, "INSERT INTO expired_months (month) VALUES ($1) ON CONFLICT DO NOTHING", month); err != nil {
		return fmt.Errorf("mark it: %w", err)
	}
	if err := x.step("drop"); err != nil {
		return err
	}
	if err := x.tables.Exec(ctx, fmt.Sprintf("ALTER TABLE %s %s DROP PARTITION ID '%s'", x.tables.Local("events"), x.tables.OnCluster(), month.Format("200601"))); err != nil {
		return fmt.Errorf("drop its events: %w", err)
	}
	x.log.Info("raw events of a month have expired", "month", month.Format("2006-01"), "events", events, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// closed closes the days of a month that are not, and returns how many events they have.
func (x *Expiry) closed(ctx context.Context, month time.Time) (uint64, error) {
	var dates []table.Date
	for d := month; d.Month() == month.Month(); d = d.AddDate(0, 0, 1) {
		dates = append(dates, table.DateOf(d))
	}
	states, err := x.closer.Compare(ctx, dates)
	if err != nil {
		return 0, err
	}
	var events uint64
	for _, s := range states {
		if s.Differs() && !s.Expired {
			if s.Events, err = x.closer.Close(ctx, s.Date); err != nil {
				return 0, err
			}
			s.Closed, s.Summed = s.Events, s.Events
		}
		switch {
		case s.Expired && s.Events != s.Closed:
			return 0, errLateRows
		case s.Events != s.Closed || s.Events != s.Summed:
			return 0, fmt.Errorf("%s has %d events, was closed with %d, and its closed rows add up to %d", s.Date, s.Events, s.Closed, s.Summed)
		}
		events += s.Events
	}
	return events, nil
}

// record adds the sequences of the month's rows to the record of what expired.
func (x *Expiry) record(ctx context.Context, month time.Time) error {
	// The version of what is written is the time before anything was read: whoever read later knew more.
	var at time.Time
	if err := x.tables.Row(ctx, "SELECT now64(3, 'UTC')", &at); err != nil {
		return fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	before, err := stream.LoadExpired(ctx, x.tables)
	if err != nil {
		return err
	}
	present, err := stream.LoadPartition(ctx, x.tables, month.Format("200601"))
	if err != nil {
		return err
	}
	batch, err := x.tables.Batch(ctx, "INSERT INTO "+x.tables.Local("expired_streams")+" (partition, stream, highest, holes, events, recorded_at)")
	if err != nil {
		return fmt.Errorf("record streams: %w", err)
	}
	for name, rows := range present {
		all := stream.Union(append(rows, before[name]...)...)
		present[name] = all
		highest := all[len(all)-1].Last
		holes := [][]any{}
		for _, hole := range (stream.Ranges{{First: 1, Last: highest}}).Minus(all) {
			holes = append(holes, []any{hole.First, hole.Last})
		}
		if err := batch.Append(name.Partition, name.Stream, highest, holes, all.Count(), at); err != nil {
			return fmt.Errorf("record streams: %w", err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("record streams: %w", err)
	}
	recorded, err := stream.LoadExpired(ctx, x.tables)
	if err != nil {
		return err
	}
	for name, all := range present {
		if left := all.Minus(recorded[name]); len(left) > 0 {
			return fmt.Errorf("the record of stream %s in partition %d lacks %d events", stream.Hex(name.Stream), name.Partition, left.Count())
		}
	}
	return nil
}
