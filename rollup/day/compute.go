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

// isSet is a condition that is true of an event in which a column is not its type's default. The surface counts as set in all.
func isSet(dimension string) string {
	switch dimension {
	case "surface":
		return "1 = 1"
	case "layout":
		return "layout != 0"
	}
	return dimension + " != ''"
}

// panels are the queries whose rows make a closed day; of is the table of events, where selects rows of the day.
//
//	dimension     rows                                                    events  visitors
//	''            quarter hour × kind × class × link × surface            count   0
//	'visitors'    kind × class, and kind 'unknown' for view or click      count   exact
//	'link'        kind × class × link; bucket: the first quarter hour     count   exact
//	'surface'     as a column; bucket: the last quarter hour              count   exact
//	a column      value × kind × class × link                             count   exact
//
// 'link' and 'surface' have every profile. With them a reader knows where a day begins and ends, and what it has in all, without its series.
//
// A column that is unset in all of a profile's events of the day has no rows: they would be those of 'link'. Most columns are, of most
// profiles, so this is more than half of the work, and of the room that closed days take for ever.
//
// The columns are those of days, in its order: profile_id, dimension, value, kind, class, link_id, surface, bucket, events, visitors,
// behind the date.
func panels(of, where string, sets []set, crowds crowds) []string {
	from := " FROM " + of + " WHERE " + where
	const none = "'unknown', toDateTime(0, 'UTC')"
	all := []string{
		"SELECT date, profile_id, '', '', kind, class, link_id, surface, toStartOfFifteenMinutes(time), count(), 0" + from +
			" GROUP BY date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time)",
		"SELECT date, profile_id, 'visitors', '', kind, class, 0, " + none + ", count(), uniqExact(visitor)" + from + " AND kind != 'unknown' GROUP BY date, profile_id, kind, class",
		"SELECT date, profile_id, 'visitors', '', 'unknown', class, 0, " + none + ", count(), uniqExact(visitor)" + from + " GROUP BY date, profile_id, class",
		"SELECT date, profile_id, 'link', '', kind, class, link_id, 'unknown', min(toStartOfFifteenMinutes(time)), count(), uniqExact(visitor)" + from + " GROUP BY date, profile_id, kind, class, link_id",
	}
	for _, s := range sets {
		condition := ""
		switch {
		case s.some == 0:
			continue
		case s.some < s.profiles:
			// GLOBAL, because on a cluster both sides are Distributed.
			condition = fmt.Sprintf(" AND (date, profile_id) GLOBAL IN (SELECT date, profile_id%s AND %s GROUP BY date, profile_id)", from, isSet(s.dimension))
		}
		bucket := none
		if s.dimension == "surface" {
			bucket = "'unknown', max(toStartOfFifteenMinutes(time))"
		}
		all = append(all, fmt.Sprintf("SELECT date, profile_id, '%s', %s AS v, kind, class, link_id, %s, count(), uniqExact(visitor)%s%s GROUP BY date, profile_id, kind, class, link_id, v",
			s.dimension, crowds.value(s.dimension), bucket, from, condition))
	}
	return all
}

// set says of how many days of profiles a column is set somewhere.
type set struct {
	dimension      string
	some, profiles uint64
}

// panel names a panel of a day.
type panel struct {
	date      table.Date
	dimension string
}

