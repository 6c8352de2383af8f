package cut

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/sequence"
)

// bits is a set of the sequences 1 … 63, the plain way.
type bits uint64

func of(b bits) Ranges {
	var all []Range
	for n := uint64(1); n < 64; n++ {
		if b&(1<<n) != 0 {
			all = append(all, Range{n, n})
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return Of(all...)
}

func (b bits) sums() sequence.Sums {
	var s sequence.Sums
	for n := uint64(1); n < 64; n++ {
		if b&(1<<n) != 0 {
			s.Count, s.Sum, s.Squares = s.Count+1, s.Sum+n, s.Squares+n*n
		}
	}
	return s
}

// The algebra of ranges is held against that of bits.
func TestRangesAreSets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() bits {
		b := bits(random.Uint64())
		for range random.IntN(3) { // clusters: runs of ones and of zeros
			mask := random.Uint64()
			b &= b<<1 | bits(mask&random.Uint64())
		}
		return b &^ 1
	}
	for range 20_000 {
		a, b := draw(), draw()
		s, u := of(a), of(b)
		require.Equal(t, of(a|b), s.Union(u), "%b %b", a, b)
		require.Equal(t, of(a&^b), s.Minus(u), "%b %b", a, b)
		require.Equal(t, a.sums(), s.Sums())
		require.Equal(t, a.sums().Count, s.Len())
		cap := uint64(random.IntN(64))
		require.Equal(t, of(a&(1<<(cap+1)-1)), s.UpTo(cap), "%b up to %d", a, cap)
		require.LessOrEqual(t, s.FirstN(cap).Len(), cap)
		require.Equal(t, s.FirstN(cap), s.UpTo(s.FirstN(cap).Highest()))
	}
	require.EqualValues(t, 0, Of(Range{2, 9}).Unbroken())
	require.EqualValues(t, 9, Of(Range{1, 4}, Range{5, 9}, Range{11, 12}).Unbroken())
}

func TestRangesAsJSON(t *testing.T) {
	data, err := json.Marshal(Of(Range{1, 5}, Range{9, 9}))
	require.NoError(t, err)
	require.JSONEq(t, `[[1,5],[9,9]]`, string(data))
	var back Ranges
	require.NoError(t, json.Unmarshal(data, &back))
	require.Equal(t, Of(Range{1, 5}, Range{9, 9}), back)
	require.ErrorContains(t, json.Unmarshal([]byte(`[[0,5]]`), &back), "begin with 1")
	require.ErrorContains(t, json.Unmarshal([]byte(`[[7,5]]`), &back), "not above")
}

func TestVectorRefusesWhatItHas(t *testing.T) {
	v := Vector{{7, 1}: Of(Range{1, 10})}
	require.NoError(t, v.Add(Vector{{7, 1}: Of(Range{11, 20}), {8, 1}: Of(Range{1, 1})}))
	require.Equal(t, Vector{{7, 1}: Of(Range{1, 20}), {8, 1}: Of(Range{1, 1})}, v)
	require.ErrorContains(t, v.Add(Vector{{7, 1}: Of(Range{20, 21}), {9, 9}: Of(Range{1, 1})}), "published already")
	require.NotContains(t, v, Lane{9, 9}, "a refused vector leaves nothing behind")
}
