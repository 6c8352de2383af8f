package insight

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGapsAreRanges(t *testing.T) {
	now := time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC)
	at := func(days float64) *time.Time { t := now.Add(-time.Duration(days * 24 * float64(time.Hour))); return &t }
	c := Completeness{ComputedAt: &now,
		Lost:     []Holding{{Stream: "a", Reason: "dropped", Events: 1, Since: at(3), Until: at(2)}, {Stream: "b", Reason: "unreadable"}, {Stream: "c", Reason: "missing", Since: at(20)}},
		HeldBack: []Holding{{Stream: "d", Reason: "missing", Since: at(0.5)}},
		Silent:   []Holding{{Stream: "e", Reason: "silent", Since: at(1)}},
	}
	var got []string
	for _, g := range c.Gaps(*at(100), now) {
		end := "goes on"
		if !g.To.IsZero() {
			end = g.To.Sub(g.From).String()
		}
		got = append(got, g.Stream+" "+end)
		require.NotEmpty(t, g.Sentence())
	}
	require.Equal(t, []string{"a 24h0m0s", "c 192h0m0s", "d goes on", "e goes on"}, got, "of b nobody knows when")
	require.Empty(t, c.Gaps(*at(10), *at(4)), "what was lost long ago does not leave later days in doubt")
	require.Len(t, c.Gaps(*at(2.5), *at(2.4)), 1, "within a gap")
	require.Len(t, c.Gaps(*at(0.1), *at(0)), 2)
}