// lookAtColumns calls f with each day that has events where a condition is true: how many profiles and events it has and, for each of the
// dimensions, how many profiles in which the column is set somewhere, and how many events these have.
func lookAtColumns(ctx context.Context, t *table.Tables, where string, f func(date table.Date, profiles, events uint64, some, of []uint64)) error {
	n := len(dimensions())
	inner, outer := make([]string, n), make([]string, n)
	var date uint16
	var profiles, events uint64
	into := []any{&date, &profiles, &events}
	some, of := make([]uint64, n), make([]uint64, n)
	for i, d := range dimensions() {
		inner[i] = fmt.Sprintf("bitShiftLeft(toUInt32(%s), %d)", isSet(d), i)
		outer[i] = fmt.Sprintf("countIf(bitTest(m, %d)), sumIf(n, bitTest(m, %[1]d))", i)
		into = append(into, &some[i], &of[i])
	}
	err := t.Each(ctx, fmt.Sprintf("SELECT toUInt16(date) AS d, count(), sum(n), %s FROM (SELECT date, profile_id, count() AS n, groupBitOr(%s) AS m FROM %s WHERE %s GROUP BY date, profile_id) GROUP BY d",
		strings.Join(outer, ", "), strings.Join(inner, " + "), t.All("events"), where), into, func() error {
		f(table.Date(date), profiles, events, some, of)
		return nil
	})
	if err != nil {
		return fmt.Errorf("look which columns are set: %w", err)
	}
	return nil
}

// sets looks which columns are set, and adds to expected how many events each panel should have.
func (c *Closer) sets(ctx context.Context, where string, expected map[panel]uint64) ([]set, error) {
	list := make([]set, len(dimensions()))
	for i, d := range dimensions() {
		list[i].dimension = d
	}
	err := lookAtColumns(ctx, c.tables, where, func(date table.Date, profiles, events uint64, some, of []uint64) {
		for _, always := range []string{"", "visitors", "link"} {
			expected[panel{date, always}] += events
		}
		for i := range list {
			list[i].some += some[i]
			list[i].profiles += profiles
			if of[i] > 0 {
				expected[panel{date, list[i].dimension}] += of[i]
			}
		}
	})
	return list, err
}

// ErrMoved is returned when a day's events changed while it was computed: it is computed again later.
var ErrMoved = errors.New("the day's events changed while they were read")

// stagingPrefix begins the names of the tables in which days are computed.
const stagingPrefix = "days_closing_"

// keeping is how the rows of closed days are put into files, which they keep when they are swapped in. Who looks at a profile's numbers reads some hundred
// rows of each of many days: of these smaller pieces that takes two thirds of the processor time that it takes of ClickHouse's usual ones, for an eighth
// more room.
const keeping = "index_granularity = 2048, min_compress_block_size = 16384"

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
	return name, c.tables.Exec(ctx, fmt.Sprintf("CREATE TABLE %s AS %s ENGINE = MergeTree PARTITION BY %s ORDER BY (%s) SETTINGS %s", name, c.tables.Local("days"), partition, order, keeping))
}

// computed is what the staging table has of a day.
type computed struct {
	events uint64
	moved  bool // its panels are of different events: some came in between
}

// compute fills the staging table with days. A statement computes all panels of a slice of the events, which bounds its memory.
func (c *Closer) compute(ctx context.Context, staging string, dates []table.Date) (map[table.Date]computed, error) {
	slices, err := c.slices(ctx, dates)
	if err != nil {
		return nil, err
	}
	// Kept for ever, so in one part each day: as few blocks as can be. Groups are about as many as events, and panels run beside each other, so
	// cutting each hash table into 256, to merge them with several threads, costs more than it saves.
	whole := c.tables.With("min_insert_block_size_rows", 16<<20).With("min_insert_block_size_bytes", 1<<30).
		With("group_by_two_level_threshold", 0).With("group_by_two_level_threshold_bytes", 0)
	expected := map[panel]uint64{}
	for _, slice := range slices {
		where := "date IN (" + table.Dates(dates) + ") AND " + slice.where
		sets, err := c.sets(ctx, where, expected)
		if err != nil {
			return nil, err
		}
		crowds, err := c.crowds(ctx, slice.busy)
		if err != nil {
			return nil, err
		}
		if err := whole.Exec(ctx, "INSERT INTO "+staging+" (date, profile_id, dimension, value, kind, class, link_id, surface, bucket, events, visitors) "+
			strings.Join(panels(c.tables.All("events"), where, sets, crowds), " UNION ALL ")); err != nil {
			return nil, fmt.Errorf("compute: %w", err)
		}
	}
	var parts uint64
	if err := c.tables.Row(ctx, "SELECT toUInt64(count() - uniqExact(partition_id)) FROM system.parts WHERE active AND database = '"+c.tables.Database+"' AND table = '"+
		strings.TrimPrefix(staging, c.tables.Database+".")+"'", &parts); err != nil {
		return nil, fmt.Errorf("look at what was computed: %w", err)
	}
	if parts > 0 {
		if err := c.tables.With("optimize_skip_merged_partitions", 1).Exec(ctx, "OPTIMIZE TABLE "+staging+" FINAL"); err != nil {
			return nil, fmt.Errorf("merge what was computed: %w", err)
		}
	}
	return c.check(ctx, staging, expected)
}

