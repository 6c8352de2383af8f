// Package counters sets the lifetime numbers of profiles and links in Postgres: absolute numbers, computed anew from ClickHouse for
// every profile that got events, so that setting them twice, late or by two rollups at once does no harm.
//
// lifetime = closed days + open days. What the closed days have of a profile is read once and kept until a day is closed, so the
// cost of a second does not grow with a profile's age; the open days come from the projections of the events.
package counters

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// Class is a class as the column's number says it.
type Class int8

// classNames are the names of the column class, in the order of its numbers.
var classNames = [...]string{"unknown", "person", "bot", "preview", "prefetch", "head", "scanner", "owner", "test"}

func (c Class) String() string {
	if int(c) < len(classNames) && c >= 0 {
		return classNames[c]
	}
	return "unknown"
}

// Numbers are a profile's lifetime numbers of one class.
type Numbers struct {
	Views          int64 `json:"views"`
	Clicks         int64 `json:"clicks"`
	PageClicks     int64 `json:"page_clicks"`
	UniqueViewers  int64 `json:"unique_viewers"`
	UniqueClickers int64 `json:"unique_clickers"`
	UniqueVisitors int64 `json:"unique_visitors"`
}

// Of names the numbers of a class of a profile.
type Of struct {
	Profile uint64
	Class   Class
}

// Link names the clicks of a class of a link.
type Link struct {
	Profile, Link uint64
	Class         Class
}

// Reading is what ClickHouse has of some profiles.
type Reading struct {
	AsOf     time.Time // ClickHouse's clock before it was read: every event inserted before is in it
	IDs      []uint64  // the profiles that were asked for
	Profiles map[Of]Numbers
	Links    map[Link]int64

	weights map[uint64]uint64 // of each profile's rows of open days: see proof
}

// sum is one row of what is added up: events, or visitors where they were counted apart.
type sum struct {
	link       uint64
	events     uint64
	visitors   uint64
	class      Class
	kind       int8 // as in the column kind: 0 viewed or clicked, 1 view, 2 click
	page       bool
	ofVisitors bool
}

const (
	kindEither = 0
	kindView   = 1
	kindClick  = 2
)

func (r *Reading) add(profile uint64, s sum) {
	of := Of{profile, s.class}
	n := r.Profiles[of]
	switch {
	case s.ofVisitors && s.kind == kindEither:
		n.UniqueVisitors += int64(s.visitors)
	case s.ofVisitors && s.kind == kindView:
		n.UniqueViewers += int64(s.visitors)
	case s.ofVisitors:
		n.UniqueClickers += int64(s.visitors)
	case s.kind == kindView:
		n.Views += int64(s.events)
	case s.kind == kindClick:
		n.Clicks += int64(s.events)
		if s.page {
			n.PageClicks += int64(s.events)
		}
		r.Links[Link{profile, s.link, s.class}] += int64(s.events)
	default:
		return // a kind that this version does not know is not a view and not a click
	}
	r.Profiles[of] = n
}

