package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/insight"
)

// Options of a watch. The zero value is usable.
type Options struct {
	// Mail gives alerts on their way by mail too.
	Mail bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Watch looks for what creators are to be told.
type Watch struct {
	pool    *pgxpool.Pool
	store   *Store
	reader  *insight.Reader
	log     *slog.Logger
	mail    bool
	now     func() time.Time
	checked time.Time // the hour that was compared last

	told     map[counter]int64 // milestones that are known to have been told
	reported time.Time         // when weeks were looked for last
	quiet    map[int64]string  // weeks of profiles of which there is nothing to tell
}

// counter is a lifetime number of a profile.
type counter struct {
	profile int64
	name    string
}

// NewWatch returns a watch; each Round is a look at everything.
func NewWatch(pool *pgxpool.Pool, reader *insight.Reader, o Options, log *slog.Logger) *Watch {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Watch{pool: pool, store: NewStore(pool), reader: reader, log: log, mail: o.Mail, now: o.Now,
		told: map[counter]int64{}, quiet: map[int64]string{}}
}

// Round looks once. It is one process's at a time (leader.Alerts).
func (w *Watch) Round(ctx context.Context) error {
	if err := w.milestones(ctx); err != nil {
		return err
	}
	if hour := w.now().UTC().Truncate(time.Hour); hour.After(w.checked) && w.now().Sub(hour) > 2*time.Minute {
		known, err := w.hours(ctx, hour)
		if err != nil {
			return err
		}
		if known {
			w.checked = hour
		}
	}
	if w.now().Sub(w.reported) >= reportEvery {
		if err := w.weeks(ctx); err != nil {
			return err
		}
		w.reported = w.now()
	}
	return nil
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

// mostTold bounds the milestones that are kept in memory.
const mostTold = 100_000

// milestones tells of lifetime numbers that have become round. Profiles whose numbers changed just now are looked at.
func (w *Watch) milestones(ctx context.Context) error {
	rows, _ := w.pool.Query(ctx, `
		SELECT c.profile_id, c.views, c.clicks FROM profile_counters c JOIN profiles p ON p.id = c.profile_id AND p.deleted_at IS NULL
		WHERE c.class = 'person' AND c.as_of > now() - interval '10 minutes' AND (c.views >= 100 OR c.clicks >= 100)`) // CollectRows tells of its error
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
			m := reached(n.count)
			if m == 0 || w.told[counter{c.Profile, n.name}] >= m {
				continue
			}
			if _, err := w.store.tell(ctx, c.Profile, Milestone, fmt.Sprint(n.name, " ", m), fmt.Sprintf("Your page has reached %s %s.", insight.Number(m), n.name),
				map[string]any{"number": n.name, "milestone": m, "count": n.count}, w.mail); err != nil {
				return err
			}
			if len(w.told) >= mostTold {
				clear(w.told) // the table knows them too
			}
			w.told[counter{c.Profile, n.name}] = m
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

// hours compares the hour that ended at end with the day before it. Until all of the hour is known it says so and compares nothing: what is
// on its way would look like a drop.
func (w *Watch) hours(ctx context.Context, end time.Time) (known bool, err error) {
	var lost bool
	err = w.pool.QueryRow(ctx, `SELECT coalesce(complete_through >= $1, false), EXISTS (SELECT FROM jsonb_array_elements(lost) l
		WHERE coalesce((l->>'until')::timestamptz, (l->>'since')::timestamptz) > $1::timestamptz - interval '1 hour') FROM completeness`, end).Scan(&known, &lost)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !known {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up to when all is known: %w", err)
	}
	rows, _ := w.pool.Query(ctx, `
		SELECT DISTINCT c.profile_id FROM profile_counters c JOIN profiles p ON p.id = c.profile_id AND p.deleted_at IS NULL
		WHERE c.class = 'person' AND c.as_of > $1::timestamptz - interval '3 hours' AND c.views + c.clicks >= 50 LIMIT 10000`, end) // CollectRows tells of its error
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return false, fmt.Errorf("look for spikes: %w", err)
	}
	for _, id := range ids {
		points, _, err := w.reader.Series(ctx, insight.Question{Profile: id, From: end.Add(-25 * time.Hour), To: end}, insight.Hour)
		if err != nil {
			return false, err
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
		if kind == "" || kind == Drop && lost {
			continue // where events are lost, fewer of them mean nothing
		}
		text := fmt.Sprintf("Many more visits than usual: %s views and clicks in an hour, %s are usual.", insight.Number(now), insight.Number(int64(math.Round(mean))))
		if kind == Drop {
			text = fmt.Sprintf("Far fewer visits than usual: %s views and clicks in an hour, %s are usual.", insight.Number(now), insight.Number(int64(math.Round(mean))))
		}
		// At most one of a kind in six hours.
		subject := end.Truncate(6 * time.Hour).Format(time.RFC3339)
		if _, err := w.store.tell(ctx, id, kind, subject, text, map[string]any{"hour": end.Add(-time.Hour), "count": now, "usual": mean}, w.mail); err != nil {
			return false, err
		}
	}
	return true, nil
}
