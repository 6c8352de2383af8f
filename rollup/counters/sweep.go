package counters

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// sweep goes over profiles in the order of their ids, a slice at a time.
type sweep struct {
	kind  string     // full: all there are; open: those with events in open days; date: those with events in one closed day
	date  table.Date // of kind date
	next  uint64     // the lowest id that is still to do
	done  bool
	began time.Time
}

// slice returns the ids of the next slice and moves on behind it.
func (s *sweep) slice(ctx context.Context, u *Updater) (ids []uint64, err error) {
	most := u.options.Slice
	switch s.kind {
	case "date":
		ids, err = lowest(ctx, u.tables.With("optimize_read_in_order", 1), daysProfiles(u.tables, s.next, "date = "+s.date.Literal()), most)
	case "open":
		ids, err = lowest(ctx, u.tables, openProfiles(u.tables, u.closed, s.next), most)
	default:
		ids, err = Profiles(ctx, u.tables, u.pool, u.closed, s.next, most)
	}
	if err != nil {
		return nil, err
	}
	s.done = len(ids) < most || ids[most-1] == math.MaxUint64
	if !s.done {
		s.next = ids[most-1] + 1
	}
	return ids, nil
}

// Profiles returns, in order, up to most of the lowest ids from from on of the profiles that have numbers: in closed or open days, or in
// Postgres only.
func Profiles(ctx context.Context, t *table.Tables, pool *pgxpool.Pool, closed day.Closed, from uint64, most int) ([]uint64, error) {
	// Each source gives its lowest ids, so the lowest of all are complete.
	ids, err := lowest(ctx, t.With("optimize_read_in_order", 1), daysProfiles(t, from, closed.Condition()), most)
	if err != nil {
		return nil, err
	}
	open, err := lowest(ctx, t, openProfiles(t, closed, from), most)
	if err != nil {
		return nil, err
	}
	ids = append(ids, open...)
	if from <= math.MaxInt64 {
		rows, err := pool.Query(ctx, "SELECT DISTINCT profile_id FROM profile_counters WHERE profile_id >= $1 ORDER BY 1 LIMIT $2", int64(from), most)
		if err != nil {
			return nil, fmt.Errorf("list profiles: %w", err)
		}
		var known int64
		if _, err = pgx.ForEachRow(rows, []any{&known}, func() error { ids = append(ids, uint64(known)); return nil }); err != nil {
			return nil, fmt.Errorf("list profiles: %w", err)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids[:min(len(ids), most)], nil
}

func daysProfiles(t *table.Tables, from uint64, condition string) string {
	return fmt.Sprintf("SELECT DISTINCT profile_id FROM %s WHERE profile_id >= %d AND dimension = 'visitors' AND %s", t.All("days"), from, condition)
}

func openProfiles(t *table.Tables, closed day.Closed, from uint64) string {
	return fmt.Sprintf("SELECT profile_id FROM (SELECT profile_id, count() FROM %s WHERE profile_id >= %d AND %s GROUP BY profile_id)",
		t.All("events"), from, closed.OpenCondition())
}

// lowest returns the lowest ids of a query, in order.
func lowest(ctx context.Context, t *table.Tables, query string, most int) ([]uint64, error) {
	var ids []uint64
	var id uint64
	err := t.Each(ctx, fmt.Sprintf("%s ORDER BY profile_id LIMIT %d", query, most), []any{&id}, func() error {
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	return ids, nil
}
