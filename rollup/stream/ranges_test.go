package stream

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/sequence"
)

func set(s Ranges) map[uint64]bool {
	m := map[uint64]bool{}
	for _, r := range s {
		for n := r.First; n <= r.Last; n++ {
			m[n] = true
		}
	}
	return m
}

func TestRangesAreSets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	some := func() []Range {
		all := make([]Range, random.IntN(6))
		for i := range all {
			first := 1 + random.Uint64N(30)
			all[i] = Range{first, first + random.Uint64N(6)}
		}
		return all
	}
	for range 2000 {
		a, b := some(), some()
		ua, ub := Union(a...), Union(b...)
		want := set(a)
		require.Equal(t, want, set(ua))
		require.EqualValues(t, len(want), ua.Count())
		for i := 1; i < len(ua); i++ {
			require.Greater(t, ua[i].First, ua[i-1].Last+1, "sorted and apart")
		}
		for n := range set(ub) {
			delete(want, n)
		}
		require.Equal(t, want, set(ua.Minus(ub)))
		var sum, squares uint64
		for n := range set(ua) {
			sum += n
			squares += n * n
		}
		require.Equal(t, sequence.Sums{Count: uint64(len(set(ua))), Sum: sum, Squares: squares}, ua.sums())
	}
	require.Equal(t, Ranges(nil), upTo(0))
}
