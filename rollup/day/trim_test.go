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

func TestMonthsWhoseDaysAreClosedCarryNoVisitorsAlong(t *testing.T) {
	e := eventtest.New(t)
	random := rand.New(rand.NewPCG(1, 2))
	march, april := time.Date(2026, 3, 30, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{march, march.AddDate(0, 0, 1), april} {
		e.Insert(someEvents(at, 100, random)...)
	}
	now := april.Add(13 * time.Hour) // March is over everywhere
	c := newCloser(t, e, Options{Grace: time.Minute, CompareEvery: time.Hour, Rest: time.Nanosecond, Now: func() time.Time { return now }})
	carry := func(month int) uint64 {
		return e.Number(fmt.Sprintf("SELECT count() FROM system.projection_parts WHERE active AND database = currentDatabase() AND table = 'events' AND name = 'visitors' AND partition = '%d'", month))
	}
	visitors := "SELECT uniqExact(visitor) FROM " + e.Local("events")
	before := e.Number(visitors)

	require.NoError(t, c.Round(t.Context()))
	require.NotZero(t, carry(202603), "its days have only just been closed")
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	gone := func() bool { return carry(202603) == 0 }
	require.Eventually(t, gone, time.Minute, 10*time.Millisecond)
	require.NotZero(t, carry(202604), "its days are open")
	require.Equal(t, before, e.Number(visitors))
	require.Empty(t, faultsOf(t, e))

	// A late event is counted, and its day read from its events meanwhile, as ever.
	e.Insert(someEvents(march, 1, random)...)
	late := e.Number("SELECT uniqExact(visitor) FROM " + e.Local("events") + " WHERE date = " + table.DateOf(march).Literal())
	require.Equal(t, late, e.Number("SELECT uniq(visitor) FROM "+e.Local("events")+" WHERE date = "+table.DateOf(march).Literal()))
	require.NotZero(t, carry(202603))
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	require.NotZero(t, carry(202603), "a day of it differs")
	now = now.Add(time.Hour)
	require.NoError(t, c.Round(t.Context()))
	require.Eventually(t, gone, time.Minute, 10*time.Millisecond)
	e.Run("OPTIMIZE TABLE " + e.Local("events") + " PARTITION ID '202603' FINAL SETTINGS optimize_throw_if_noop = 1")
	require.EqualValues(t, 301, e.Number("SELECT count() FROM "+e.Local("events")))
	require.Empty(t, faultsOf(t, e))
}
