package day

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

// crowd is n events on the day of at, whose referrers and countries may be of any number.
func crowd(at time.Time, n int, random *rand.Rand) []eventtest.Event {
	events := someEvents(at, n, random)
	for i := range events {
		v := &events[i]
		v.Profile = 1 + random.Uint64N(4)
		words := 1 << (2 * v.Profile) // 4, 16, 64, 256 of them
		v.Referrer = fmt.Sprint("host-", min(random.IntN(words), random.IntN(words)))
		switch random.IntN(40) {
		case 0:
			v.Country = Other
		case 1:
			v.Referrer = "it's \\ new\n"
		}
	}
	return events
}

func TestManyValuesAreKeptAsAFewAndTheRest(t *testing.T) {
	e := eventtest.New(t)
	at := then()
	days, raw := e.Local("days"), e.Local("events")
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(31, seed))
		at := at.AddDate(0, 0, -int(seed))
		d := table.DateOf(at)
		most := 2 + random.IntN(12)
		e.Insert(crowd(at, 400, random)...)
		c := newCloser(t, e, Options{MaxValues: most, SliceEvents: uint64(50 + random.IntN(400))})
		n, err := c.Close(t.Context(), d)
		require.NoError(t, err)
		require.EqualValues(t, 400, n)
		date := " date = " + d.Literal()

		// Every panel adds up to the headline: of each profile, kind, class and link.
		headline := "SELECT profile_id, kind, class, link_id, sum(events) AS n FROM " + days + " WHERE" + date + " AND dimension = '' GROUP BY profile_id, kind, class, link_id"
		require.Zero(t, e.Number(`SELECT count() FROM (
			SELECT dimension, profile_id, kind, class, link_id, sum(events) AS n FROM `+days+` WHERE`+date+` AND dimension NOT IN ('', 'visitors') GROUP BY dimension, profile_id, kind, class, link_id) AS panel
			FULL JOIN (SELECT dimension, h.* FROM (`+headline+`) AS h
				INNER JOIN (SELECT DISTINCT dimension, profile_id FROM `+days+` WHERE`+date+` AND dimension NOT IN ('', 'visitors')) AS d USING (profile_id)) AS head
			USING (dimension, profile_id, kind, class, link_id) WHERE panel.n != head.n`))
		require.ElementsMatch(t, []string{"", "visitors", "link", "surface", "country", "referrer_host"}, panelsOf(t, e, d))

		// No more values than were asked for, and the rest; as many as there were where these are fewer.
		require.Zero(t, e.Number(fmt.Sprintf("SELECT count() FROM (SELECT uniqExact(value) AS n FROM %s WHERE%s AND value != '%s' GROUP BY profile_id, dimension HAVING n > %d)", days, date, Other, most)))
		require.Zero(t, e.Number(fmt.Sprintf(`SELECT count() FROM (
			SELECT profile_id, uniqExact(value) AS kept FROM %[1]s WHERE%[3]s AND dimension = 'referrer_host' GROUP BY profile_id) AS k
			INNER JOIN (SELECT profile_id, uniqExact(referrer_host) AS had FROM %[2]s WHERE%[3]s GROUP BY profile_id) AS h USING (profile_id)
			WHERE kept != if(had > %[4]d, %[4]d + 1, had)`, days, raw, date, most)))

		// What is kept is what its events are, and none that was put together has more people than one that is kept.
		require.Zero(t, e.Number(fmt.Sprintf(`SELECT count() FROM (SELECT profile_id, kind, class, link_id, value, events, visitors FROM %[1]s WHERE%[3]s AND dimension = 'referrer_host' AND value != '%[4]s'
			EXCEPT SELECT profile_id, kind, class, link_id, referrer_host, count(), uniqExact(visitor) FROM %[2]s WHERE%[3]s GROUP BY profile_id, kind, class, link_id, referrer_host)`, days, raw, date, Other)))
		require.Zero(t, e.Number(fmt.Sprintf(`WITH kept AS (SELECT DISTINCT profile_id, value FROM %[1]s WHERE%[3]s AND dimension = 'referrer_host' AND value != '%[4]s'),
			had AS (SELECT profile_id, toString(referrer_host) AS value, countIf(class = 'person') AS people FROM %[2]s WHERE%[3]s GROUP BY profile_id, value)
			SELECT count() FROM (SELECT profile_id, min(people) AS least FROM had WHERE (profile_id, value) IN (SELECT * FROM kept) GROUP BY profile_id) AS k
			INNER JOIN (SELECT profile_id, max(people) AS greatest FROM had WHERE (profile_id, value) NOT IN (SELECT * FROM kept) GROUP BY profile_id) AS r USING (profile_id) WHERE greatest > least`,
			days, raw, date, Other)))
		// The rest's visitors are distinct ones.
		require.Zero(t, e.Number(fmt.Sprintf(`WITH kept AS (SELECT DISTINCT profile_id, value FROM %[1]s WHERE%[3]s AND dimension = 'referrer_host' AND value != '%[4]s')
			SELECT count() FROM (SELECT profile_id, kind, class, link_id, events, visitors FROM %[1]s WHERE%[3]s AND dimension = 'referrer_host' AND value = '%[4]s'
			EXCEPT SELECT profile_id, kind, class, link_id, count(), uniqExact(visitor) FROM %[2]s WHERE%[3]s AND (profile_id, toString(referrer_host)) NOT IN (SELECT * FROM kept)
				GROUP BY profile_id, kind, class, link_id)`, days, raw, date, Other)))
		require.Positive(t, e.Number("SELECT count() FROM "+days+" WHERE"+date+" AND dimension = 'referrer_host' AND value = '"+Other+"'"))

		once := fingerprint(e, d)
		_, err = c.Close(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, once, fingerprint(e, d), "closing again gives the same rows")
		differing, err := c.Verify(t.Context(), d)
		require.NoError(t, err)
		require.Zero(t, differing)
	}
	require.Empty(t, faultsOf(t, e))
}
