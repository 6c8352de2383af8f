package counters

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// Options of an Updater. The zero value is usable.
type Options struct {
	// Slice is how many profiles are read and set at a time; zero: 2000.
	Slice int
	// Budget is how long a round may spend on sweeps, beside what changed; zero: 700 ms.
	Budget time.Duration
	// OpenEvery is how often the profiles of open days are looked at without a hint; zero: 5 min.
	OpenEvery time.Duration
	// FullEvery is how often all profiles are; zero: 6 h. They are at a start, and after ClickHouse was started.
	FullEvery time.Duration
	// Proof is how long it may take to prove that all is counted and still be done in every round; zero: 50 ms. What takes longer rests.
	Proof time.Duration
	// Late is told the closed days that got events after they were computed; nil: nobody is.
	Late func([]table.Date)
	// Backlog says how many days are about to be closed; nil: none. While there are several, sweeps wait: each would read what is about to change,
	// and take the time that closing needs. Hints are followed all the same.
	Backlog func() int
}

// window is how much older than the last round a hint may be when it is first seen: how long the insert of a hint may take.
const window = 10 * time.Second

// maxDateSweeps is how many sweeps of single days are planned beside each other: of more days a sweep of all profiles costs less.
const maxDateSweeps = 4

// patience bounds the reading and setting of one slice.
const patience = 30 * time.Second

// Updater keeps the counters up to date, a round at a time. It is not safe for concurrent use; several of them, in several processes,
// may work on the same tables.
type Updater struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	options Options
	metrics *Metrics
	log     *slog.Logger

	kept      Kept
	closed    day.Closed
	signature closedSignature
	listed    bool // closed was read
	// seen has, for the profiles whose hints are younger than the window, ClickHouse's clock at the last reading: what a hint of an
	// earlier time tells of is in that reading.
	seen    map[uint64]time.Time
	last    time.Time // ClickHouse's clock at the last round that succeeded; zero: none did
	started time.Time // when ClickHouse was started
	opened  time.Time // ClickHouse's clock when the last open sweep began
	full    time.Time // … the last full one
	sweeps  []*sweep
	proof   proof
}

// NewUpdater returns an updater that begins with a full sweep.
func NewUpdater(t *table.Tables, pool *pgxpool.Pool, o Options, m *Metrics, log *slog.Logger) *Updater {
	if o.Slice == 0 {
		o.Slice = 2000
	}
	if o.Budget == 0 {
		o.Budget = 700 * time.Millisecond
	}
	if o.OpenEvery == 0 {
		o.OpenEvery = 5 * time.Minute
	}
	if o.Proof == 0 {
		o.Proof = 50 * time.Millisecond
	}
	if o.FullEvery == 0 {
		o.FullEvery = 6 * time.Hour
	}
	return &Updater{tables: t, pool: pool, options: o, metrics: m, log: log, seen: map[uint64]time.Time{}}
}

// closedSignature changes whenever the list of closed days does.
type closedSignature struct {
	rows uint64
	last time.Time
}

// state is what one cheap query tells.
type state struct {
	now    time.Time
	uptime uint64 // seconds
	hints  uint64
	oldest time.Time // of the hints
	newest time.Time
	closed closedSignature
	rows   uint64 // of events
}

func (u *Updater) look(ctx context.Context) (state, error) {
	var s state
	err := u.tables.Row(ctx, `SELECT now64(3, 'UTC'), toUInt64(uptime()), count(), min(at), max(at),
			(SELECT count() FROM `+u.tables.All("closed_days")+`), (SELECT max(closed_at) FROM `+u.tables.All("closed_days")+`),
			(SELECT count() FROM `+u.tables.All("events")+`)
		FROM `+u.tables.All("changed"), &s.now, &s.uptime, &s.hints, &s.oldest, &s.newest, &s.closed.rows, &s.closed.last, &s.rows)
	if err != nil {
		return state{}, fmt.Errorf("look for changes: %w", err)
	}
	return s, nil
}

// Round brings the counters up to date with what ClickHouse had when it was called, as far as hints tell, goes on with a sweep that is due,
// and looks whether the hints told all. It returns whether everything is in the counters that was in ClickHouse when it was called.
func (u *Updater) Round(ctx context.Context) (settled bool, err error) {
	s, err := u.look(ctx)
	if err != nil {
		return false, err
	}
	u.distrust(s)
	if s.closed != u.signature || !u.listed {
		if err := u.readClosed(ctx, s.closed); err != nil {
			return false, err
		}
	}
	since := u.last.Add(-window)
	late := false
	if s.hints > 0 && (u.last.IsZero() || s.newest.After(since)) {
		if late, err = u.followHints(ctx, since); err != nil {
			return false, err
		}
	}
	if err := u.sweep(ctx); err != nil {
		return false, err
	}
	// A sweep of the open days repairs what nobody knows to be wrong; the others must have ended.
	if !slices.ContainsFunc(u.sweeps, func(s *sweep) bool { return s.kind != "open" }) {
		if settled, err = u.prove(ctx, s); err != nil {
			return false, err
		}
	}
	u.last = s.now
	maps.DeleteFunc(u.seen, func(_ uint64, at time.Time) bool { return at.Before(s.now.Add(-window)) })
	return settled && !late, nil
}

