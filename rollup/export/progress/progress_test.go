package progress

import (
	"strings"
	"testing"
	"time"

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
	p.terminal = true
	now := time.Unix(1_700_000_000, 0)
	p.now = func() time.Time { return now }
	p.Stage("cut 3")
	p.Total(1000)
	now = now.Add(time.Second)
	p.Add(500)
	require.Equal(t, "\r\x1b[Kcut 3 ████████████░░░░░░░░░░░░  50.0 %  500 of 1000 events, 500/s, 1s left", out.String())
	out.Reset()
	p.Line("done")
	require.Equal(t, "\r\x1b[Kdone\n", out.String())
}
