package day

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

// then is a day that is long over.
func then() time.Time { return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -5) }

func newCloser(t *testing.T, e *eventtest.Engines, o Options) *Closer {
	m, err := NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	return NewCloser(e.Tables, e.Pool, o, m, slog.New(slog.DiscardHandler))
}

// fingerprint is the same for the same rows of a closed day.
func fingerprint(e *eventtest.Engines, d table.Date) uint64 {
	return e.Number("SELECT sum(cityHash64(*)) + count() FROM " + e.Local("days") + " WHERE date = " + d.Literal())
}

// someEvents are n events of some profiles on the day of at.
func someEvents(at time.Time, n int, random *rand.Rand) []eventtest.Event {
	events := make([]eventtest.Event, n)
	for i := range events {
		v := eventtest.Event{Time: at.Add(time.Duration(random.Int64N(int64(24 * time.Hour)))).Truncate(time.Microsecond), Date: table.DateOf(at),
			Profile: 1 + random.Uint64N(7), Visitor: 1 + random.Uint64N(40), Country: []string{"DE", "US", ""}[random.IntN(3)], Class: []string{"person", "bot"}[random.IntN(2)]}
		if v.Profile == 3 {
			v.Country = ""
		}
		if random.IntN(2) == 0 {
			v.Link = v.Profile*10 + random.Uint64N(3)
			v.Surface = []string{"page", "direct", "qr"}[random.IntN(3)]
		}
		events[i] = v
	}
	return events
}

// panelsOf lists the dimensions of which a closed day has rows.
func panelsOf(t *testing.T, e *eventtest.Engines, d table.Date) (list []string) {
	t.Helper()
	var name string
	require.NoError(t, e.Each(t.Context(), "SELECT DISTINCT toString(dimension) FROM "+e.Local("days")+" WHERE date = "+d.Literal(), []any{&name}, func() error {
		list = append(list, name)
		return nil
	}))
	return list
}

// faultsOf is what is wrong with the closed days.
func faultsOf(t *testing.T, e *eventtest.Engines) []Fault {
	t.Helper()
	faults, err := Faults(t.Context(), e.Tables, Expired{}, nil)
	require.NoError(t, err)
	return faults
}

func TestAClosedDayHasWhatItsEventsHave(t *testing.T) {
	e := eventtest.New(t)
	at := then()
	d := table.DateOf(at)
	e.Insert(someEvents(at, 500, rand.New(rand.NewPCG(1, 2)))...)
	e.Insert(someEvents(at.AddDate(0, 0, 1), 50, rand.New(rand.NewPCG(3, 4)))...) // another day
	c := newCloser(t, e, Options{SliceEvents: 100})
	c.tables = e.With("force_optimize_projection", 1)
	parts, err := c.slices(t.Context(), []table.Date{d})
	require.NoError(t, err)
	require.Greater(t, len(parts), 3)
	_, err = c.Compare(t.Context(), nil)
	require.NoError(t, err)
	c.tables = e.Tables
	n, err := c.Close(t.Context(), d)
	require.NoError(t, err)
	require.EqualValues(t, 500, n)
	require.EqualValues(t, 500, e.Number("SELECT events FROM "+e.Local("closed_days")+" WHERE date = "+d.Literal()))

	days, events := e.Local("days"), e.Local("events")+" WHERE date = "+d.Literal()
	differences := func(closed, raw string) uint64 {
		return e.Number(fmt.Sprintf("SELECT count() FROM (SELECT * FROM ((%s) EXCEPT ALL (%s)) UNION ALL SELECT * FROM ((%s) EXCEPT ALL (%s)))", closed, raw, raw, closed))
	}
	require.Zero(t, differences(
		"SELECT profile_id, kind, class, link_id, surface, toUInt32(bucket) AS b, toUInt64(events) AS n FROM "+days+" WHERE dimension = ''",
		"SELECT profile_id, kind, class, link_id, surface, toUInt32(toStartOfFifteenMinutes(time)) AS b, toUInt64(count()) AS n FROM "+events+" GROUP BY profile_id, kind, class, link_id, surface, b"))
	require.Zero(t, differences(
		"SELECT profile_id, class, toUInt64(visitors) FROM "+days+" WHERE dimension = 'visitors' AND kind = 'unknown'",
		"SELECT profile_id, class, toUInt64(uniqExact(visitor)) FROM "+events+" GROUP BY profile_id, class"))
	require.Zero(t, differences(
		"SELECT profile_id, class, kind, toUInt64(visitors) FROM "+days+" WHERE dimension = 'visitors' AND kind != 'unknown'",
		"SELECT profile_id, class, kind, toUInt64(uniqExact(visitor)) FROM "+events+" GROUP BY profile_id, class, kind"))
	require.Zero(t, differences(
		"SELECT profile_id, class, kind, link_id, value, toUInt64(events), toUInt64(visitors) FROM "+days+" WHERE dimension = 'country' AND profile_id != 3",
		"SELECT profile_id, class, kind, link_id, toString(country), toUInt64(count()), toUInt64(uniqExact(visitor)) FROM "+events+" AND profile_id != 3 GROUP BY profile_id, class, kind, link_id, country"))
	require.Zero(t, e.Number("SELECT count() FROM "+days+" WHERE dimension = 'country' AND profile_id = 3"), "no country is known of the third profile's visitors")
	require.Zero(t, differences(
		"SELECT profile_id, kind, class, link_id, toUInt64(events), toUInt64(visitors) FROM "+days+" WHERE dimension = 'link'",
		"SELECT profile_id, kind, class, link_id, toUInt64(count()), toUInt64(uniqExact(visitor)) FROM "+events+" GROUP BY profile_id, kind, class, link_id"))
	require.ElementsMatch(t, []string{"", "visitors", "link", "surface", "country"}, panelsOf(t, e, d))

	once := fingerprint(e, d)
	_, err = c.Close(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, once, fingerprint(e, d), "closing again gives the same rows")
	require.Zero(t, e.Number("SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'days_closing_')"))
}

