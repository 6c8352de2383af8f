package directory

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"spillway.dev/redirector/page"
)

// maxLinks is how many links a page shows at most.
const maxLinks = 1000

// selectLinks finds each name by the unique index, one after the other. As a plain join PostgreSQL may begin with a profile and all of its links instead, while it
// has not yet counted what a restore or a large import brought: minutes, in which no visitor of an unseen link is answered.
// selectLinks looks each name up by itself. A plain join leaves it to the planner, which, with few profiles and many links, has gone through all links of
// the profiles for each question; LIMIT keeps it from doing so. There is one link of a name.
const selectLinks = `
SELECT l.id, l.profile_id, l.host, l.code, l.url, l.query_mode,
       l.utm_source, l.utm_medium, l.utm_campaign, l.utm_term, l.utm_content, p.timezone
FROM unnest($1::text[], $2::text[]) AS asked(host, code)
CROSS JOIN LATERAL (SELECT * FROM links WHERE links.host = asked.host AND links.code = asked.code LIMIT 1) AS l
JOIN profiles p ON p.id = l.profile_id
WHERE l.deleted_at IS NULL AND p.deleted_at IS NULL`

const selectProfiles = `
SELECT p.id, p.handle, p.title, p.bio, p.timezone, p.theme, p.layout, l.host, l.code, l.title
FROM profiles p
LEFT JOIN LATERAL (
    SELECT host, code, title, position, id FROM links
    WHERE profile_id = p.id AND deleted_at IS NULL AND NOT hidden
    ORDER BY position, id LIMIT $2
) l ON true
WHERE p.handle = ANY($1::text[]) AND p.deleted_at IS NULL
ORDER BY p.id, l.position, l.id`

// selectDomains jumps from one own domain to the next along the index on (host, code): links may be many, domains are few.
const selectDomains = `
WITH RECURSIVE domains AS (
    SELECT min(host) AS host FROM links WHERE host > ''
    UNION ALL
    SELECT (SELECT min(host) FROM links WHERE links.host > domains.host) FROM domains WHERE domains.host IS NOT NULL
)
SELECT host FROM domains WHERE host IS NOT NULL`

// query returns what PostgreSQL knows about names; what is missing in the result does not exist.
func (d *Directory) query(ctx context.Context, keys []key) (map[key]*value, error) {
	var hosts, codes, handles []string
	for _, k := range keys {
		if k.kind == kindLink {
			hosts, codes = append(hosts, k.host), append(codes, k.name)
		} else {
			handles = append(handles, k.name)
		}
	}
	found := make(map[key]*value, len(keys))
	var questions pgx.Batch
	if len(codes) > 0 {
		questions.Queue(selectLinks, hosts, codes).Query(func(rows pgx.Rows) error { return d.scanLinks(rows, found) })
	}
	if len(handles) > 0 {
		questions.Queue(selectProfiles, handles, maxLinks).Query(func(rows pgx.Rows) error { return d.scanProfiles(rows, found) })
	}
	if err := d.pool.SendBatch(ctx, &questions).Close(); err != nil {
		return nil, fmt.Errorf("load %d links and %d profiles: %w", len(codes), len(handles), err)
	}
	d.metrics.loaded.Add(float64(len(keys)))
	return found, nil
}

func (d *Directory) scanLinks(rows pgx.Rows, found map[key]*value) error {
	for rows.Next() {
		var r linkRow
		if err := rows.Scan(&r.id, &r.profile, &r.host, &r.code, &r.url, &r.mode, &r.utm[0], &r.utm[1], &r.utm[2], &r.utm[3], &r.utm[4], &r.zone); err != nil {
			return err
		}
		found[key{kindLink, r.host, r.code}] = &value{link: d.newRecord(r)}
	}
	return rows.Err()
}

func (d *Directory) scanProfiles(rows pgx.Rows, found map[key]*value) error {
	var r profileRow
	keep := func() {
		if r.id != 0 {
			found[key{kindProfile, "", r.shown.Handle}] = &value{profile: d.newProfile(r)}
		}
	}
	for rows.Next() {
		var next profileRow
		shown := &next.shown
		var host, code, title *string
		if err := rows.Scan(&next.id, &shown.Handle, &shown.Title, &shown.Bio, &next.zone, &shown.Theme, &shown.Layout, &host, &code, &title); err != nil {
			return err
		}
		if next.id != r.id {
			keep()
			r = next
		}
		if code != nil {
			r.shown.Links = append(r.shown.Links, page.Link{Host: *host, Code: *code, Title: *title})
		}
	}
	keep()
	return rows.Err()
}

// queryDomains returns the hosts that links have as their own domains.
func (d *Directory) queryDomains(ctx context.Context) (map[string]string, error) {
	rows, err := d.pool.Query(ctx, selectDomains)
	if err != nil {
		return nil, fmt.Errorf("list own domains: %w", err)
	}
	hosts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list own domains: %w", err)
	}
	domains := make(map[string]string, len(hosts))
	for _, host := range hosts {
		domains[host] = host
	}
	return domains, nil
}
