package measure

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Series is a figure, once a round.
type Series []float64

// Median is the middle one; of an even number the mean of the middle two. Of none it is not a number.
func (s Series) Median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Over returns the ratios of this series to another, round by round: what troubled both in a round troubles the ratio least.
func (s Series) Over(other Series) Series {
	ratios := make(Series, min(len(s), len(other)))
	for i := range ratios {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

// Times returns the series in another unit.
func (s Series) Times(factor float64) Series {
	scaled := make(Series, len(s))
	for i, v := range s {
		scaled[i] = v * factor
	}
	return scaled
}

// String is the median with the spread, smallest to largest.
func (s Series) String() string {
	switch len(s) {
	case 0:
		return "–"
	case 1:
		return Number(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", Number(s.Median()), Number(slices.Min(s)), Number(slices.Max(s)))
}

// Number writes a figure with three digits that mean something.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 10_000_000:
		return strconv.FormatFloat(v/1e6, 'f', 1, 64) + " M"
	case a >= 10_000:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + " k"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a == 0:
		return "0"
	case a < 0.01:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