func TestEveryClosingHasATimeOfItsOwn(t *testing.T) {
	e := eventtest.New(t)
	at := then()
	d := table.DateOf(at)
	c := newCloser(t, e, Options{})
	e.Insert(someEvents(at, 50, rand.New(rand.NewPCG(1, 2)))...)
	_, err := c.Close(t.Context(), d)
	require.NoError(t, err)
	before, err := ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)

	// The clock went back by a day.
	require.NoError(t, e.Exec(t.Context(), "INSERT INTO "+e.Local("closed_days")+" SELECT date, events, closed_at + INTERVAL 1 DAY FROM "+e.Local("closed_days")))
	e.Insert(someEvents(at, 5, rand.New(rand.NewPCG(3, 4)))...)
	_, err = c.Close(t.Context(), d)
	require.NoError(t, err)
	after, err := ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	require.Equal(t, Close{Events: 55, At: before.Days[d].At.AddDate(0, 0, 1).Add(time.Millisecond)}, after.Days[d])
}

func TestRoundClosesWhatIsOverAndWhatCameLate(t *testing.T) {
	e := eventtest.New(t)
	d := table.DateOf(then())
	now := d.Time().Add(36 * time.Hour) // where it is UTC-12 the day has just ended
	c := newCloser(t, e, Options{Grace: time.Minute, Rest: time.Nanosecond, Now: func() time.Time { return now }})
	closed := func() Closed {
		list, err := ReadClosed(t.Context(), e.Tables)
		require.NoError(t, err)
		return list
	}
	e.Insert(eventtest.Event{Time: d.Time().Add(time.Hour), Profile: 1, Visitor: 1}, eventtest.Event{Time: d.Time().Add(25 * time.Hour), Profile: 1, Visitor: 1})
	require.NoError(t, c.Round(t.Context()))
	require.Empty(t, closed().Days)
	now = now.Add(2 * time.Minute)
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, []table.Date{d}, closed().Dates())
	require.EqualValues(t, 1, closed().Days[d].Events)

	// A hint brings it in at once, a comparison an hour later without one.
	e.Insert(eventtest.Event{Time: d.Time().Add(time.Hour), Profile: 1, Visitor: 2})
	require.NoError(t, c.Round(t.Context()))
	require.EqualValues(t, 1, closed().Days[d].Events)
	c.Late([]table.Date{d})
	require.True(t, c.Busy())
	require.NoError(t, c.Round(t.Context()))
	require.True(t, c.Busy(), "it was closed just now and rests")
	now = now.Add(time.Minute)
	require.NoError(t, c.Round(t.Context()))
	require.False(t, c.Busy())
	require.EqualValues(t, 2, closed().Days[d].Events)
	e.Insert(eventtest.Event{Time: d.Time().Add(time.Hour), Profile: 1, Visitor: 3}, eventtest.Event{Time: d.Time().AddDate(0, 0, -40), Profile: 1, Visitor: 3})
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	require.EqualValues(t, 3, closed().Days[d].Events)
	require.Equal(t, []table.Date{d - 40, d}, closed().Dates(), "a day of which nothing was there until now")

	// Somebody changed what is kept.
	right := fingerprint(e, d)
	e.Run("ALTER TABLE " + e.Local("days") + " UPDATE events = events + 5 WHERE dimension = '' SETTINGS mutations_sync = 2")
	require.NotEqual(t, right, fingerprint(e, d))
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, right, fingerprint(e, d))

	// Fewer events than it was closed with: it stays.
	e.Run("ALTER TABLE " + e.Local("events") + " DELETE WHERE visitor = 3 AND date = " + d.Literal() + " SETTINGS mutations_sync = 2")
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, right, fingerprint(e, d))
	_, err := c.Close(t.Context(), d)
	require.ErrorIs(t, err, ErrShrunk)
}

