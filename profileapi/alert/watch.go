package alert

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/insight"
)

// Options of a watch. The zero value is usable.
type Options struct {
	// Every is how often it looks; zero: 10 s.
	Every time.Duration
	// Private lets webhooks lead to this machine and the network around it, and over http.
	Private bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Watch looks for what creators are to be told, and tells them.
type Watch struct {
	pool    *pgxpool.Pool
	store   *Store
	reader  *insight.Reader
	log     *slog.Logger
	every   time.Duration
	now     func() time.Time
	client  *http.Client
	checked time.Time // the hour that was compared last
}

// NewWatch returns a watch; it works while Run does.
func NewWatch(pool *pgxpool.Pool, reader *insight.Reader, o Options, log *slog.Logger) *Watch {
	if o.Every == 0 {
		o.Every = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Watch{pool: pool, store: NewStore(pool), reader: reader, log: log, every: o.Every, now: o.Now, client: client(o.Private)}
}

// leaderLock is held by the one process that works; any number that nothing else locks.
const leaderLock = 0x5350_494c_4c41_4c52

// Run works until ctx ends, whenever no other process does.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if err := w.round(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("alerts cannot be looked for now", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round does everything once, under the lock.
func (w *Watch) round(ctx context.Context) error {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("look for alerts: %w", err)
	}
	defer conn.Release()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, int64(leaderLock)).Scan(&mine); err != nil || !mine {
			return err
		}
		if err := w.milestones(ctx); err != nil {
			return err
		}
		if hour := w.now().UTC().Truncate(time.Hour); hour.After(w.checked) && w.now().Sub(hour) > 2*time.Minute {
			if err := w.hours(ctx, hour); err != nil {
				return err
			}
			w.checked = hour
		}
		_, err := w.deliver(ctx)
		return err
	})
}

// reached returns the highest milestone that n has reached: 100, 250, 500, 1000, 2500 …; zero: none.
func reached(n int64) int64 {
	if n < 100 {
		return 0
	}
	power := int64(math.Pow10(len(strconv.FormatInt(n, 10)) - 1))
	switch {
	case n >= 5*power:
		return 5 * power
	case 2*n >= 5*power:
		return 5 * power / 2
	}
	return power
}

// milestones tells of lifetime numbers that have become round. Profiles whose numbers changed just now are looked at.
func (w *Watch) milestones(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `
		SELECT c.profile_id, c.views, c.clicks FROM profile_counters c JOIN profiles p ON p.id = c.profile_id AND p.deleted_at IS NULL
		WHERE c.class = 'person' AND c.as_of > now() - interval '10 minutes' AND (c.views >= 100 OR c.clicks >= 100)`)
	if err != nil {
		return fmt.Errorf("look for milestones: %w", err)
	}
	type counted struct{ Profile, Views, Clicks int64 }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counted])
	if err != nil {
		return fmt.Errorf("look for milestones: %w", err)
	}
	for _, c := range list {
		for _, n := range []struct {
			name  string
			count int64
		}{{"views", c.Views}, {"clicks", c.Clicks}} {
			if m := reached(n.count); m > 0 {
				if _, err := w.store.tell(ctx, c.Profile, Milestone, fmt.Sprint(n.name, " ", m), fmt.Sprintf("Your page has reached %d %s.", m, n.name),
					map[string]any{"number": n.name, "milestone": m, "count": n.count}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// What a spike and a drop are: the hour against the mean of the 24 hours before it.
const (
	spikeFactor = 5
	spikeLeast  = 50 // views and clicks in the hour
	dropFactor  = 5
	dropLeast   = 50 // in a usual hour
)

// judge says what an hour is beside the mean of the hours before it: a spike, a drop, or nothing.
func judge(now int64, mean float64) string {
	switch {
	case now >= spikeLeast && float64(now) >= spikeFactor*mean:
		return Spike
	case mean >= dropLeast && float64(now)*dropFactor <= mean:
		return Drop
	}
	return ""
}

// hours compares the hour that ended at end with the day before it.
func (w *Watch) hours(ctx context.Context, end time.Time) error {
	rows, err := w.pool.Query(ctx, `
		SELECT DISTINCT c.profile_id FROM profile_counters c JOIN profiles p ON p.id = c.profile_id AND p.deleted_at IS NULL
		WHERE c.class = 'person' AND c.as_of > $1::timestamptz - interval '3 hours' AND c.views + c.clicks >= 50 LIMIT 10000`, end)
	if err != nil {
		return fmt.Errorf("look for spikes: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("look for spikes: %w", err)
	}
	for _, id := range ids {
		points, _, err := w.reader.Series(ctx, insight.Question{Profile: id, From: end.Add(-25 * time.Hour), To: end}, insight.Hour)
		if err != nil {
			return err
		}
		var before, now int64
		for i, p := range points {
			views, clicks := p.Of([]insight.Class{insight.Person})
			if i == len(points)-1 {
				now = views + clicks
			} else {
				before += views + clicks
			}
		}
		mean := float64(before) / 24
		kind := judge(now, mean)
		if kind == "" {
			continue
		}
		text := fmt.Sprintf("Many more visits than usual: %d views and clicks in an hour, %.0f are usual.", now, mean)
		if kind == Drop {
			text = fmt.Sprintf("Far fewer visits than usual: %d views and clicks in an hour, %.0f are usual.", now, mean)
		}
		// At most one of a kind in six hours.
		subject := end.Truncate(6 * time.Hour).Format(time.RFC3339)
		if _, err := w.store.tell(ctx, id, kind, subject, text, map[string]any{"hour": end.Add(-time.Hour), "count": now, "usual": mean}); err != nil {
			return err
		}
	}
	return nil
}