// Read returns the lifetime numbers of the profiles, which are at most a few thousand. kept are the sums of closed days; nil: they are
// read.
func Read(ctx context.Context, t *table.Tables, closed day.Closed, kept *Kept, ids []uint64) (Reading, error) {
	r := Reading{IDs: ids, Profiles: map[Of]Numbers{}, Links: map[Link]int64{}, weights: map[uint64]uint64{}}
	if err := t.Row(ctx, "SELECT now64(6, 'UTC')", &r.AsOf); err != nil {
		return Reading{}, fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	if err := kept.add(ctx, t, closed, &r); err != nil {
		return Reading{}, err
	}
	var profile uint64
	var s sum
	in := " WHERE profile_id IN (" + table.Numbers(ids) + ") AND " + closed.OpenCondition()
	add := func() error { r.add(profile, s); return nil }
	err := t.Each(ctx, `SELECT profile_id, toInt8(class), toInt8(kind), link_id, surface = 'page', count()
		FROM `+t.All("events")+in+` GROUP BY profile_id, class, kind, link_id, surface`,
		[]any{&profile, (*int8)(&s.class), &s.kind, &s.link, &s.page, &s.events}, func() error {
			r.weights[profile] += weigh(s.class, s.kind, s.events)
			return add()
		})
	if err != nil {
		return Reading{}, fmt.Errorf("read open days: %w", err)
	}
	s = sum{ofVisitors: true}
	// uniq counts approximately above 65 536 visitors; closing the day replaces it by the exact number.
	err = t.Each(ctx, `SELECT profile_id, toInt8(class), toInt8(kind), sum(n) FROM (
			SELECT date, profile_id, class, kind, uniq(visitor) AS n FROM `+t.All("events")+in+` GROUP BY date, profile_id, class, kind)
		GROUP BY profile_id, class, kind HAVING kind != 'unknown'`, []any{&profile, (*int8)(&s.class), &s.kind, &s.visitors}, add)
	if err != nil {
		return Reading{}, fmt.Errorf("read open days' visitors: %w", err)
	}
	s.kind = kindEither
	err = t.Each(ctx, `SELECT profile_id, toInt8(class), sum(n) FROM (
			SELECT date, profile_id, class, uniq(visitor) AS n FROM `+t.All("events")+in+` GROUP BY date, profile_id, class)
		GROUP BY profile_id, class`, []any{&profile, (*int8)(&s.class), &s.visitors}, add)
	if err != nil {
		return Reading{}, fmt.Errorf("read open days' visitors: %w", err)
	}
	return r, nil
}

// Written says what a Write changed.
type Written struct {
	Profiles, Links int64 // rows that were set
	Stayed          int64 // rows that are not as in the reading, because they were read later
}

// Write sets what differs in Postgres. A row that was read later stays, unless its reading lies in the future: then ClickHouse's clock
// was wrong, and it would stay for ever. Rows of the reading's profiles that are not in it become zero.
func Write(ctx context.Context, pool *pgxpool.Pool, r Reading) (Written, error) {
	var w Written
	var p struct {
		ids                                         []int64
		classes                                     []string
		views, clicks, page, viewers, clickers, any []int64
	}
	for _, of := range sorted(r.Profiles, func(of Of) bool { return of.Profile <= math.MaxInt64 }, compareOf) {
		n := r.Profiles[of]
		p.ids, p.classes = append(p.ids, int64(of.Profile)), append(p.classes, of.Class.String())
		p.views, p.clicks, p.page = append(p.views, n.Views), append(p.clicks, n.Clicks), append(p.page, n.PageClicks)
		p.viewers, p.clickers, p.any = append(p.viewers, n.UniqueViewers), append(p.clickers, n.UniqueClickers), append(p.any, n.UniqueVisitors)
	}
	var l struct {
		profiles, links, clicks []int64
		classes                 []string
	}
	for _, link := range sorted(r.Links, func(l Link) bool { return l.Profile <= math.MaxInt64 && l.Link <= math.MaxInt64 }, compareLink) {
		l.profiles, l.links = append(l.profiles, int64(link.Profile)), append(l.links, int64(link.Link))
		l.classes, l.clicks = append(l.classes, link.Class.String()), append(l.clicks, r.Links[link])
	}
	asked := make([]int64, 0, len(r.IDs))
	for _, id := range r.IDs {
		if id <= math.MaxInt64 {
			asked = append(asked, int64(id))
		}
	}
	// Both tables in one transaction, so that the links add up to their profile whenever somebody looks.
	write := func(tx pgx.Tx) error {
		var ofProfiles, ofLinks int64
		if err := tx.QueryRow(ctx, writeProfiles, p.ids, p.classes, p.views, p.clicks, p.page, p.viewers, p.clickers, p.any, r.AsOf, asked).Scan(&w.Profiles, &ofProfiles); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, writeLinks, l.profiles, l.links, l.classes, l.clicks, r.AsOf, asked).Scan(&w.Links, &ofLinks)
		w.Stayed = ofProfiles + ofLinks
		return err
	}
	err := pgx.BeginFunc(ctx, pool, write)
	// PostgreSQL takes one of two back that wait for each other, as rollups may that set the same profiles.
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "40P01" {
		err = pgx.BeginFunc(ctx, pool, write)
	}
	if err != nil {
		return Written{}, fmt.Errorf("set counters: %w", err)
	}
	return w, nil
}

// newer is true where a reading of time $as_of may replace the row c.
const newer = `($as_of >= c.as_of OR c.as_of > clock_timestamp() + interval '5 minutes')`

