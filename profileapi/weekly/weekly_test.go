package weekly

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheLastWholeWeek(t *testing.T) {
	zone, err := time.LoadLocation("Australia/Lord_Howe")
	require.NoError(t, err)
	monday := time.Date(2026, 4, 6, 0, 0, 0, 0, zone)
	for _, at := range []time.Time{monday, monday.Add(time.Nanosecond), monday.Add(50 * time.Hour), monday.AddDate(0, 0, 7).Add(-time.Nanosecond)} {
		w := Before(at)
		require.Equal(t, monday, w.To, at)
		require.Equal(t, monday.AddDate(0, 0, -7), w.From, at)
		require.Equal(t, "2026-W14", w.Name())
	}
}

func TestAWeekInWords(t *testing.T) {
	day := func(s string) time.Time {
		at, err := time.Parse(time.DateOnly, s)
		require.NoError(t, err)
		return at
	}
	for want, from := range map[string]string{
		"9 to 15 November 2026": "2026-11-09", "30 November to 6 December 2026": "2026-11-30", "28 December 2026 to 3 January 2027": "2026-12-28",
	} {
		require.Equal(t, want, (&Report{From: day(from), To: day(from).AddDate(0, 0, 7)}).Span())
	}
	r := Report{From: day("2026-11-09"), To: day("2026-11-16"), Numbers: Numbers{Views: 1, Clicks: 0}}
	require.Equal(t, "Your week, 9 to 15 November 2026: 1 view, 0 clicks.", r.Sentence(), "nothing to compare with, visitors unknown")
	require.Equal(t, "from=2026-11-09&to=2026-11-15", r.Days().Encode())
	require.False(t, r.Quiet())
	require.True(t, new(Report).Quiet())
	for change, want := range map[float64]string{0.254: "+25 %", -0.5: "−50 %", 0.004: "±0 %", -0.004: "±0 %", 12: "+1200 %"} {
		require.Equal(t, want, Percent(change))
	}
}
