package progress

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestPlainLines(t *testing.T) {
	var out strings.Builder
	p := New(&out, "events")
	now := time.Unix(1_700_000_000, 0)
	p.now = func() time.Time { return now }
	p.Stage("cut 3")
	p.Total(3_000_000)
	p.Add(500_000)
	require.Empty(t, out.String(), "not before its time")
	now = now.Add(10 * time.Second)
	p.Add(500_000)
	require.Equal(t, "cut 3: 33.3 %, 1.00 M of 3.00 M events, 100.0 k/s, 20s left\n", out.String())
	p.Line("cut %d is published", 3)
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
	require.NotContains(t, out.String(), "\x1b", "no escapes where there is no terminal")
}

func TestBar(t *testing.T) {
	var out strings.Builder
	p := New(&out, "events")
	columns := 80
	p.terminal, p.columns = true, func() int { return columns }
	now := time.Unix(1_700_000_000, 0)
	p.now = func() time.Time { return now }
	p.Stage("cut 3")
	p.Total(1000)
	now = now.Add(time.Second)
	p.Add(500)
	require.Equal(t, "\r\x1b[Kcut 3 ████████████░░░░░░░░░░░░  50.0 %  500 of 1000 events, 500/s, 1s left", out.String())
	// A line that does not fit would be wrapped, and each redrawing would leave one behind.
	for _, columns = range []int{80, 65, 50, 45, 10, 1} {
		out.Reset()
		p.Total(123_456_789)
		now = now.Add(time.Second)
		p.Add(12_345_678)
		line, _ := strings.CutPrefix(out.String(), "\r\x1b[K")
		require.Less(t, utf8.RuneCountInString(line), max(columns, len("cut 3 ")+1), line)
		require.Equal(t, columns >= 65, strings.Contains(line, "░"), line)
	}
	out.Reset()
	p.Line("done")
	require.Equal(t, "\r\x1b[Kdone\n", out.String())
}
