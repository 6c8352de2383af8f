package counters

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
)

// TestARandomWalk lets events come in on any day while rollups work, die, are cut off between any two statements, start anew and race each
// other. Counters may lag behind, but never be more than the truth, and agree with it in the end. SPILLWAY_SEED repeats a walk.
func TestARandomWalk(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("SPILLWAY_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("SPILLWAY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	e := eventtest.New(t)
	now := noon()
	clock := func() time.Time { return now }
	c := newCloser(t, e, clock)
	updaters := []*Updater{newUpdater(t, e, Options{Late: c.Late, Slice: 3}), newUpdater(t, e, Options{Late: c.Late, Slice: 3})}
	var views, clicks int64
	insert := func() {
		var events []eventtest.Event
		for range 1 + random.IntN(8) {
			v := eventtest.Event{Time: noon().AddDate(0, 0, -random.IntN(12)), Profile: 1 + random.Uint64N(9), Visitor: 1 + random.Uint64N(20)}
			if random.IntN(2) == 0 {
				v.Link = v.Profile*10 + random.Uint64N(2)
				clicks++
			} else {
				views++
			}
			events = append(events, v)
		}
		e.Insert(events...)
	}
	// cut off lets something run for a random short time only.
	cutOff := func(work func(context.Context) error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(40))*time.Millisecond)
		defer cancel()
		if err := work(ctx); err != nil {
			require.Error(t, ctx.Err(), "it failed by itself: %v", err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		u := random.IntN(len(updaters))
		switch random.IntN(10) {
		case 0, 1, 2:
			insert()
		case 3:
			cutOff(func(ctx context.Context) error { _, err := updaters[u].Round(ctx); return err })
		case 4:
			cutOff(c.Round)
		case 5:
			require.NoError(t, c.Round(t.Context()))
		case 6:
			updaters[u] = newUpdater(t, e, Options{Late: c.Late, Slice: 3})
		case 7:
			now = now.Add(time.Duration(random.IntN(90)) * time.Minute)
		default:
			_, err := updaters[u].Round(t.Context())
			require.NoError(t, err)
		}
		var v, k int64
		require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT coalesce(sum(views), 0)::bigint, coalesce(sum(clicks), 0)::bigint FROM profile_counters").Scan(&v, &k))
		require.LessOrEqual(t, v, views)
		require.LessOrEqual(t, k, clicks)
		unequal, err := Lists(t.Context(), e.Pool, 10)
		require.NoError(t, err)
		require.Empty(t, unequal)
	}
	require.Eventually(t, func() bool {
		now = now.Add(time.Minute)
		require.NoError(t, c.Round(t.Context()))
		busy := c.Busy()
		settled, err := updaters[0].Round(t.Context())
		require.NoError(t, err)
		return settled && !busy && !c.Busy()
	}, time.Minute, time.Millisecond)
	closed, err := day.ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	differ, err := Compare(t.Context(), e.Tables, e.Pool, closed, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9})
	require.NoError(t, err)
	require.Empty(t, differ)
	var v, k int64
	require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT coalesce(sum(views), 0)::bigint, coalesce(sum(clicks), 0)::bigint FROM profile_counters").Scan(&v, &k))
	require.Equal(t, []int64{views, clicks}, []int64{v, k})
}
