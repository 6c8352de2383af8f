// Package day closes days: it computes what is kept of a day for ever from the day's events, into compact tables.
//
// A closed day is a pure function of its events. It is computed into a table of its own, swapped in by REPLACE PARTITION, and only then
// listed as closed; so whoever dies at any moment, or works at the same time, does no harm. It is computed again whenever the day has
// more events than it was closed with (a late stream), or its rows do not add up to them. It is never computed from fewer events than
// before: events do not disappear by themselves, so what is missing then is worth more than what would replace it.
package day

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/table"
)

// Options of a Closer. The zero value is usable.
type Options struct {
	// Grace is how long after its end in every time zone a day is closed; zero: 30 min, negative: none.
	Grace time.Duration
	// CompareEvery is how often every day's events are counted again; zero: 1 h.
	CompareEvery time.Duration
	// SliceEvents is how many events are computed in one statement, which bounds its memory; zero: 1 million.
	SliceEvents uint64
	// MaxValues is how many values of a column a closed day keeps of a profile; zero: 1000. The rest of them is kept as one value: Other.
	MaxValues int
	// OrphanAge is from what age on an abandoned staging table is dropped; zero: 6 h. Longer than it takes to close any day.
	OrphanAge time.Duration
	// Rest is how long a day that was closed is left alone though events came late; zero: 5 s. It is at least ten times as long as the
	// closing took, so that a stream that stays late does not keep rollup busy.
	Rest time.Duration
	// Now is the clock that says which days are over; nil: time.Now.
	Now func() time.Time
}

// Closer closes days. Several of them, in several processes, may work on the same tables.
type Closer struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	options Options
	metrics *Metrics
	log     *slog.Logger

	// step is called before each step of a closing; an error ends it there. Tests crash there.
	step func(string) error

	wake chan struct{}

	mu      sync.Mutex // guards what follows
	late    map[table.Date]bool
	working bool

	compared time.Time // when all days were compared last
	through  table.Date
	rested   map[table.Date]time.Time // until when a day is left alone
	shrunk   map[table.Date]bool      // days that were found with fewer events, and reported
}

