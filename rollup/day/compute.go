package day

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway.dev/rollup/table"
)

// dimensions are the columns of events by which a closed day is broken down. Each is a column of that name.
func dimensions() []string {
	return []string{"surface", "place", "variant", "layout", "host", "country", "language", "device", "browser", "os", "referrer_host", "channel",
		"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "reason"}
}

// panels are the queries whose rows make a closed day; %[1]s is the table of events, %[2]s what selects rows of the day. value gives the
// expression for the value of a column.
//
//	dimension     rows                                                    events  visitors
//	''            quarter hour × kind × class × link × surface            count   0
//	'visitors'    kind × class, and kind 'unknown' for view or click      count   exact
//	'link'        link × class, clicks only                               count   exact
//	a column      value × kind × class × link                             count   exact
//
// The columns are those of days, in its order: profile_id, dimension, value, kind, class, link_id, surface, bucket, events, visitors,
// behind the date.
func panels(value func(dimension string) string) []string {
	const none = "'unknown', toDateTime(0, 'UTC')"
	all := []string{
		`SELECT date, profile_id, '', '', kind, class, link_id, surface, toStartOfFifteenMinutes(time), count(), 0 FROM %[1]s WHERE %[2]s
			GROUP BY date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time)`,
		`SELECT date, profile_id, 'visitors', '', kind, class, 0, ` + none + `, count(), uniqExact(visitor) FROM %[1]s
			WHERE %[2]s AND kind != 'unknown' GROUP BY date, profile_id, kind, class`,
		`SELECT date, profile_id, 'visitors', '', 'unknown', class, 0, ` + none + `, count(), uniqExact(visitor) FROM %[1]s
			WHERE %[2]s GROUP BY date, profile_id, class`,
		`SELECT date, profile_id, 'link', '', kind, class, link_id, ` + none + `, count(), uniqExact(visitor) FROM %[1]s
			WHERE %[2]s AND kind = 'click' GROUP BY date, profile_id, kind, class, link_id`,
	}
	for _, d := range dimensions() {
		all = append(all, `SELECT date, profile_id, '`+d+`', `+value(d)+` AS v, kind, class, link_id, `+none+`, count(), uniqExact(visitor) FROM %[1]s
			WHERE %[2]s GROUP BY date, profile_id, kind, class, link_id, v`)
	}
	return all
}

// ErrMoved is returned when a day's events changed while it was computed: it is computed again later.
var ErrMoved = errors.New("the day's events changed while they were read")

// stagingPrefix begins the names of the tables in which days are computed.
const stagingPrefix = "days_closing_"

// stage makes a table like days, without replication, under a name of its own.
func (c *Closer) stage(ctx context.Context) (string, error) {
	var b [8]byte
	rand.Read(b[:])
	name := c.tables.Local(stagingPrefix + hex.EncodeToString(b[:]))
	var partition, order string
	err := c.tables.Row(ctx, "SELECT partition_key, sorting_key FROM system.tables WHERE database = '"+c.tables.Database+"' AND name = 'days'", &partition, &order)
	if err != nil {
		return "", fmt.Errorf("read how days are kept: %w", err)
	}
	return name, c.tables.Exec(ctx, fmt.Sprintf("CREATE TABLE %s AS %s ENGINE = MergeTree PARTITION BY %s ORDER BY (%s)", name, c.tables.Local("days"), partition, order))
}

// compute fills the staging table with a day and returns how many events it has. A statement computes all panels of a slice of the
// profiles, which bounds its memory.
func (c *Closer) compute(ctx context.Context, staging string, date table.Date) (uint64, error) {
	slices, err := c.slices(ctx, date)
	if err != nil {
		return 0, err
	}
	for _, slice := range slices {
		crowds, err := c.crowds(ctx, date, slice.busy)
		if err != nil {
			return 0, fmt.Errorf("compute %s: %w", date, err)
		}
		queries := panels(crowds.value)
		for i, panel := range queries {
			queries[i] = fmt.Sprintf(panel, c.tables.All("events"), "date = "+date.Literal()+" AND "+slice.where)
		}
		if err := c.tables.Exec(ctx, "INSERT INTO "+staging+" (date, profile_id, dimension, value, kind, class, link_id, surface, bucket, events, visitors) "+
			strings.Join(queries, " UNION ALL ")); err != nil {
			return 0, fmt.Errorf("compute %s: %w", date, err)
		}
	}
	if len(slices) > 1 {
		// Kept for ever, so in one part.
		if err := c.tables.Exec(ctx, "OPTIMIZE TABLE "+staging+" FINAL"); err != nil {
			return 0, fmt.Errorf("merge %s: %w", date, err)
		}
	}
	// Each panel reads the events for itself. If some came in between the panels disagree, and the day is computed again.
	total := map[string]uint64{}
	var clicks uint64
	var dimension string
	var events, ofClicks uint64
	err = c.tables.Each(ctx, "SELECT dimension, sumIf(events, dimension != 'visitors' OR kind = 'unknown'), sumIf(events, kind = 'click') FROM "+staging+" GROUP BY dimension",
		[]any{&dimension, &events, &ofClicks}, func() error {
			total[dimension] = events
			if dimension == "" {
				clicks = ofClicks
			}
			return nil
		})
	if err != nil {
		return 0, fmt.Errorf("check the panels of %s: %w", date, err)
	}
	for dimension, n := range total {
		if dimension == "link" && n != clicks || dimension != "link" && n != total[""] {
			return 0, fmt.Errorf("close %s: %w", date, ErrMoved)
		}
	}
	return total[""], nil
}

// slice is a part of a day's profiles.
type slice struct {
	where string   // true for their rows
	busy  []uint64 // those of them that have so many events that a column may have too many values
}

// slices cuts the day's profiles into parts of about as many events each.
func (c *Closer) slices(ctx context.Context, date table.Date) ([]slice, error) {
	parts := []slice{{}}
	from := ""
	var profile, n, sum uint64
	err := c.tables.Each(ctx, "SELECT profile_id, count() AS n FROM "+c.tables.All("events")+" WHERE date = "+date.Literal()+
		" GROUP BY profile_id ORDER BY profile_id", []any{&profile, &n}, func() error {
		last := &parts[len(parts)-1]
		if sum > 0 && sum+n > c.options.SliceEvents {
			last.where = strings.TrimPrefix(fmt.Sprintf("%s AND profile_id < %d", from, profile), " AND ")
			from = fmt.Sprintf("profile_id >= %d", profile)
			parts, sum = append(parts, slice{}), 0
			last = &parts[len(parts)-1]
		}
		sum += n
		if n > uint64(c.options.MaxValues) {
			last.busy = append(last.busy, profile)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cut %s into slices: %w", date, err)
	}
	if from == "" {
		from = "true"
	}
	parts[len(parts)-1].where = from
	return parts, nil
}

// sweepStaging drops what rollups that died while they computed a day left behind.
func (c *Closer) sweepStaging(ctx context.Context) error {
	var orphans []string
	var name string
	err := c.tables.Each(ctx, fmt.Sprintf(`SELECT name FROM system.tables WHERE database = '%s' AND startsWith(name, '%s')
		AND metadata_modification_time < now() - INTERVAL %d SECOND`, c.tables.Database, stagingPrefix, int(c.options.OrphanAge/time.Second)), []any{&name}, func() error {
		orphans = append(orphans, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for orphaned staging tables: %w", err)
	}
	for _, name := range orphans {
		if err := c.tables.Exec(ctx, "DROP TABLE IF EXISTS "+c.tables.Local(name)); err != nil {
			return fmt.Errorf("drop orphaned staging table %s: %w", name, err)
		}
		c.log.Info("dropped an orphaned staging table", "table", name)
	}
	return nil
}
