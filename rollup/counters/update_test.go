package counters

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

func newUpdater(t *testing.T, e *eventtest.Engines, o Options) *Updater {
	m, err := NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	o.Proof = time.Hour // a busy machine must not make it rest
	return NewUpdater(e.Tables, e.Pool, o, m, slog.New(slog.DiscardHandler))
}

func newCloser(t *testing.T, e *eventtest.Engines, now func() time.Time) *day.Closer {
	m, err := day.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	return day.NewCloser(e.Tables, e.Pool, day.Options{Now: now, Rest: time.Nanosecond, CompareEvery: time.Hour}, m, slog.New(slog.DiscardHandler))
}

func round(t *testing.T, u *Updater) bool {
	t.Helper()
	settled, err := u.Round(t.Context())
	require.NoError(t, err)
	return settled
}

func TestAProfileIsReadOnceForEachTimeThatItGotEvents(t *testing.T) {
	e := eventtest.New(t)
	for id := range uint64(5) {
		e.Insert(eventtest.Event{Time: noon(), Profile: id + 1, Visitor: 1})
	}
	e.Run("TRUNCATE TABLE " + e.Local("changed")) // as after a start of ClickHouse: only a sweep finds them
	registry := prometheus.NewRegistry()
	m, err := NewMetrics(registry)
	require.NoError(t, err)
	u := NewUpdater(e.Tables, e.Pool, Options{Slice: 2, Proof: time.Hour}, m, slog.New(slog.DiscardHandler))
	reads := func(cause string) float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			for _, sample := range f.GetMetric() {
				if f.GetName() == "spillway_rollup_profiles_read_total" && sample.GetLabel()[0].GetValue() == cause {
					return sample.GetCounter().GetValue()
				}
			}
		}
		return 0
	}
	require.Eventually(t, func() bool { return round(t, u) }, time.Minute, time.Millisecond)
	require.EqualValues(t, 5, reads("full"))
	require.EqualValues(t, 1, profileRow(t, e, 5, "person").Views)

	require.True(t, round(t, u))
	require.Zero(t, reads("hint"), "nothing changed, nothing is read")
	e.Insert(eventtest.Event{Time: noon(), Profile: 3, Link: 9, Visitor: 1})
	require.True(t, round(t, u))
	require.EqualValues(t, 1, profileRow(t, e, 3, "person").Clicks)
	require.EqualValues(t, 1, reads("hint"))
	for range 3 {
		require.True(t, round(t, u))
	}
	require.LessOrEqual(t, reads("hint"), 2.0, "a hint of the very millisecond of the reading may be followed twice")
	require.EqualValues(t, 5, reads("full"))
}

func TestClosingADayChangesNoTotals(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	at := noon().AddDate(0, 0, -3)
	now := at
	c := newCloser(t, e, func() time.Time { return now })
	u := newUpdater(t, e, Options{Late: c.Late})
	forced := func(query string) {
		require.NoError(t, e.With("force_optimize_projection", 1).Each(t.Context(), query, []any{new(uint64)}, func() error { return nil }))
	}
	for d := range 3 {
		for i := range uint64(20) {
			when := at.AddDate(0, 0, d)
			e.Insert(eventtest.Event{Time: when, Profile: 1 + i%2, Visitor: i}, eventtest.Event{Time: when, Profile: 1 + i%2, Link: 7, Visitor: i, Surface: "direct"})
		}
	}
	want := Numbers{Views: 30, Clicks: 30, UniqueViewers: 30, UniqueClickers: 30, UniqueVisitors: 30}
	require.True(t, round(t, u))
	require.Equal(t, want, profileRow(t, e, 1, "person"))
	for range 4 {
		now = now.AddDate(0, 0, 1)
		require.NoError(t, c.Round(t.Context()))
		require.True(t, round(t, u))
		require.Equal(t, want, profileRow(t, e, 1, "person"))
		require.Equal(t, want, profileRow(t, e, 2, "person"))
	}
	require.EqualValues(t, 3, e.Number("SELECT count() FROM "+e.Local("closed_days")))

	e.Insert(eventtest.Event{Time: now, Profile: 1, Visitor: 1, Class: "bot"})
	require.True(t, round(t, u))
	forced(openProfiles(e.Tables, u.closed, 0)) // with days that are closed, too

	// Events of a closed day: counted as soon as it is closed again, and nothing is called complete before.
	e.Insert(eventtest.Event{Time: at, Profile: 1, Visitor: 100}, eventtest.Event{Time: at, Profile: 3, Visitor: 100})
	require.False(t, round(t, u))
	require.True(t, c.Busy())
	require.False(t, round(t, u))
	require.EqualValues(t, 30, profileRow(t, e, 1, "person").Views)
	now = now.Add(time.Minute)
	require.NoError(t, c.Round(t.Context()))
	require.False(t, c.Busy())
	require.True(t, round(t, u))
	require.EqualValues(t, 31, profileRow(t, e, 1, "person").Views)
	require.EqualValues(t, 1, profileRow(t, e, 3, "person").Views)
}