// counted is how many rows were set, and how many stayed though they differ.
const counted = ` SELECT w.n, d.n - w.n FROM (SELECT (SELECT count(*) FROM written) + (SELECT count(*) FROM emptied) AS n) AS w,
	(SELECT (SELECT count(*) FROM differing) + (SELECT count(*) FROM empty) AS n) AS d`

// Rows that are as they should be are left out before the upsert, which would lock them.
var writeProfiles = strings.ReplaceAll(`
WITH reading AS (
	SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
		AS r (profile_id, class, views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors)
), differing AS (
	SELECT r.* FROM reading AS r LEFT JOIN profile_counters AS have USING (profile_id, class)
	WHERE have.profile_id IS NULL OR (have.views, have.clicks, have.page_clicks, have.unique_viewers, have.unique_clickers, have.unique_visitors)
		IS DISTINCT FROM (r.views, r.clicks, r.page_clicks, r.unique_viewers, r.unique_clickers, r.unique_visitors)
), written AS (
	INSERT INTO profile_counters AS c (profile_id, class, views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors, as_of)
	SELECT r.*, $as_of FROM differing AS r ORDER BY r.profile_id, r.class
	ON CONFLICT (profile_id, class) DO UPDATE SET views = excluded.views, clicks = excluded.clicks, page_clicks = excluded.page_clicks,
		unique_viewers = excluded.unique_viewers, unique_clickers = excluded.unique_clickers, unique_visitors = excluded.unique_visitors, as_of = excluded.as_of
	WHERE `+newer+` RETURNING 1
), empty AS (
	SELECT c.profile_id, c.class FROM profile_counters AS c WHERE c.profile_id = ANY($10::bigint[]) AND (c.views, c.clicks, c.unique_visitors) <> (0, 0, 0)
		AND NOT EXISTS (SELECT FROM reading AS r WHERE r.profile_id = c.profile_id AND r.class = c.class)
), emptied AS (
	UPDATE profile_counters AS c SET views = 0, clicks = 0, page_clicks = 0, unique_viewers = 0, unique_clickers = 0, unique_visitors = 0, as_of = $as_of
	FROM empty AS e WHERE c.profile_id = e.profile_id AND c.class = e.class AND `+newer+` RETURNING 1
)`+counted, "$as_of", "$9::timestamptz")

var writeLinks = strings.ReplaceAll(`
WITH reading AS (
	SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS r (profile_id, link_id, class, clicks)
), differing AS (
	SELECT r.* FROM reading AS r LEFT JOIN link_counters AS have USING (profile_id, link_id, class) WHERE have.clicks IS DISTINCT FROM r.clicks
), written AS (
	INSERT INTO link_counters AS c (profile_id, link_id, class, clicks, as_of)
	SELECT r.*, $as_of FROM differing AS r ORDER BY r.profile_id, r.link_id, r.class
	ON CONFLICT (profile_id, link_id, class) DO UPDATE SET clicks = excluded.clicks, as_of = excluded.as_of WHERE `+newer+` RETURNING 1
), empty AS (
	SELECT c.profile_id, c.link_id, c.class FROM link_counters AS c WHERE c.profile_id = ANY($6::bigint[]) AND c.clicks <> 0
		AND NOT EXISTS (SELECT FROM reading AS r WHERE r.profile_id = c.profile_id AND r.link_id = c.link_id AND r.class = c.class)
), emptied AS (
	UPDATE link_counters AS c SET clicks = 0, as_of = $as_of
	FROM empty AS e WHERE c.profile_id = e.profile_id AND c.link_id = e.link_id AND c.class = e.class AND `+newer+` RETURNING 1
)`+counted, "$as_of", "$5::timestamptz")

func compareOf(a, b Of) int {
	if a.Profile != b.Profile {
		return compare(a.Profile, b.Profile)
	}
	return strings.Compare(a.Class.String(), b.Class.String())
}

func compareLink(a, b Link) int {
	if a.Profile != b.Profile {
		return compare(a.Profile, b.Profile)
	}
	if a.Link != b.Link {
		return compare(a.Link, b.Link)
	}
	return strings.Compare(a.Class.String(), b.Class.String())
}

func compare(a, b uint64) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func sorted[K comparable, V any](m map[K]V, keep func(K) bool, order func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		if keep(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, order)
	return keys
}
