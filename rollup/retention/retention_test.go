package retention

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/stream"
	"spillway.dev/rollup/table"
)

func newExpiry(t *testing.T, e *eventtest.Engines, now func() time.Time) *Expiry {
	m, err := day.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	return NewExpiry(e.Tables, e.Pool, day.NewCloser(e.Tables, e.Pool, day.Options{Now: now}, m, log), Options{Days: 60, Now: now}, log)
}

// monthsOfEvents puts a stream of 40 events around the end of January and one of 10 in March 2026 into the tables. Where the months meet
// the stream's events belong to one or the other by their profiles' time zones.
func monthsOfEvents(e *eventtest.Engines) {
	january := time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)
	var events []eventtest.Event
	for n := range uint64(40) {
		at := january.Add(time.Duration(n) * time.Hour)
		date := table.DateOf(at)
		if n%2 == 1 {
			date = table.DateOf(at.Add(10 * time.Hour)) // a profile far in the east
		}
		events = append(events, eventtest.Event{Stream: 7, Sequence: n + 1, Time: at, Date: date, Profile: 1 + n%2, Visitor: n})
	}
	for n := range uint64(10) {
		events = append(events, eventtest.Event{Stream: 8, Sequence: n + 1, Time: time.Date(2026, 3, 3, 0, int(n), 0, 0, time.UTC), Profile: 1, Visitor: n})
	}
	e.Insert(events...)
}

func lifetime(t *testing.T, e *eventtest.Engines) uint64 {
	closed, err := day.ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	return e.Number("SELECT sum(events) FROM "+e.Local("days")+" WHERE dimension = '' AND "+closed.Condition()) +
		e.Number("SELECT count() FROM "+e.Local("events")+" WHERE "+closed.OpenCondition())
}

// present is what is known of a stream to have been there: stored or expired.
func present(t *testing.T, e *eventtest.Engines, s uint64) (stream.Ranges, uint64) {
	lanes, err := stream.Load(t.Context(), e.Tables)
	require.NoError(t, err)
	for _, l := range lanes {
		if l.Stream == s {
			d, err := stream.ReadDetail(t.Context(), e.Tables, l)
			require.NoError(t, err)
			return d.Present, d.Twice
		}
	}
	return nil, 0
}

func TestMonthsExpireAndNothingIsForgotten(t *testing.T) {
	e := eventtest.New(t)
	monthsOfEvents(e)
	now := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	x := newExpiry(t, e, func() time.Time { return now })
	rows := func() uint64 { return e.Number("SELECT count() FROM " + e.Local("events")) }
	require.NoError(t, x.Round(t.Context()))
	require.EqualValues(t, 50, rows(), "January ended 60 days ago, but not yet by the margin")
	now = now.AddDate(0, 0, 4)
	require.NoError(t, x.Round(t.Context()))
	january := 50 - rows()
	require.Positive(t, january)
	require.EqualValues(t, 50, lifetime(t, e))
	all := stream.Ranges{{First: 1, Last: 40}}
	there, twice := present(t, e, 7)
	require.Equal(t, all, there)
	require.Zero(t, twice)
	expired, err := stream.LoadExpired(t.Context(), e.Tables)
	require.NoError(t, err)
	require.EqualValues(t, january, expired[stream.Name{Stream: 7}].Count())
	require.Greater(t, len(expired[stream.Name{Stream: 7}]), 3, "the months interleave")

	now = now.AddDate(0, 1, 0)
	require.NoError(t, x.Round(t.Context()))
	require.EqualValues(t, 10, rows())
	require.EqualValues(t, 50, lifetime(t, e))
	expired, err = stream.LoadExpired(t.Context(), e.Tables)
	require.NoError(t, err)
	require.Equal(t, all, expired[stream.Name{Stream: 7}])
	require.EqualValues(t, 40, e.Number("SELECT argMax(events, recorded_at) FROM "+e.Local("expired_streams")))

	// What comes after all is neither counted nor forgotten.
	e.Insert(eventtest.Event{Stream: 9, Sequence: 1, Time: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Profile: 1})
	require.ErrorIs(t, x.Round(t.Context()), errLateRows)
	require.EqualValues(t, 11, rows())
	require.EqualValues(t, 50, lifetime(t, e))
}