func TestASweepRepairsWhatIsWrongInPostgres(t *testing.T) {
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1})
	u := newUpdater(t, e, Options{OpenEvery: 300 * time.Millisecond})
	require.True(t, round(t, u))
	_, err := e.Pool.Exec(t.Context(), "UPDATE profile_counters SET views = 1000")
	require.NoError(t, err)
	time.Sleep(400 * time.Millisecond)
	require.True(t, round(t, u))
	require.EqualValues(t, 1, profileRow(t, e, 1, "person").Views)

	// A full one finds what only Postgres has, too: a new updater begins with it.
	_, err = e.Pool.Exec(t.Context(), "INSERT INTO profile_counters VALUES (77, 'person', 5, 5, 5, 5, 5, 5, now() - interval '1 day')")
	require.NoError(t, err)
	require.True(t, round(t, newUpdater(t, e, Options{})))
	require.Equal(t, Numbers{}, profileRow(t, e, 77, "person"))
}

func TestAStartOfClickHouseIsNoticed(t *testing.T) {
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1})
	u := newUpdater(t, e, Options{})
	require.True(t, round(t, u))
	_, err := e.Pool.Exec(t.Context(), "UPDATE profile_counters SET views = 1000")
	require.NoError(t, err)
	require.True(t, round(t, u))
	require.EqualValues(t, 1000, profileRow(t, e, 1, "person").Views)
	u.started = u.started.Add(-time.Minute) // as it was before
	require.True(t, round(t, u))
	require.EqualValues(t, 1, profileRow(t, e, 1, "person").Views, "all are computed again")
}

func TestKeptSumsFollowTheClosedDays(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	newest := table.DateOf(noon()) - 3
	random := rand.New(rand.NewPCG(11, 12))
	put := func(d table.Date, n int) {
		var events []eventtest.Event
		for range n {
			v := eventtest.Event{Time: d.Time().Add(time.Hour), Profile: 1 + random.Uint64N(6), Visitor: random.Uint64N(9)}
			if random.IntN(2) == 0 {
				v.Link = 5
			}
			events = append(events, v)
		}
		e.Insert(events...)
	}
	for _, d := range []table.Date{newest - 60, newest - 30, newest - 12, newest - 9, newest - 8, newest - 3, newest - 1} {
		put(d, 30)
	}
	c := newCloser(t, e, time.Now)
	closeDay := func(d table.Date) {
		t.Helper()
		_, err := c.Close(t.Context(), d)
		require.NoError(t, err)
	}
	require.NoError(t, c.Round(t.Context()))
	var kept Kept
	var all = []uint64{1, 2, 3, 4, 5, 6, 7}
	same := func(ids []uint64) {
		t.Helper()
		closed, err := day.ReadClosed(t.Context(), e.Tables)
		require.NoError(t, err)
		with, err := Read(t.Context(), e.Tables, closed, &kept, ids)
		require.NoError(t, err)
		without, err := Read(t.Context(), e.Tables, closed, nil, ids)
		require.NoError(t, err)
		require.Equal(t, without.Profiles, with.Profiles)
		require.Equal(t, without.Links, with.Links)
		rows := 0
		for _, p := range kept.profiles {
			rows += p.rows()
		}
		require.Equal(t, rows, kept.rows)
	}
	same(all[:4])
	same(all)
	// What is kept is used: rows of old days may change behind its back.
	read := kept.profiles[1]
	same(all)
	require.Same(t, read, kept.profiles[1])
	put(newest-3, 5) // a recent day is closed again
	closeDay(newest - 3)
	same(all[2:])
	require.Same(t, read, kept.profiles[1])
	same(all)
	for d := newest; d <= newest+2; d++ { // new days, and recent ones become old
		put(d, 10)
		closeDay(d)
		same(all[d%3:])
	}
	same(all)
	put(newest-30, 5) // an old one is closed again
	closeDay(newest - 30)
	same(all)
	require.NotSame(t, read, kept.profiles[1])
	put(newest-50, 5) // one that had no events until now
	closeDay(newest - 50)
	same(all)
	e.Run("ALTER TABLE " + e.Local("closed_days") + " DELETE WHERE date = " + (newest - 60).Literal() + " SETTINGS mutations_sync = 2")
	same(all)
}