func TestADayThatHasBegunToExpireIsNeverClosedAgain(t *testing.T) {
	e := eventtest.New(t)
	d := table.DateOf(then())
	c := newCloser(t, e, Options{})
	e.Insert(eventtest.Event{Time: then(), Profile: 1, Visitor: 1})
	require.NoError(t, c.Round(t.Context()))
	before := fingerprint(e, d)
	_, err := e.Pool.Exec(t.Context(), "INSERT INTO expired_months (month) VALUES (date_trunc('month', $1::date))", d.Time())
	require.NoError(t, err)
	e.Insert(eventtest.Event{Time: then(), Profile: 1, Visitor: 2}, eventtest.Event{Time: then(), Profile: 1, Visitor: 3})
	c.Late([]table.Date{d})
	require.NoError(t, c.Round(t.Context()))
	_, err = c.Close(t.Context(), d)
	require.ErrorContains(t, err, "expire")
	require.Equal(t, before, fingerprint(e, d))
}

// lifetime is what a reader of closed and open days counts.
func lifetime(t *testing.T, e *eventtest.Engines) uint64 {
	closed, err := ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	return e.Number("SELECT sum(events) FROM "+e.Local("days")+" WHERE dimension = '' AND "+closed.Condition()) +
		e.Number("SELECT count() FROM "+e.Local("events")+" WHERE "+closed.OpenCondition())
}

func TestADeathBetweenAnyTwoStepsDoesNoHarm(t *testing.T) {
	e := eventtest.New(t)
	at := then()
	d := table.DateOf(at)
	random := rand.New(rand.NewPCG(5, 6))
	var total uint64
	dead := errors.New("killed")
	for _, died := range []string{"stage", "compute", "check", "swap", "list", "drop"} {
		e.Insert(someEvents(at, 60, random)...)
		total += 60
		c := newCloser(t, e, Options{Rest: time.Nanosecond})
		c.step = func(name string) error {
			if name == died {
				return dead
			}
			return nil
		}
		require.ErrorIs(t, c.Round(t.Context()), dead)
		// The rows are those of before, or those of now.
		require.Contains(t, []uint64{total, total - 60}, lifetime(t, e), died)
		c.step = func(string) error { return nil }
		require.NoError(t, c.Round(t.Context()))
		require.Equal(t, total, lifetime(t, e), "after a death before %s", died)
		require.Equal(t, total, e.Number("SELECT sum(events) FROM "+e.Local("days")+" WHERE dimension = '' AND date = "+d.Literal()))
	}
	// What a killed rollup leaves is dropped once it is old.
	e.Run("CREATE TABLE " + e.Local("days_closing_dead") + " AS " + e.Local("days"))
	c := newCloser(t, e, Options{})
	require.NoError(t, c.Round(t.Context()))
	count := "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'days_closing_')"
	require.EqualValues(t, 2, e.Number(count), "this one, and that of the closer that died before it computed")
	time.Sleep(1100 * time.Millisecond)
	c = newCloser(t, e, Options{OrphanAge: time.Second})
	require.Eventually(t, func() bool { return c.sweepStaging(t.Context()) == nil && e.Number(count) == 0 }, time.Minute, 200*time.Millisecond)
}

