package counters

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

// lose takes the hints away, as when an ingest dies before it has written them.
func lose(e *eventtest.Engines) { e.Run("TRUNCATE TABLE " + e.Local("changed")) }

// inCounters is how many views and clicks Postgres has.
func inCounters(t *testing.T, e *eventtest.Engines) (n uint64) {
	t.Helper()
	require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT coalesce(sum(views + clicks), 0)::bigint FROM profile_counters").Scan(&n))
	return n
}

func TestNothingIsSettledBeforeLostHintsAreMadeUpFor(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	u := newUpdater(t, e, Options{Slice: 2})
	require.True(t, round(t, u))
	for i := range uint64(9) {
		e.Insert(eventtest.Event{Time: noon(), Profile: 1 + i%5, Visitor: i})
	}
	lose(e)
	require.True(t, round(t, u))
	require.EqualValues(t, 9, inCounters(t, e))

	// There is more to read than one round may: it goes on in the next, and settles only then.
	for i := range uint64(9) {
		e.Insert(eventtest.Event{Time: noon(), Profile: 1 + i%5, Link: 7, Visitor: i})
	}
	lose(e)
	u.options.Budget = time.Nanosecond
	require.False(t, round(t, u))
	u.options.Budget = time.Minute
	require.True(t, round(t, u))
	require.EqualValues(t, 18, inCounters(t, e))

	// A proof that took long rests; meanwhile nobody knows.
	u.proof.next = time.Now().Add(time.Hour)
	require.True(t, round(t, u), "no row came since")
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1})
	require.False(t, round(t, u))
	u.proof.next = time.Time{}
	require.True(t, round(t, u))

	// What was read when ClickHouse's clock was ahead stays for a while: so long it is not known whether all is there.
	_, err := e.Pool.Exec(t.Context(), "UPDATE profile_counters SET as_of = clock_timestamp() + interval '1 minute' WHERE profile_id = 4")
	require.NoError(t, err)
	e.Insert(eventtest.Event{Time: noon(), Profile: 4, Visitor: 1})
	for range 2 {
		require.False(t, round(t, u))
	}
	_, err = e.Pool.Exec(t.Context(), "UPDATE profile_counters SET as_of = now() - interval '1 minute' WHERE profile_id = 4")
	require.NoError(t, err)
	require.True(t, round(t, u))
	require.EqualValues(t, 20, inCounters(t, e))

	// Rows that are of another class now, and rows that are gone.
	e.Run("ALTER TABLE " + e.Local("events") + " UPDATE class = 'bot' WHERE profile_id = 2 SETTINGS mutations_sync = 2")
	e.Insert(eventtest.Event{Time: noon(), Profile: 3, Visitor: 1})
	lose(e)
	require.True(t, round(t, u))
	require.EqualValues(t, 2, profileRow(t, e, 2, "bot").Views)
	require.Zero(t, profileRow(t, e, 2, "person").Views)
	e.Run("ALTER TABLE " + e.Local("events") + " DELETE WHERE profile_id = 3 SETTINGS mutations_sync = 2")
	require.False(t, round(t, u))
	require.True(t, round(t, u))
	require.Zero(t, profileRow(t, e, 3, "person").Views)
}

func TestRowsOfClosedDaysAreMissedWithoutAHint(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	now := noon()
	c := newCloser(t, e, func() time.Time { return now })
	u := newUpdater(t, e, Options{Late: c.Late})
	for d := range 6 {
		e.Insert(eventtest.Event{Time: now.AddDate(0, 0, -d), Profile: 1, Visitor: 1}, eventtest.Event{Time: now.AddDate(0, 0, -50-10*d), Profile: 1, Visitor: 1})
	}
	require.NoError(t, c.Round(t.Context()))
	require.True(t, round(t, u))
	require.EqualValues(t, 12, inCounters(t, e))
	for i, late := range []struct {
		days   int
		closed bool
	}{{4, true}, {60, true}, {61, false}} { // a day that had no events is open
		e.Insert(eventtest.Event{Time: noon().AddDate(0, 0, -late.days), Profile: 2, Visitor: 1})
		lose(e)
		require.Equal(t, !late.closed, round(t, u))
		require.Equal(t, late.closed, c.Busy())
		now = now.Add(time.Minute)
		require.NoError(t, c.Round(t.Context()))
		require.True(t, round(t, u))
		require.EqualValues(t, 13+i, inCounters(t, e))
	}

	// Days whose events have expired are not counted.
	expired := now.AddDate(0, 0, -4)
	first := time.Date(expired.Year(), expired.Month(), 1, 0, 0, 0, 0, time.UTC)
	_, err := e.Pool.Exec(t.Context(), "INSERT INTO expired_months (month) VALUES ($1)", first)
	require.NoError(t, err)
	e.Run(fmt.Sprintf("ALTER TABLE %s DELETE WHERE toYYYYMM(date) = %s AND date <= %s SETTINGS mutations_sync = 2", e.Local("events"), first.Format("200601"), table.DateOf(expired).Literal()))
	require.True(t, round(t, newUpdater(t, e, Options{Late: c.Late})))
}

// While rows come in all the time and hints are lost, whatever a round calls settled had all rows that were there before it.
func TestWhatIsSettledIsThere(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	u := newUpdater(t, e, Options{Slice: 5})
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var inserting sync.WaitGroup
	inserting.Go(func() {
		random := rand.New(rand.NewPCG(21, 22))
		for ctx.Err() == nil {
			var events []eventtest.Event
			for range 1 + random.IntN(20) {
				events = append(events, eventtest.Event{Time: noon(), Profile: 1 + random.Uint64N(30), Visitor: random.Uint64N(9)})
			}
			e.Insert(events...)
			if random.IntN(2) == 0 {
				lose(e)
			}
		}
	})
	settled := 0
	for ctx.Err() == nil {
		there := e.Number("SELECT count() FROM " + e.Local("events"))
		if round(t, u) {
			settled++
			require.GreaterOrEqual(t, inCounters(t, e), there)
		}
	}
	inserting.Wait()
	require.Positive(t, settled)
}

func TestAProofReadsProjections(t *testing.T) {
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1}, eventtest.Event{Time: noon(), Profile: 1, Link: 2, Class: "bot"})
	r, err := Read(t.Context(), e.Tables, day.Closed{}, nil, []uint64{1})
	require.NoError(t, err)
	var id, weight uint64
	query := openWeights(e.Tables, day.Closed{}.OpenCondition())
	require.NoError(t, e.With("force_optimize_projection", 1).Row(t.Context(), query, &id, &weight))
	require.Equal(t, r.weights[1], weight)
}
