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
	// SliceEvents is how many events of a day are computed in one statement, which bounds its memory; zero: 1.5 million. Small days are
	// computed together, up to a fifth of it.
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
	backlog int

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
		o.SliceEvents = 1_500_000
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

// Backlog is how many days are known to be due and not yet closed.
func (c *Closer) Backlog() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backlog
}

func (c *Closer) setBacklog(days int) {
	c.mu.Lock()
	c.backlog = days
	c.mu.Unlock()
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
	var differ []State
	for _, s := range states {
		switch {
		case s.Expired || s.Date > c.over(now):
		case s.Shrunk():
			shrunk[s.Date] = true
			if !c.shrunk[s.Date] {
				c.log.Warn("a closed day has fewer events than it was closed with: it is kept as it is", "date", s.Date, "closed", s.Closed, "events", s.Events)
			}
		case s.Differs():
			differ = append(differ, s)
		}
	}
	defer c.setBacklog(0)
	for len(differ) > 0 {
		c.setBacklog(len(differ))
		dates := c.together(differ)
		differ = differ[len(dates):]
		began := time.Now()
		results, err := c.closeTogether(ctx, dates)
		if err != nil && len(dates) > 1 && ctx.Err() == nil && !errors.Is(err, ErrChanging) {
			// It may be one of them that cannot be closed: the others do not wait for it.
			results, err = c.closeEach(ctx, dates)
		}
		if errors.Is(err, ErrChanging) {
			c.Late(dates)
			c.log.Debug("days are closed later", "days", len(dates), "reason", err)
			err = nil
		}
		failed = errors.Join(failed, err)
		rest := max(c.options.Rest, 10*time.Since(began)/time.Duration(len(dates)))
		for _, date := range dates {
			c.rested[date] = now.Add(rest)
			switch err := results[date].err; {
			case errors.Is(err, ErrMoved) || errors.Is(err, ErrBusy):
				c.Late([]table.Date{date})
				c.log.Debug("a day is closed later", "date", date, "reason", err)
			case err != nil:
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
		if err := c.trim(ctx, states, now); err != nil && ctx.Err() == nil {
			c.log.Warn("bytes that are not needed any more stay until the next comparison", "error", err) // no number depends on it
		}
	}
	return failed
}

// closeEach is closeTogether, a day at a time.
func (c *Closer) closeEach(ctx context.Context, dates []table.Date) (map[table.Date]result, error) {
	results := map[table.Date]result{}
	var failed error
	for _, d := range dates {
		one, err := c.closeTogether(ctx, []table.Date{d})
		results[d] = one[d]
		failed = errors.Join(failed, err)
	}
	return results, failed
}

// mostTogether is how many days are computed in one statement at most: ClickHouse refuses a block of rows for more than a hundred partitions.
const mostTogether = 50

// together returns the first days of a list that are closed in one go: each statement has a price of its own, which for a small day is more
// than that of its events.
func (c *Closer) together(differ []State) []table.Date {
	var dates []table.Date
	var events uint64
	for _, s := range differ {
		if events += s.Events; len(dates) == mostTogether || len(dates) > 0 && events > c.options.SliceEvents/5 {
			break
		}
		dates = append(dates, s.Date)
	}
	return dates
}
