package day

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// trim lets go of what only open days need, in the months of which every day is closed: the unique visitors that the events carry along as a
// projection, which are hashes that nothing compresses, a sixth of all bytes. Closed days have them exactly. Events that come late bring theirs
// again, until the next comparison; ClickHouse merges parts with and without them only apart. Should a day be read from its events again
// meanwhile, its visitors are counted from the rows.
//
// Nobody waits for it: ClickHouse does it when it has merged what it is merging, and it changes no event (Closer.changes).
func (c *Closer) trim(ctx context.Context, states []State, now time.Time) error {
	var before uint64
	if err := c.tables.Row(ctx, fmt.Sprintf("SELECT count() FROM %s WHERE database = '%s' AND table = 'events' AND NOT is_done AND NOT is_killed AND %s",
		c.tables.System("mutations"), c.tables.Database, trimming), &before); err != nil {
		return fmt.Errorf("look for unique visitors that are not needed any more: %w", err)
	}
	if before > 0 {
		return nil // the last one is not done yet
	}
	open := map[string]bool{c.over(now).Time().AddDate(0, 0, 1).Format(partitionLayout): true}
	for _, s := range states {
		if !s.Listed || s.Differs() || s.Shrunk() {
			open[s.Date.Time().Format(partitionLayout)] = true
		}
	}
	var months []string
	var month string
	if err := c.tables.Each(ctx, fmt.Sprintf(`SELECT DISTINCT partition FROM %s WHERE active AND database = '%s' AND table = 'events' AND name = 'visitors' ORDER BY partition`,
		c.tables.System("projection_parts"), c.tables.Database), []any{&month}, func() error {
		months = append(months, month)
		return nil
	}); err != nil {
		return fmt.Errorf("look for unique visitors that are not needed any more: %w", err)
	}
	months = slices.DeleteFunc(months, func(m string) bool { return open[m] })
	for _, m := range months {
		if _, err := strconv.ParseUint(m, 10, 32); err != nil {
			return fmt.Errorf("partition %q of events is no month", m)
		}
		if err := c.tables.Exec(ctx, fmt.Sprintf("ALTER TABLE %s %s CLEAR PROJECTION visitors IN PARTITION ID '%s'",
			c.tables.Local("events"), c.tables.OnCluster(), m)); err != nil {
			return fmt.Errorf("let go of the open days' unique visitors of %s: %w", m, err)
		}
		c.log.Info("let go of what only open days need", "month", m)
	}
	return nil
}

// trimming is true for the rows of system.mutations that trim made.
const trimming = "command LIKE '%CLEAR PROJECTION visitors%'"

// partitionLayout is how a partition of events is called by its month.
const partitionLayout = "200601"