// check reads how many events the days have in the staging table. Each panel reads the events for itself: if some came in after the first look
// then one of the panels has more than that saw, and the day is computed again.
func (c *Closer) check(ctx context.Context, staging string, expected map[panel]uint64) (map[table.Date]computed, error) {
	done := map[table.Date]computed{}
	var date uint16
	var dimension string
	var events uint64
	err := c.tables.Each(ctx, "SELECT toUInt16(date) AS d, dimension, sumIf(events, dimension != 'visitors' OR kind = 'unknown') FROM "+staging+" GROUP BY d, dimension",
		[]any{&date, &dimension, &events}, func() error {
			of := panel{table.Date(date), dimension}
			day := done[of.date]
			if dimension == "" {
				day.events = events
			}
			day.moved = day.moved || events != expected[of]
			done[of.date] = day
			delete(expected, of)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("check the panels: %w", err)
	}
	for of := range expected { // those that have no row
		day := done[of.date]
		day.moved = true
		done[of.date] = day
	}
	return done, nil
}

// slice is a part of the events of days.
type slice struct {
	where string       // true for its rows, of those of the days
	busy  []profileDay // what has so many events that a column may have too many values
}

// profileDay is a day of a profile.
type profileDay struct {
	date    table.Date
	profile uint64
}

// slices cuts days into parts of about as many events each, between profiles.
func (c *Closer) slices(ctx context.Context, dates []table.Date) ([]slice, error) {
	if len(dates) > 1 { // they were chosen to be few events together
		all := slice{where: "true"}
		err := c.profiles(ctx, dates, fmt.Sprintf("HAVING n > %d", c.options.MaxValues), func(p profileDay, n uint64) { all.busy = append(all.busy, p) })
		return []slice{all}, err
	}
	parts := []slice{{}}
	from := ""
	var sum uint64
	err := c.profiles(ctx, dates, "", func(p profileDay, n uint64) {
		last := &parts[len(parts)-1]
		if sum > 0 && sum+n > c.options.SliceEvents {
			last.where = strings.TrimPrefix(fmt.Sprintf("%s AND profile_id < %d", from, p.profile), " AND ")
			from = fmt.Sprintf("profile_id >= %d", p.profile)
			parts, sum = append(parts, slice{}), 0
			last = &parts[len(parts)-1]
		}
		sum += n
		if n > uint64(c.options.MaxValues) {
			last.busy = append(last.busy, p)
		}
	})
	if from == "" {
		from = "true"
	}
	parts[len(parts)-1].where = from
	return parts, err
}

// profiles calls f for each profile of the days, in their order, with how many events it has.
func (c *Closer) profiles(ctx context.Context, dates []table.Date, having string, f func(p profileDay, n uint64)) error {
	var date uint16
	var profile, n uint64
	err := c.tables.Each(ctx, fmt.Sprintf("SELECT toUInt16(date) AS d, profile_id, count() AS n FROM %s WHERE date IN (%s) GROUP BY d, profile_id %s ORDER BY d, profile_id",
		c.tables.All("events"), table.Dates(dates), having), []any{&date, &profile, &n}, func() error {
		f(profileDay{table.Date(date), profile}, n)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cut days into slices: %w", err)
	}
	return nil
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
