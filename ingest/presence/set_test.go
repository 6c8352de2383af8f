package presence

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The set against a plain array, by random additions.
func TestSetAgainstAnArray(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		const highest = 40
		var s Set
		var there [highest + 2]bool
		for range random.IntN(12) {
			first := 1 + random.Uint64N(highest)
			last := first + random.Uint64N(highest-first+1)
			s.Add(first, last)
			for i := first; i <= last; i++ {
				there[i] = true
			}
			from := 1 + random.Uint64N(highest)
			to := from + random.Uint64N(highest-from+1)
			var want []Range
			for i := from; i <= to; i++ {
				if there[i] {
					continue
				}
				if n := len(want); n > 0 && want[n-1].Last == i-1 {
					want[n-1].Last = i
				} else {
					want = append(want, Range{i, i})
				}
			}
			require.Equal(t, want, s.AppendMissing(nil, from, to))
		}
		count, top, holes := uint64(0), uint64(0), 0
		for i := uint64(1); i <= highest; i++ {
			if there[i] {
				count, top = count+1, i
			}
		}
		for i := uint64(1); i < top; i++ {
			if !there[i] && (i == 1 || there[i-1]) {
				holes++
			}
		}
		require.Equal(t, count, s.Count())
		require.Equal(t, top, s.Highest())
		require.Equal(t, holes, s.Holes())
		for i := 1; i < len(s.runs); i++ {
			require.Greater(t, s.runs[i].First, s.runs[i-1].Last+1)
		}
	}
}

func TestSetAtTheEndOfNumbers(t *testing.T) {
	var s Set
	s.Add(^uint64(0)-1, ^uint64(0))
	s.Add(1, 2)
	s.Add(3, 3)
	require.Equal(t, []Range{{4, ^uint64(0) - 2}}, s.AppendMissing(nil, 1, ^uint64(0)))
	require.Empty(t, s.AppendMissing(nil, 1, 3))
}

func TestAStreamInOrderAllocatesNothing(t *testing.T) {
	var s Set
	var missing []Range
	next := uint64(1)
	on := func() {
		missing = s.AppendMissing(missing[:0], next, next+99)
		s.Add(next, next+99)
		next += 100
	}
	on()
	require.Zero(t, testing.AllocsPerRun(100, on))
	require.Equal(t, next-1, s.Highest())
}

func BenchmarkSetInOrder(b *testing.B) {
	var s Set
	var missing []Range
	next := uint64(1)
	for b.Loop() {
		missing = s.AppendMissing(missing[:0], next, next+99)
		s.Add(next, next+99)
		next += 100
	}
}