func TestADeathBetweenAnyTwoStepsForgetsNothing(t *testing.T) {
	dead := errors.New("killed")
	for _, died := range []string{"close", "record", "check", "mark", "drop"} {
		t.Run(died, func(t *testing.T) {
			e := eventtest.New(t)
			monthsOfEvents(e)
			now := time.Date(2026, 5, 15, 0, 0, 0, 0, time.UTC)
			x := newExpiry(t, e, func() time.Time { return now })
			months := 0
			x.step = func(name string) error {
				if name == "close" {
					months++
				}
				if name == died && months == 2 { // in the second month
					return dead
				}
				return nil
			}
			require.ErrorIs(t, x.Round(t.Context()), dead)
			for range 2 {
				require.EqualValues(t, 50, lifetime(t, e))
				there, twice := present(t, e, 7)
				require.Equal(t, stream.Ranges{{First: 1, Last: 40}}, there)
				require.Zero(t, twice)
				x = newExpiry(t, e, func() time.Time { return now })
				require.NoError(t, x.Round(t.Context()))
			}
			require.EqualValues(t, 10, e.Number("SELECT count() FROM "+e.Local("events")))
		})
	}
}

func TestAMonthThatIsNotAsItWasClosedStays(t *testing.T) {
	e := eventtest.New(t)
	monthsOfEvents(e)
	now := time.Date(2026, 5, 15, 0, 0, 0, 0, time.UTC)
	x := newExpiry(t, e, func() time.Time { return now })
	require.NoError(t, x.closer.Round(t.Context()))
	e.Run("ALTER TABLE " + e.Local("events") + " DELETE WHERE sequence = 3 AND stream = 7 SETTINGS mutations_sync = 2")
	err := x.Round(t.Context())
	require.ErrorContains(t, err, "was closed with")
	require.EqualValues(t, 49, e.Number("SELECT count() FROM "+e.Local("events")))

	// Events that come while it is recorded keep it, too.
	e = eventtest.New(t)
	monthsOfEvents(e)
	x = newExpiry(t, e, func() time.Time { return now })
	x.step = func(name string) error {
		if name == "check" {
			e.Insert(eventtest.Event{Stream: 7, Sequence: 41, Time: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Profile: 1})
		}
		return nil
	}
	require.ErrorContains(t, x.Round(t.Context()), fmt.Sprintf("%d events came", 1))
	require.EqualValues(t, 51, e.Number("SELECT count() FROM "+e.Local("events")))
}

// setAside is what ingest calls too old (the same rule is tested there): the months before the one in which the retention begins.
func setAside(date, now time.Time, days int) bool {
	begins := now.UTC().AddDate(0, 0, -days)
	return date.Before(time.Date(begins.Year(), begins.Month(), 1, 0, 0, 0, 0, time.UTC))
}

// A month goes only after ingest takes in nothing of it any more, with clocks that differ by up to the margin.
func TestAMonthGoesAfterIngestHasSetItAside(t *testing.T) {
	random := rand.New(rand.NewPCG(41, 42))
	gone := 0
	for range 20_000 {
		now := time.Date(2026, 1, 1, 0, 0, 0, random.IntN(1e9), time.UTC).Add(time.Duration(random.Int64N(int64(4 * 366 * 24 * time.Hour))))
		if random.IntN(2) == 0 { // around midnight of the first of a month
			now = time.Date(2026, time.Month(1+random.IntN(48)), 1, 0, 0, 0, random.IntN(3)-1, time.UTC)
		}
		days := Least + random.IntN(500)
		first := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC).AddDate(0, -(days/30 + random.IntN(4) - 1), 0)
		x := &Expiry{options: Options{Days: days, Now: func() time.Time { return now }}}
		last := first.AddDate(0, 1, -1)
		if x.old(first) {
			gone++
			require.True(t, setAside(last, now.Add(-margin), days), "%s with %d days at %s", first, days, now)
		}
		// And not much later.
		require.Equal(t, x.old(first), setAside(last, now.Add(-margin-1), days), "%s with %d days at %s", first, days, now)
	}
	require.Positive(t, gone)
}