// distrust plans sweeps where hints cannot have told everything.
func (u *Updater) distrust(s state) {
	started := s.now.Add(-time.Duration(s.uptime) * time.Second)
	restarted := u.started.IsZero() || started.Sub(u.started).Abs() > 5*time.Second
	back := s.now.Before(u.last.Add(-time.Second)) // its clock went back, and hints with it
	switch {
	case restarted || back:
		if !u.started.IsZero() {
			u.log.Info("ClickHouse was started or its clock moved: all counters are computed again")
		}
		u.started, u.last, u.kept, u.proof = started, time.Time{}, Kept{}, proof{}
		u.proof.follow(u.closed)
		clear(u.seen)
		u.plan(&sweep{kind: "full"}, s.now)
	case s.now.Sub(u.full) > u.options.FullEvery:
		u.plan(&sweep{kind: "full"}, s.now)
	case s.hints >= 100_000 && s.oldest.After(u.last.Add(-window)) && s.now.Sub(u.opened) > 30*time.Second:
		// The table drops its oldest rows above that many; some may have been dropped before they were seen.
		u.metrics.hints.Inc()
		u.plan(&sweep{kind: "open"}, s.now)
	case s.now.Sub(u.opened) > u.options.OpenEvery:
		u.plan(&sweep{kind: "open"}, s.now)
	}
}

// plan puts a sweep behind the others, in the place of one that it includes.
func (u *Updater) plan(s *sweep, now time.Time) {
	s.began = time.Now()
	if s.kind == "full" {
		u.full, u.opened, u.sweeps = now, now, nil
	}
	if s.kind == "open" {
		u.opened = now
	}
	u.sweeps = slices.DeleteFunc(u.sweeps, func(old *sweep) bool { return old.kind == s.kind && old.date == s.date })
	u.sweeps = append(u.sweeps, s)
}

// readClosed reads the list of closed days again. The profiles of a day that was closed are looked at: their numbers change by what
// came late, and by exact visitors in the place of approximate ones.
func (u *Updater) readClosed(ctx context.Context, signature closedSignature) error {
	closed, err := day.ReadClosed(ctx, u.tables)
	if err != nil {
		return err
	}
	if u.listed { // otherwise a full sweep is planned
		changed := closed.Changed(u.closed)
		if len(changed)+len(u.sweeps) > maxDateSweeps {
			u.plan(&sweep{kind: "full"}, u.last)
			changed = nil
		}
		for _, d := range changed {
			u.plan(&sweep{kind: "date", date: d}, u.last)
		}
	}
	if due := closed.Due(); len(due) > 0 && u.options.Late != nil {
		u.options.Late(due)
	}
	u.closed, u.signature, u.listed = closed, signature, true
	u.proof.follow(closed)
	return nil
}

// followHints updates the profiles that got events since they were read last, and says whether some of those events are of days that were
// closed before them.
func (u *Updater) followHints(ctx context.Context, since time.Time) (anyLate bool, err error) {
	condition := "true"
	if !u.last.IsZero() {
		condition = "at >= " + table.Time(since)
	}
	newest := map[uint64]time.Time{}
	late := map[table.Date]bool{}
	var profile uint64
	var date uint16
	var at time.Time
	err = u.tables.Each(ctx, "SELECT profile_id, toUInt16(date) AS d, max(at) FROM "+u.tables.All("changed")+" WHERE "+condition+" GROUP BY profile_id, d",
		[]any{&profile, &date, &at}, func() error {
			if at.After(newest[profile]) {
				newest[profile] = at
			}
			// A hint is made after its events are there: what it tells of is in a day that was computed later.
			if closed, ok := u.closed.Days[table.Date(date)]; ok && !at.Before(closed.At) {
				late[table.Date(date)] = true
			}
			return nil
		})
	if err != nil {
		return false, fmt.Errorf("read hints: %w", err)
	}
	if len(late) > 0 && u.options.Late != nil {
		u.options.Late(slices.Sorted(maps.Keys(late)))
	}
	var ids []uint64
	for id, at := range newest {
		if read, ok := u.seen[id]; !ok || !at.Before(read) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for slice := range slices.Chunk(ids, u.options.Slice) {
		if err := u.update(ctx, slice, "hint"); err != nil {
			return false, err
		}
	}
	return len(late) > 0, nil
}

// update reads and sets the numbers of some profiles.
func (u *Updater) update(ctx context.Context, ids []uint64, cause string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := Read(ctx, u.tables, u.closed, &u.kept, ids)
	if err != nil {
		return err
	}
	w, err := Write(ctx, u.pool, r)
	if err != nil {
		return err
	}
	u.proof.read(r, w.Stayed == 0)
	// Hints have milliseconds.
	at := r.AsOf.Truncate(time.Millisecond)
	for _, id := range ids {
		u.seen[id] = at
	}
	u.metrics.profiles.WithLabelValues(cause).Add(float64(len(ids)))
	u.metrics.rows.WithLabelValues("profile_counters").Add(float64(w.Profiles))
	u.metrics.rows.WithLabelValues("link_counters").Add(float64(w.Links))
	return nil
}

// sweep goes on with the sweeps that are planned until the budget is spent, at least by a slice.
func (u *Updater) sweep(ctx context.Context) error {
	if u.options.Backlog != nil && u.options.Backlog() > 1 {
		return nil
	}
	for began := time.Now(); len(u.sweeps) > 0; {
		s := u.sweeps[0]
		position := *s
		ids, err := s.slice(ctx, u)
		if err == nil && len(ids) > 0 {
			err = u.update(ctx, ids, s.kind)
		}
		if err != nil {
			*s = position
			return err
		}
		if s.done {
			u.sweeps = u.sweeps[1:]
			u.metrics.sweeps.WithLabelValues(s.kind).Inc()
			u.metrics.duration.WithLabelValues(s.kind).Observe(time.Since(s.began).Seconds())
		}
		if time.Since(began) > u.options.Budget {
			break
		}
	}
	return nil
}
