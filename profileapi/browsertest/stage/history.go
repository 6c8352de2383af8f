package stage

import (
	"fmt"
	"strings"
	"time"
)

// Replay sends a web server's access log through the visitors' path, as `spillway replay` does, on a page of its own, whose id it returns.
func (s *Stage) Replay(log string) (profile string, err error) {
	const handle = "access-log"
	c, err := s.Command("replay", log, "--handle", handle, "--visitors-url", s.Visitors, "--api-url", s.API, "--max-links", "20")
	if err != nil {
		return "", err
	}
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("replay %s: %w: %s", log, err, out)
	}
	var list struct {
		Items []struct{ ID, Handle string }
	}
	if err := s.Call("GET", "/v1/profiles?limit=100", nil, &list); err != nil {
		return "", err
	}
	for _, p := range list.Items {
		if p.Handle == handle {
			return p.ID, nil
		}
	}
	return "", fmt.Errorf("the page %s, which was replayed on, is not there", handle)
}

// Past writes days of visits into a profile's past, for pictures and measurements. Who came, with what, from where and of which class is
// drawn from another profile's visits, the replayed; when they came is made up: it swings with the hour and the week, grows, and has a
// burst three days ago. The rows carry the term that is valid, as ingest's own do. links are ids, the most clicked first.
func (s *Stage) Past(profile string, links []string, replayed string, days int) error {
	weights := make([]string, 0, len(links)*4)
	for i, l := range links {
		for range len(links) - i {
			weights = append(weights, l)
		}
	}
	begin := time.Now().UTC().AddDate(0, 0, -days).Truncate(24 * time.Hour)
	const hourly = 120 // draws of an hour; level says which of them are visits
	return s.Query(fmt.Sprintf(`INSERT INTO events SELECT * EXCEPT (place_in_log, draw, at, click) REPLACE (
			4242 AS stream, 0 AS partition, draw + 1 AS sequence, 0 AS offset, joinGet('spillway.terms', 'term', toUInt32(0)) AS term,
			at AS time, toDate(at) AS date, if(click, 'click', 'view') AS kind, %[1]s AS profile_id,
			if(click, [%[2]s][1 + intHash32(draw) %% %[3]d], 0) AS link_id, intHash32(intDiv(draw, 3)) AS visitor,
			if(draw %% 17 = 0, 'qr', if(draw %% 5 = 0 AND click, 'direct', 'page')) AS surface)
		FROM (
			SELECT log.*, drawn.draw AS draw, drawn.at AS at, intHash32(draw * 3) %% 100 < 43 AS click
			FROM (SELECT number AS draw, toDateTime64(%[4]d + intDiv(number, %[5]d) * 3600 + intHash32(number) %% 3600, 6, 'UTC') AS at,
					80 + 52 * sin((toHour(at) - 9) / 24. * 6.2832) + 16 * sin(toDayOfWeek(at)) + if(toDate(at) = toDate(now('UTC')) - 3 AND toHour(at) BETWEEN 15 AND 20, 60, 0) AS level,
					intHash32(number * 7) %% (SELECT count() FROM events WHERE profile_id = %[7]s) AS pick
				FROM numbers(%[6]d) WHERE number %% %[5]d < level * (0.3 + 0.7 * number / %[6]d) AND at < now64(6, 'UTC') - INTERVAL 5 MINUTE) AS drawn
			INNER JOIN (SELECT *, toUInt64(row_number() OVER (ORDER BY time, sequence) - 1) AS place_in_log FROM events WHERE profile_id = %[7]s) AS log ON log.place_in_log = drawn.pick)`,
		profile, strings.Join(weights, ","), len(weights), begin.Unix(), hourly, (days+1)*24*hourly, replayed))
}
