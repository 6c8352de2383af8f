package spike

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func mean(all []time.Duration) float64 {
	sum := 0.0
	for _, d := range all {
		sum += d.Seconds()
	}
	return sum / float64(len(all))
}

// steady is a platform of one processor at a share of its capacity, for so long that the mean says something.
func steady(load float64, service time.Duration) (Shape, Platform) {
	rate := load / service.Seconds()
	return Shape{Before: rate, Peak: rate, Hold: time.Duration(400_000/rate) * time.Second},
		Platform{Processors: 1, Redirect: service, Linger: time.Millisecond, Partitions: 1, Insert: time.Millisecond, Rows: 1 << 30, Pause: 100 * time.Millisecond, Workers: 1}
}

// TestQueueIsMD1: the mean time in a queue of deterministic service is s + ρ s / (2 (1 - ρ)) (Pollaczek and Khinchine), with exponential
// service s / (1 - ρ).
func TestQueueIsMD1(t *testing.T) {
	const service = 10 * time.Millisecond
	for _, load := range []float64{0.2, 0.5, 0.8, 0.9} {
		shape, platform := steady(load, service)
		r, err := Replay(shape, platform, 1)
		require.NoError(t, err)
		s := service.Seconds()
		require.InEpsilon(t, s+load*s/(2*(1-load)), mean(r.Waits), 0.06, "M/D/1 at %v", load)
		require.InEpsilon(t, load, r.RedirectorLoad, 1e-9)

		platform.Exponential = true
		r, err = Replay(shape, platform, 2)
		require.NoError(t, err)
		require.InEpsilon(t, s/(1-load), mean(r.Waits), 0.12, "M/M/1 at %v", load)
	}
}

// TestQueueOfASpike: above its capacity a queue grows by what is too much, and is gone again after as long as the rest takes.
func TestQueueOfASpike(t *testing.T) {
	shape := Shape{Before: 500, Peak: 2000, Lead: 5 * time.Second, Hold: 10 * time.Second, After: 30 * time.Second}
	_, platform := steady(0.5, time.Millisecond) // 1000 a second
	r, err := Replay(shape, platform, 3)
	require.NoError(t, err)
	require.Len(t, r.Moments, 45)
	require.InEpsilon(t, 10_000, r.Moments[14].Waiting, 0.05, "10 s of 1000/s too many")
	require.InEpsilon(t, 5_000, r.Moments[24].Waiting, 0.15, "10 s later, at 500/s less than can be done")
	require.Less(t, r.Moments[39].Waiting, 200.0)
	require.InDelta(t, 2.0, r.RedirectorLoad, 1e-9)
}

func TestFreshnessIsThePauseWhenLittleComes(t *testing.T) {
	shape := Shape{Before: 1000, Peak: 1000, Hold: 60 * time.Second}
	platform := Platform{Processors: 1, Redirect: 10 * time.Microsecond, Linger: 20 * time.Millisecond, Partitions: 1, Insert: 10 * time.Millisecond, Row: time.Microsecond,
		Rows: 100_000, Pause: 500 * time.Millisecond, Workers: 1}
	r, err := Replay(shape, platform, 4)
	require.NoError(t, err)
	// An insert takes 10.1 ms, so the next begins 101 ms after it: who comes just too late waits for that, the linger and the insert.
	require.InDelta(t, 0.131, P(r.Fresh, 0.99).Seconds(), 0.01)
	require.GreaterOrEqual(t, P(r.Fresh, 0), 30*time.Millisecond)
}

// TestOwnerCannotKeepUp: an owner whose rows cost more than they come falls behind by the difference.
func TestOwnerCannotKeepUp(t *testing.T) {
	shape := Shape{Before: 2000, Peak: 2000, Hold: 20 * time.Second}
	platform := Platform{Processors: 1, Redirect: 10 * time.Microsecond, Partitions: 1, Insert: time.Millisecond, Row: time.Millisecond, Rows: 1000, Pause: 100 * time.Millisecond, Workers: 1}
	r, err := Replay(shape, platform, 5)
	require.NoError(t, err)
	require.Greater(t, r.OwnerLoad, 2.0)
	require.InEpsilon(t, 20_000, r.Moments[19].Backlog, 0.1, "1000/s of 2000/s are inserted")
	for i := range r.Fresh {
		require.GreaterOrEqual(t, r.Fresh[i], r.Waits[i])
	}
}

// TestWorkersCannotKeepUp: four owners share two workers, which insert 2000 rows a second, of 3000 that come.
func TestWorkersCannotKeepUp(t *testing.T) {
	shape := Shape{Before: 3000, Peak: 3000, Hold: 20 * time.Second}
	platform := Platform{Processors: 4, Redirect: 10 * time.Microsecond, Partitions: 4, Row: time.Millisecond, Rows: 1 << 20, Pause: 100 * time.Millisecond, Workers: 2}
	r, err := Replay(shape, platform, 7)
	require.NoError(t, err)
	require.InDelta(t, 1.5, r.WorkerLoad, 0.01)
	require.Less(t, r.OwnerLoad, 1.0)
	visible := 0
	for i, came := 0, 0.0; i < len(r.Fresh); i++ {
		came = 20 * float64(i) / float64(len(r.Fresh))
		if came+r.Fresh[i].Seconds() <= 20 {
			visible++
		}
	}
	require.Less(t, float64(visible*platform.Processors), 2000*20*1.05, "no more than the workers can do")
	platform.Workers = 4
	r, err = Replay(shape, platform, 7)
	require.NoError(t, err)
	require.Less(t, P(r.Fresh, 0.99), 2*time.Second, "with four they can")
}

func TestSameSeedSameReplayAndBadInput(t *testing.T) {
	shape, platform := steady(0.5, time.Millisecond)
	shape.Hold = 5 * time.Second
	a, err := Replay(shape, platform, 6)
	require.NoError(t, err)
	b, err := Replay(shape, platform, 6)
	require.NoError(t, err)
	require.Equal(t, a, b)
	platform.Workers = 0
	_, err = Replay(shape, platform, 6)
	require.ErrorContains(t, err, "at least one")
}
