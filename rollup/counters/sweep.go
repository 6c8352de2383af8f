package counters

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

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
func (s *sweep) slice(ctx context.Context, u *Updater) ([]uint64, error) {
	most := u.options.Slice
	var ids []uint64
	var id uint64
	read := func(t *table.Tables, query string) error {
		return t.Each(ctx, fmt.Sprintf("%s ORDER BY profile_id LIMIT %d", query, most), []any{&id}, func() error {
			ids = append(ids, id)
			return nil
		})
	}
	ordered := u.tables.With("optimize_read_in_order", 1)
	days := fmt.Sprintf("SELECT DISTINCT profile_id FROM %s WHERE profile_id >= %d AND ", u.tables.All("days"), s.next)
	var err error
	switch s.kind {
	case "date":
		err = read(ordered, days+"date = "+s.date.Literal())
	case "open":
		err = read(u.tables, u.openProfiles(s.next))
	default:
		// Each source gives its lowest ids, so the lowest of all are complete. Postgres's own rows are there for profiles that
		// ClickHouse has nothing of any more.
		if err = read(ordered, days+u.closed.Condition()); err != nil {
			break
		}
		if err = read(u.tables, u.openProfiles(s.next)); err != nil {
			break
		}
		if s.next <= math.MaxInt64 {
			var rows pgx.Rows
			rows, err = u.pool.Query(ctx, "SELECT DISTINCT profile_id FROM profile_counters WHERE profile_id >= $1 ORDER BY 1 LIMIT $2", int64(s.next), most)
			if err != nil {
				break
			}
			var known int64
			_, err = pgx.ForEachRow(rows, []any{&known}, func() error {
				ids = append(ids, uint64(known))
				return nil
			})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list profiles of a sweep: %w", err)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) < most {
		s.done = true
		return ids, nil
	}
	ids = ids[:most]
	s.next = ids[most-1] + 1
	s.done = s.next == 0
	return ids, nil
}

func (u *Updater) openProfiles(from uint64) string {
	return fmt.Sprintf("SELECT profile_id FROM (SELECT profile_id, count() FROM %s WHERE profile_id >= %d AND %s GROUP BY profile_id)",
		u.tables.All("events"), from, u.closed.OpenCondition())
}