// TestDaysAreClosedTogether: days with few events are computed in one statement, and are what they are by themselves.
func TestDaysAreClosedTogether(t *testing.T) {
	e := eventtest.New(t)
	random := rand.New(rand.NewPCG(9, 10))
	const days = 7
	first := table.DateOf(then()) - days + 1
	for i := range days {
		e.Insert(someEvents(then().AddDate(0, 0, -i), 40+i, random)...)
	}
	groups := 0
	c := newCloser(t, e, Options{SliceEvents: 5 * 4 * 46, MaxValues: 5, Rest: time.Nanosecond})
	c.step = func(name string) error {
		if name == "compute" {
			require.Positive(t, c.Backlog())
			groups++
		}
		return nil
	}
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, 2, groups, "four days and three")
	require.Zero(t, c.Backlog())
	prints := map[table.Date]uint64{}
	for d := first; d < first+days; d++ {
		prints[d] = fingerprint(e, d)
		differing, err := c.Verify(t.Context(), d)
		require.NoError(t, err)
		require.Zero(t, differing)
	}
	require.Empty(t, faultsOf(t, e))

	// One of them is being closed elsewhere, one has lost events, one has got some, one has none.
	c.step = func(string) error { return nil }
	other, err := Hold(t.Context(), e.Pool, []table.Date{first})
	require.NoError(t, err)
	defer other()
	e.Run("ALTER TABLE " + e.Local("events") + " DELETE WHERE date = " + (first + 1).Literal() + " AND profile_id = 2 SETTINGS mutations_sync = 2")
	e.Insert(someEvents((first + 2).Time(), 5, random)...)
	results, err := c.closeTogether(t.Context(), []table.Date{first, first + 1, first + 2, first + 3, first + 20})
	require.NoError(t, err)
	require.ErrorIs(t, results[first].err, ErrBusy)
	require.ErrorIs(t, results[first+1].err, ErrShrunk)
	require.NoError(t, results[first+2].err)
	require.NoError(t, results[first+3].err)
	require.ErrorIs(t, results[first+20].err, ErrShrunk)
	for d := first; d < first+days; d++ {
		require.Equal(t, d != first+2, prints[d] == fingerprint(e, d), d)
	}
	require.EqualValues(t, e.Number("SELECT count() FROM "+e.Local("events")+" WHERE date = "+(first+2).Literal()), results[first+2].events)
}

// TestWhatIsWrongWithAClosedDayIsFound takes rows from a closed day or changes them, panel by panel; and a day as days were once closed is closed again.
func TestWhatIsWrongWithAClosedDayIsFound(t *testing.T) {
	e := eventtest.New(t)
	d := table.DateOf(then())
	e.Insert(someEvents(then(), 200, rand.New(rand.NewPCG(15, 16)))...)
	e.Insert(someEvents(then().AddDate(0, 0, -1), 50, rand.New(rand.NewPCG(17, 18)))...)
	c := newCloser(t, e, Options{})
	require.NoError(t, c.Round(t.Context()))
	whole := fingerprint(e, d)
	for _, change := range []string{
		"DELETE WHERE dimension = 'surface' AND profile_id = 2",
		"DELETE WHERE dimension = 'link' AND profile_id = 2",
		"DELETE WHERE dimension = 'link' AND kind = 'view' AND profile_id = 2",
		"DELETE WHERE dimension = 'visitors' AND kind = 'unknown' AND profile_id = 2",
		"DELETE WHERE dimension = 'country' AND profile_id = 2",
		"DELETE WHERE dimension = 'country' AND profile_id = 2 AND value = 'DE'",
		"DELETE WHERE dimension = 'country'",
		"UPDATE events = events + 1 WHERE dimension = 'country' AND profile_id = 2 AND value = 'DE'",
		"DELETE WHERE dimension = '' AND profile_id = 2",
	} {
		require.Empty(t, faultsOf(t, e))
		e.Run("ALTER TABLE " + e.Local("days") + " " + change + " AND date = " + d.Literal() + " SETTINGS mutations_sync = 2")
		faults := faultsOf(t, e)
		require.Len(t, faults, 1, change)
		require.Equal(t, d, faults[0].Date, change)
		_, err := c.Close(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, whole, fingerprint(e, d), change)
	}

	spans := e.Local("days") + " WHERE dimension IN ('link', 'surface') AND date = " + d.Literal()
	e.Run("INSERT INTO " + e.Local("days") + " SELECT * REPLACE (toDateTime(0, 'UTC') AS bucket) FROM " + spans)
	e.Run("DELETE FROM " + spans + " AND bucket != toDateTime(0, 'UTC')")
	require.Empty(t, faultsOf(t, e), "it is what it was then")
	c.compared = time.Time{} // an hour has passed
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, whole, fingerprint(e, d))
}

