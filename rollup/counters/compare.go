package counters

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// Difference is a counter that is not what it should be.
type Difference struct {
	Profile uint64  `json:"profile"`
	Link    uint64  `json:"link,omitempty"` // zero: the profile's own numbers
	Class   string  `json:"class"`
	Is      Numbers `json:"is"`     // in Postgres; of a link only the clicks
	Should  Numbers `json:"should"` // by ClickHouse
}

// Compare holds the counters of some profiles in Postgres against what ClickHouse has. While events come in, a difference may be one that
// is about to be set: whoever finds one asks again a little later.
func Compare(ctx context.Context, t *table.Tables, pool *pgxpool.Pool, closed day.Closed, ids []uint64) ([]Difference, error) {
	r, err := Read(ctx, t, closed, nil, ids)
	if err != nil {
		return nil, err
	}
	asked := make([]int64, len(ids))
	for i, id := range ids {
		asked[i] = int64(id)
	}
	type key struct {
		ofLink        bool
		profile, link uint64
		class         string
	}
	is, should := map[key]Numbers{}, map[key]Numbers{}
	for of, n := range r.Profiles {
		should[key{false, of.Profile, 0, of.Class.String()}] = n
	}
	for l, clicks := range r.Links {
		should[key{true, l.Profile, l.Link, l.Class.String()}] = Numbers{Clicks: clicks}
	}
	rows, err := pool.Query(ctx, `
		SELECT false, profile_id, 0, class, views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors FROM profile_counters WHERE profile_id = ANY($1)
		UNION ALL SELECT true, profile_id, link_id, class, 0, clicks, 0, 0, 0, 0 FROM link_counters WHERE profile_id = ANY($1)`, asked)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	var profile, link int64
	var k key
	var n Numbers
	_, err = pgx.ForEachRow(rows, []any{&k.ofLink, &profile, &link, &k.class, &n.Views, &n.Clicks, &n.PageClicks, &n.UniqueViewers, &n.UniqueClickers, &n.UniqueVisitors}, func() error {
		k.profile, k.link = uint64(profile), uint64(link)
		is[k] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	var differ []Difference
	for k, n := range should {
		if is[k] != n {
			differ = append(differ, Difference{k.profile, k.link, k.class, is[k], n})
		}
		delete(is, k)
	}
	for k, n := range is {
		if n != (Numbers{}) {
			differ = append(differ, Difference{Profile: k.profile, Link: k.link, Class: k.class, Is: n})
		}
	}
	return differ, nil
}

// Unequal is a class of a profile whose links do not add up to it.
type Unequal struct {
	Profile uint64 `json:"profile"`
	Class   string `json:"class"`
	Clicks  int64  `json:"clicks"`
	Links   int64  `json:"links"` // the clicks of its links together
}

// Lists returns up to most profiles whose links do not add up, of all in Postgres.
func Lists(ctx context.Context, pool *pgxpool.Pool, most int) ([]Unequal, error) {
	rows, err := pool.Query(ctx, `
		SELECT coalesce(p.profile_id, l.profile_id), coalesce(p.class, l.class), coalesce(p.clicks, 0), coalesce(l.clicks, 0)::bigint
		FROM profile_counters AS p
		FULL JOIN (SELECT profile_id, class, sum(clicks) AS clicks FROM link_counters GROUP BY profile_id, class) AS l USING (profile_id, class)
		WHERE coalesce(p.clicks, 0) <> coalesce(l.clicks, 0) ORDER BY 1, 2 LIMIT $1`, most)
	if err != nil {
		return nil, fmt.Errorf("add up links: %w", err)
	}
	var all []Unequal
	var profile int64
	var u Unequal
	if _, err := pgx.ForEachRow(rows, []any{&profile, &u.Class, &u.Clicks, &u.Links}, func() error {
		u.Profile = uint64(profile)
		all = append(all, u)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("add up links: %w", err)
	}
	return all, nil
}