// NewCloser returns a closer.
func NewCloser(t *table.Tables, pool *pgxpool.Pool, o Options, m *Metrics, log *slog.Logger) *Closer {
	if o.Grace == 0 {
		o.Grace = 30 * time.Minute
	}
	if o.CompareEvery == 0 {
		o.CompareEvery = time.Hour
	}
	if o.SliceEvents == 0 {
		o.SliceEvents = 1_000_000
	}
	if o.MaxValues == 0 {
		o.MaxValues = 1000
	}
	if o.OrphanAge == 0 {
		o.OrphanAge = 6 * time.Hour
	}
	if o.Rest == 0 {
		o.Rest = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Closer{tables: t, pool: pool, options: o, metrics: m, log: log, step: func(string) error { return nil },
		wake: make(chan struct{}, 1), late: map[table.Date]bool{}, rested: map[table.Date]time.Time{}, shrunk: map[table.Date]bool{}}
}

// over returns the latest date that may be closed: at UTC-12 it ends at noon of the next day in UTC.
func (c *Closer) over(now time.Time) table.Date {
	return table.DateOf(now.Add(-max(c.options.Grace, 0)-12*time.Hour)) - 1
}

// Late tells that closed days got events. They are compared, and closed again if need be, soon.
func (c *Closer) Late(dates []table.Date) {
	c.mu.Lock()
	for _, d := range dates {
		c.late[d] = true
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Busy says whether days that got events late are still to be looked at.
func (c *Closer) Busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.late) > 0 || c.working
}

// Run closes days until ctx ends.
func (c *Closer) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for wait := time.Duration(0); ; {
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
		if err := c.Round(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("days cannot be closed now", "error", err)
			c.metrics.failures.Inc()
			wait = min(max(2*wait, time.Second), 30*time.Second)
			continue
		}
		wait = 0
		select {
		case <-tick.C:
		case <-c.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Round closes what is due: late days, and, when a day has ended or an hour has passed, whatever a comparison of all days finds.
func (c *Closer) Round(ctx context.Context) error {
	now := c.options.Now()
	c.mu.Lock()
	all := now.Sub(c.compared) >= c.options.CompareEvery || c.over(now) != c.through
	var dates []table.Date
	for d := range c.late {
		if all || !now.Before(c.rested[d]) {
			dates = append(dates, d)
		}
	}
	c.working = all || len(dates) > 0
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.working = false
		c.mu.Unlock()
	}()
	if !all && len(dates) == 0 {
		return nil
	}
	slices.Sort(dates)
	if all {
		if err := c.sweepStaging(ctx); err != nil {
			return err
		}
		dates = nil
	}
	// What comes from now on is told of again.
	c.mu.Lock()
	taken := maps.Clone(c.late)
	if all {
		clear(c.late)
	} else {
		maps.DeleteFunc(taken, func(d table.Date, _ bool) bool { return !slices.Contains(dates, d) })
		for _, d := range dates {
			delete(c.late, d)
		}
	}
	c.mu.Unlock()
	if err := c.due(ctx, dates, now); err != nil {
		c.mu.Lock()
		maps.Copy(c.late, taken)
		c.mu.Unlock()
		return err
	}
	if all {
		c.compared, c.through = now, c.over(now)
	}
	return nil
}

// due compares days, all of them if dates is nil, and closes those that differ.
func (c *Closer) due(ctx context.Context, dates []table.Date, now time.Time) error {
	states, err := c.Compare(ctx, dates)
	if err != nil {
		return err
	}
	var failed error
	shrunk := map[table.Date]bool{}
	for _, s := range states {
		switch {
		case s.Expired || s.Date > c.over(now):
		case s.Shrunk():
			shrunk[s.Date] = true
			if !c.shrunk[s.Date] {
				c.log.Warn("a closed day has fewer events than it was closed with: it is kept as it is", "date", s.Date, "closed", s.Closed, "events", s.Events)
			}
		case s.Differs():
			began := time.Now()
			_, err := c.Close(ctx, s.Date)
			c.rested[s.Date] = now.Add(max(c.options.Rest, 10*time.Since(began)))
			if errors.Is(err, ErrMoved) || errors.Is(err, ErrBusy) || errors.Is(err, ErrChanging) {
				c.Late([]table.Date{s.Date})
				c.log.Debug("a day is closed later", "date", s.Date, "reason", err)
				err = nil
			}
			if err != nil {
				failed = errors.Join(failed, err)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if dates == nil {
		c.shrunk = shrunk
		c.metrics.shrunk.Set(float64(len(shrunk)))
		maps.DeleteFunc(c.rested, func(_ table.Date, until time.Time) bool { return until.Before(now) })
	}
	return failed
}

// State is what is known of a day.
type State struct {
	Date    table.Date
	Events  uint64 // in the table of events
	Closed  uint64 // as many it was closed with
	Summed  uint64 // as many its closed rows add up to
	Listed  bool   // it is listed as closed
	Expired bool   // its events were dropped, or are about to be
	Due     bool   // it is marked to be closed again; Closed is what its rows add up to
}

// Shrunk says that there are fewer events than the day was closed with.
func (s State) Shrunk() bool { return s.Listed && s.Events < s.Closed }

// Differs says that the closed day is not what its events are.
func (s State) Differs() bool {
	return !s.Shrunk() && s.Events > 0 && (!s.Listed || s.Due || s.Events != s.Closed || s.Events != s.Summed)
}

// Compare tells of the given dates, or of all if dates is nil, what events and closed rows there are. In the order of the dates.
func (c *Closer) Compare(ctx context.Context, dates []table.Date) ([]State, error) {
	expired, err := ReadExpired(ctx, c.pool)
	if err != nil {
		return nil, err
	}
	return Compare(ctx, c.tables, expired, dates)
}

// Compare is Closer.Compare, with the list of expired months given.
func Compare(ctx context.Context, t *table.Tables, expired Expired, dates []table.Date) ([]State, error) {
	where := ""
	if dates != nil {
		where = " WHERE date IN (" + table.Dates(dates) + ")"
	}
	closed, err := ReadClosed(ctx, t)
	if err != nil {
		return nil, err
	}
	states := map[table.Date]*State{}
	state := func(d table.Date) *State {
		if states[d] == nil {
			day, listed := closed.Days[d]
			states[d] = &State{Date: d, Closed: day.Events, Listed: listed, Expired: expired.Has(d)}
		}
		return states[d]
	}
	var date uint16
	var n uint64
	for _, q := range []struct {
		query string
		field func(*State) *uint64
	}{
		// Closed rows first: what comes meanwhile makes the day look older than it is, never newer.
		{"SELECT toUInt16(date) AS d, sumIf(events, dimension = '') FROM " + t.All("days") + where + " GROUP BY d", func(s *State) *uint64 { return &s.Summed }},
		{"SELECT toUInt16(date) AS d, count() FROM " + t.All("events") + where + " GROUP BY d", func(s *State) *uint64 { return &s.Events }},
	} {
		if err := t.Each(ctx, q.query, []any{&date, &n}, func() error {
			*q.field(state(table.Date(date))) = n
			return nil
		}); err != nil {
			return nil, fmt.Errorf("compare days with their events: %w", err)
		}
	}
	for _, d := range closed.Dates() {
		if dates == nil || slices.Contains(dates, d) {
			state(d)
		}
	}
	for _, s := range states {
		if s.Listed && s.Closed == 0 {
			s.Due, s.Closed = true, s.Summed
		}
	}
	list := make([]State, 0, len(states))
	for _, d := range slices.Sorted(maps.Keys(states)) {
		list = append(list, *states[d])
	}
	return list, nil
}

// ErrBusy is returned when another rollup is closing the day.
var ErrBusy = errors.New("another rollup is closing the day")

// ErrShrunk is returned when a day would be closed with fewer events than it was closed with before.
var ErrShrunk = errors.New("the day has fewer events than it was closed with")

// closingLocks is the first key of the advisory locks that keep rollups from doing the same work; the second is the date. They save work;
// nothing depends on them.
const closingLocks = 0x53505754

// Close computes a day and swaps it in, and returns how many events it has. The day stays as it was when an error is returned, unless
// the error is in listing it: then it is not yet listed, or with the number of events that it had before, and due again.
func (c *Closer) Close(ctx context.Context, date table.Date) (events uint64, err error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("close %s: %w", date, err)
	}
	defer conn.Release()
	var alone bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", closingLocks, int32(date)).Scan(&alone); err != nil {
		return 0, fmt.Errorf("close %s: %w", date, err)
	}
	if !alone {
		return 0, fmt.Errorf("close %s: %w", date, ErrBusy)
	}
	defer func() {
		// Also when ctx has ended: the connection goes back to the pool.
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1, $2)", closingLocks, int32(date))
		err = errors.Join(err, unlockErr)
	}()
	began := time.Now()
	events, again, err := c.closeAlone(ctx, date)
	if err != nil {
		return 0, err
	}
	c.metrics.closed(again, time.Since(began))
	c.log.Info("closed a day", "date", date, "events", events, "again", again, "took", time.Since(began).Round(time.Millisecond))
	return events, nil
}

func (c *Closer) closeAlone(ctx context.Context, date table.Date) (events uint64, again bool, err error) {
	expired, err := ReadExpired(ctx, c.pool)
	if err != nil {
		return 0, false, err
	}
	if expired.Has(date) {
		return 0, false, fmt.Errorf("close %s: its events have begun to expire", date)
	}
	closed, err := ReadClosed(ctx, c.tables)
	if err != nil {
		return 0, false, err
	}
	before, again := closed.Days[date]
	if again && before.Events == 0 {
		// Marked to be closed again: it must not lose events by that either.
		if err := c.tables.Row(ctx, "SELECT sumIf(events, dimension = '') FROM "+c.tables.All("days")+" WHERE date = "+date.Literal(), &before.Events); err != nil {
			return 0, again, fmt.Errorf("close %s: %w", date, err)
		}
	}
	// What is told of by hints after this moment may not be in what is computed.
	var at time.Time
	if err := c.tables.Row(ctx, "SELECT now64(3, 'UTC')", &at); err != nil {
		return 0, again, fmt.Errorf("close %s: %w", date, err)
	}
	if err := c.step("stage"); err != nil {
		return 0, again, err
	}
	changes, err := c.changes(ctx)
	if err != nil {
		return 0, again, fmt.Errorf("close %s: %w", date, err)
	}
	staging, err := c.stage(ctx)
	if err != nil {
		return 0, again, fmt.Errorf("close %s: %w", date, err)
	}
	if err := c.step("compute"); err != nil {
		return 0, again, err
	}
	defer func() {
		if dropErr := c.tables.Exec(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS "+staging); dropErr != nil && err == nil {
			err = fmt.Errorf("drop staging table: %w", dropErr)
		}
	}()
	if events, err = c.compute(ctx, staging, date); err != nil {
		return 0, again, err
	}
	if err := c.step("check"); err != nil {
		return 0, again, err
	}
	// Retention may have dropped the events while they were read, so that only some of them were.
	var now uint64
	if err := c.tables.Row(ctx, "SELECT count() FROM "+c.tables.All("events")+" WHERE date = "+date.Literal(), &now); err != nil {
		return 0, again, fmt.Errorf("close %s: %w", date, err)
	}
	changed, err := c.changes(ctx)
	if err != nil {
		return 0, again, fmt.Errorf("close %s: %w", date, err)
	}
	switch {
	case now < events || changed != changes:
		return 0, again, fmt.Errorf("close %s: %w", date, ErrMoved)
	case events < before.Events || events == 0:
		return 0, again, fmt.Errorf("close %s: %w", date, ErrShrunk)
	}
	if err := c.step("swap"); err != nil {
		return 0, again, err
	}
	if err := c.tables.Exec(ctx, fmt.Sprintf("ALTER TABLE %s REPLACE PARTITION '%s' FROM %s", c.tables.Local("days"), date, staging)); err != nil {
		return 0, again, fmt.Errorf("swap %s in: %w", date, err)
	}
	if err := c.step("list"); err != nil {
		return 0, again, err
	}
	// Listed with what its rows add up to, so that the list never promises what the rows do not have.
	if err := c.tables.Exec(ctx, fmt.Sprintf("INSERT INTO %s (date, events, closed_at) SELECT date, sum(events), toDateTime64(%s, 3, 'UTC') FROM %s WHERE date = %s AND dimension = '' GROUP BY date",
		c.tables.Local("closed_days"), table.Time(at), c.tables.All("days"), date.Literal())); err != nil {
		return 0, again, fmt.Errorf("list %s as closed: %w", date, err)
	}
	return events, again, c.step("drop")
}