// TestADayThatCannotBeClosedHoldsUpNoOther: what fails with others is tried by itself.
func TestADayThatCannotBeClosedHoldsUpNoOther(t *testing.T) {
	e := eventtest.New(t)
	random := rand.New(rand.NewPCG(13, 14))
	for i := range 3 {
		e.Insert(someEvents(then().AddDate(0, 0, -i), 20, random)...)
	}
	c := newCloser(t, e, Options{})
	broken := errors.New("broken")
	tries := 0
	c.step = func(name string) error {
		if name == "swap" {
			if tries++; tries == 1 || tries == 3 { // together, and the second by itself
				return broken
			}
		}
		return nil
	}
	require.ErrorIs(t, c.Round(t.Context()), broken)
	require.Equal(t, 4, tries)
	list, err := ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	require.Equal(t, []table.Date{table.DateOf(then()) - 2, table.DateOf(then())}, list.Dates())
}

// TestEventsThatComeBetweenThePanels makes a panel differ from what the first look saw.
func TestEventsThatComeBetweenThePanels(t *testing.T) {
	e := eventtest.New(t)
	d := table.DateOf(then())
	e.Insert(someEvents(then(), 60, rand.New(rand.NewPCG(11, 12)))...)
	c := newCloser(t, e, Options{})
	for _, change := range []string{
		"DELETE WHERE dimension = 'country' AND profile_id = 2",
		"UPDATE events = events + 1 WHERE dimension = 'visitors' AND kind = 'unknown' AND profile_id = 2",
		"DELETE WHERE dimension = 'surface'",
		"DELETE WHERE dimension = ''",
	} {
		staging, err := c.stage(t.Context())
		require.NoError(t, err)
		done, err := c.compute(t.Context(), staging, []table.Date{d})
		require.NoError(t, err)
		require.Equal(t, computed{events: 60}, done[d])
		expected := map[panel]uint64{}
		_, err = c.sets(t.Context(), "date = "+d.Literal(), expected)
		require.NoError(t, err)
		e.Run("ALTER TABLE " + staging + " " + change + " SETTINGS mutations_sync = 2")
		done, err = c.check(t.Context(), staging, expected)
		require.NoError(t, err)
		require.True(t, done[d].moved, change)
		e.Run("DROP TABLE " + staging)
	}
}

func TestManyClosersAndALateStream(t *testing.T) {
	e := eventtest.New(t)
	at := then()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 3 {
		c := newCloser(t, e, Options{CompareEvery: time.Nanosecond, Rest: time.Nanosecond})
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := c.Round(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 8))
	var total uint64
	for range 12 {
		e.Insert(someEvents(at, 30, random)...)
		total += 30
		require.LessOrEqual(t, lifetime(t, e), total)
	}
	cancel()
	wait.Wait()
	c := newCloser(t, e, Options{})
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, total, lifetime(t, e))
	states, err := c.Compare(t.Context(), nil)
	require.NoError(t, err)
	for _, s := range states {
		require.False(t, s.Differs(), "%+v", s)
		require.Equal(t, s.Events, s.Summed)
	}
}
