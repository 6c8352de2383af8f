package stage

import (
	"fmt"
	"strings"
	"time"
)

// Past writes some weeks of made-up visits into a profile's past, for pictures: what visits look like that were not made now. They
// carry the term that is valid, as ingest's own rows do. links are ids, the most clicked first.
func (s *Stage) Past(profile string, links []string, days int) error {
	weights := make([]string, 0, len(links)*4)
	for i, l := range links {
		for range len(links) - i {
			weights = append(weights, l)
		}
	}
	list := "[" + strings.Join(weights, ",") + "]"
	pick := func(salt string, values ...string) string {
		return fmt.Sprintf("['%s'][1 + intHash32(number * 7 + %s) %% %d]", strings.Join(values, "','"), salt, len(values))
	}
	begin := time.Now().UTC().AddDate(0, 0, -days).Truncate(24 * time.Hour)
	// Visits of a day swing with the hour, the week and a burst; an hour has some hundred at most.
	return s.Query(fmt.Sprintf(`INSERT INTO events (stream, partition, sequence, offset, term, time, date, kind, class, reason, profile_id, link_id, visitor, surface,
		country, language, device, browser, os, referrer_host, channel)
	SELECT 4242, 0, number + 1, 0, joinGet('spillway.terms', 'term', toUInt32(0)), at, toDate(at), if(click, 'click', 'view'),
		if(number %% 9 = 0, 'bot', if(number %% 23 = 0, 'preview', 'person')), if(number %% 9 = 0, 'agent: Googlebot', if(number %% 23 = 0, 'agent: Twitterbot', '')),
		%s, if(click, %s[1 + intHash32(number) %% %d], 0), intHash32(intDiv(number, 3)), if(number %% 17 = 0, 'qr', if(number %% 5 = 0 AND click, 'direct', 'page')),
		%s, %s, %s, %s, %s, %s, %s
	FROM (SELECT number, toDateTime64(%d + intDiv(number, 60) * 3600 + intHash32(number) %% 3600, 6, 'UTC') AS at,
			intHash32(number * 3) %% 100 < 43 AS click,
			40 + 26 * sin((toHour(at) - 9) / 24. * 6.2832) + 8 * sin(toDayOfWeek(at)) + if(toDate(at) = toDate(now('UTC')) - 3 AND toHour(at) BETWEEN 15 AND 20, 60, 0) AS level
		FROM numbers(%d) WHERE number %% 60 < level * (0.3 + 0.7 * number / %[13]d) AND at < now64(6, 'UTC') - INTERVAL 5 MINUTE)`,
		profile, list, len(weights),
		pick("1", "DE", "DE", "DE", "AT", "US", "US", "GB", "FR", "CH", "NL", "IN", "BR"), pick("2", "de", "de", "en-US", "en-GB", "fr"),
		pick("3", "phone", "phone", "phone", "phone", "desktop", "tablet"), pick("4", "Safari", "Safari", "Chrome", "Chrome", "Instagram", "Firefox", "TikTok"),
		pick("5", "iOS", "iOS", "iOS", "Android", "Android", "Windows", "macOS"),
		pick("6", "instagram.com", "instagram.com", "tiktok.com", "", "", "youtube.com", "google.com"), pick("7", "social", "social", "social", "direct", "search"),
		begin.Unix(), (days+1)*24*60, (days+1)*24*60))
}
