package completeness

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/stream"
	"spillway.dev/rollup/table"
)

const (
	// allEvery is how often the streams that had ended and were whole are looked at too: what was restored from a backup may lack them.
	allEvery = time.Minute
	// lookEvery is how often the rows of a lane with a hole are read, which costs most.
	lookEvery = 5 * time.Second
)

// Watch computes what is known, again and again. It is not safe for concurrent use.
type Watch struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	options Options
	metrics *Metrics
	log     *slog.Logger

	all     time.Time                    // when all streams were looked at last
	settled map[uint64]bool              // streams that had ended then, with nothing missing
	kept    map[stream.Name]*stream.Lane // all lanes as they were then
	gaps    map[stream.Name]keptGap

	progress map[uint64]progress
}

type progress struct {
	heard time.Time // the stream's own clock
	at    time.Time // ours, when that was seen to move; zero: it was not
}

type keptGap struct {
	gap
	lane stream.Lane // as it was
	at   time.Time
}

// NewWatch returns a watch.
func NewWatch(t *table.Tables, pool *pgxpool.Pool, o Options, m *Metrics, log *slog.Logger) *Watch {
	return &Watch{tables: t, pool: pool, options: o.withDefaults(), metrics: m, log: log, gaps: map[stream.Name]keptGap{}, progress: map[uint64]progress{}}
}

// Compute asks ClickHouse and judges.
func (w *Watch) Compute(ctx context.Context) (Known, error) {
	var now time.Time
	if err := w.tables.Row(ctx, "SELECT now64(6, 'UTC')", &now); err != nil {
		return Known{}, fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	lanes, err := w.load(ctx)
	if err != nil {
		return Known{}, err
	}
	return judgement{Options: w.options, now: now, look: w.look, progressing: w.progressing}.judge(ctx, lanes)
}

// Judge is what is known now, without what a watch remembers.
func Judge(ctx context.Context, t *table.Tables, lanes []*stream.Lane, o Options) (Known, error) {
	var now time.Time
	if err := t.Row(ctx, "SELECT now64(6, 'UTC')", &now); err != nil {
		return Known{}, fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	look := func(ctx context.Context, l *stream.Lane) (gap, error) { return readGap(ctx, t, l) }
	never := func(uint64, time.Time) bool { return false }
	return judgement{Options: o.withDefaults(), now: now, look: look, progressing: never}.judge(ctx, lanes)
}

// progressing remembers when each stream was heard of anew. A redirector whose clock is far behind the others' is not silent.
func (w *Watch) progressing(s uint64, heard time.Time) bool {
	p, ok := w.progress[s]
	if !ok || heard.After(p.heard) {
		at := time.Time{} // never seen before: its clock is all there is to judge by
		if ok {
			at = time.Now()
		}
		p = progress{heard: heard, at: at}
		w.progress[s] = p
	}
	return !p.at.IsZero() && time.Since(p.at) < w.options.SilentAfter
}

// load reads all lanes once a minute, and between only the rows of those streams that may have changed.
func (w *Watch) load(ctx context.Context) ([]*stream.Lane, error) {
	if time.Since(w.all) <= allEvery {
		return stream.Follow(ctx, w.tables, w.kept, w.settled)
	}
	lanes, err := stream.Load(ctx, w.tables)
	if err != nil {
		return nil, err
	}
	w.all, w.settled, w.kept = time.Now(), map[uint64]bool{}, map[stream.Name]*stream.Lane{}
	for group := range byStream(lanes) {
		if ended(group) {
			w.settled[group[0].Stream] = true
		}
		for _, l := range group {
			w.kept[l.Name] = l
		}
	}
	return lanes, nil
}

// ended says whether a stream has said in all its lanes that it ended, and all of it is there.
func ended(lanes []*stream.Lane) bool {
	for _, l := range lanes {
		stored, whole := l.Stored()
		if !l.Announcement.Final || !whole || stored != l.Announcement.Journaled || int(l.Announcement.Partitions) > len(lanes) {
			return false
		}
	}
	return true
}

// look reads a lane's rows, unless that was done just now.
func (w *Watch) look(ctx context.Context, l *stream.Lane) (gap, error) {
	kept, ok := w.gaps[l.Name]
	// What was missing may be there by now, which is seen a little later; what was not missing may be now, which must be seen.
	if ok && (kept.lane.Same(l) || kept.missing > 0 && time.Since(kept.at) < lookEvery) {
		return kept.gap, nil
	}
	g, err := readGap(ctx, w.tables, l)
	if err != nil {
		return gap{}, err
	}
	w.gaps[l.Name] = keptGap{gap: g, lane: *l, at: time.Now()}
	return g, nil
}

func readGap(ctx context.Context, t *table.Tables, l *stream.Lane) (gap, error) {
	d, err := stream.ReadDetail(ctx, t, l)
	if err != nil {
		return gap{}, err
	}
	missing := l.Missing(d)
	mayCome := missing.Minus(l.Announcement.Unreadable)
	g := gap{doubled: d.Twice, missing: mayCome.Count()}
	if len(mayCome) > 0 {
		before, _, err := stream.Around(ctx, t, l.Name, mayCome[0].First, mayCome[0].Last)
		if err != nil {
			return gap{}, err
		}
		if !before.IsZero() {
			g.through = before.Add(-time.Microsecond)
		}
	}
	for _, r := range missing.Minus(mayCome) {
		before, after, err := stream.Around(ctx, t, l.Name, r.First, r.Last)
		if err != nil {
			return gap{}, err
		}
		if before.IsZero() {
			before = l.Announcement.Began
		}
		if after.IsZero() {
			after = l.Announcement.Time
		}
		g.lost = append(g.lost, Holding{Stream: stream.Hex(l.Stream), Origin: l.Announcement.Origin, Reason: "unreadable", Events: r.Last - r.First + 1, Since: &before, Until: &after})
	}
	return g, nil
}

// Publish tells Postgres, unless something newer was told.
func (w *Watch) Publish(ctx context.Context, k Known) error {
	lists := make([][]byte, 3)
	for i, list := range [][]Holding{k.HeldBack, k.Silent, k.Lost} {
		if list == nil {
			list = []Holding{}
		}
		var err error
		if lists[i], err = json.Marshal(list); err != nil {
			return fmt.Errorf("publish completeness: %w", err)
		}
	}
	_, err := w.pool.Exec(ctx, `
		INSERT INTO completeness AS c (complete_through, computed_at, held_back, silent, lost) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (only_row) DO UPDATE SET complete_through = excluded.complete_through, computed_at = excluded.computed_at,
			held_back = excluded.held_back, silent = excluded.silent, lost = excluded.lost
		WHERE excluded.computed_at >= c.computed_at OR c.computed_at > clock_timestamp() + interval '5 minutes'`,
		k.Through, k.At, string(lists[0]), string(lists[1]), string(lists[2]))
	if err != nil {
		return fmt.Errorf("publish completeness: %w", err)
	}
	w.metrics.published(k)
	return nil
}
