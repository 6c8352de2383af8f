package versus

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAQuantileLiesInTheFirstBucketThatReachesIt(t *testing.T) {
	// As a histogram answers it: cumulative, so that every bound above the last observation has one and the same count.
	m := map[string]float64{"age_count": 100, "other_count": 3, `other{le="0.1"}`: 3}
	for le, count := range map[string]float64{"0.1": 0, "0.5": 0, "1": 80, "2": 100, "10": 100, "3600": 100, "+Inf": 100} {
		m[fmt.Sprintf("age{le=%q}", le)] = count
	}
	for range 50 { // a map's order is another one each time
		require.InDelta(t, 1.95, quantile(m, "age", 0.99), 1e-9)
		require.InDelta(t, 0.75, quantile(m, "age", 0.40), 1e-9)
	}
	require.True(t, math.IsNaN(quantile(m, "absent", 0.99)))

	m["age_count"], m[`age{le="+Inf"}`] = 200, 200
	require.True(t, math.IsInf(quantile(m, "age", 0.99), 1), "more than the last bound")
}
