package mail

import (
	"html"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/weekly"
)

func TestWhatIsWrongWithTheOptionsIsSaid(t *testing.T) {
	from := "Spillway <numbers@spill.example>"
	for _, url := range []string{"", "spill.example:25", "http://spill.example", "smtp://", "smtp://spill.example/path", "smtp://spill.example?tls=never", "smtp://spill.example:port"} {
		_, err := NewPost(Options{URL: url, From: from})
		require.ErrorContains(t, err, "SPILLWAY_SMTP_URL", url)
	}
	_, err := NewPost(Options{URL: "smtp://spill.example", From: "nobody"})
	require.ErrorContains(t, err, "SPILLWAY_MAIL_FROM")
	for _, url := range []string{"smtp://spill.example", "smtps://ada:p%40ss@spill.example:465", "smtp://127.0.0.1:2525", "smtp://spill.example:25?tls=optional"} {
		_, err := NewPost(Options{URL: url, From: from})
		require.NoError(t, err, url)
	}
}

func TestATokenUnsubscribesFromWhatItSays(t *testing.T) {
	key := []byte("key")
	for _, kind := range []Kind{Alerts, Weekly} {
		token := Token(key, kind, 12)
		got, profile, ok := Check(key, token)
		require.True(t, ok)
		require.Equal(t, kind, got)
		require.EqualValues(t, 12, profile)
		for i := range token {
			forged := []byte(token)
			forged[i] ^= 1
			_, _, ok := Check(key, string(forged))
			require.False(t, ok, "byte %d", i)
		}
	}
	for _, bad := range []string{"", "..", "alerts.12.", "other.12.x", Token([]byte("another"), Alerts, 12), Token(key, "all", 12)} {
		_, _, ok := Check(key, bad)
		require.False(t, ok, bad)
	}
}

func TestAConfirmationIsOfOneAddressForSomeDays(t *testing.T) {
	key, now := []byte("key"), time.Unix(1_800_000_000, 0)
	token := Confirmation(key, 12, "ada@example.org", now.Add(time.Hour))
	id, ok := Confirms(token)
	require.True(t, ok)
	require.EqualValues(t, 12, id)
	require.True(t, Confirmed(key, token, 12, "ada@example.org", now))
	require.False(t, Confirmed(key, token, 12, "ada@example.org", now.Add(time.Hour)))
	require.False(t, Confirmed(key, token, 13, "ada@example.org", now))
	require.False(t, Confirmed(key, token, 12, "eve@example.org", now))
	require.False(t, Confirmed(key, token, 12, "", now))
	require.False(t, Confirmed([]byte("another"), token, 12, "ada@example.org", now))
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		id, ok := Confirms(string(forged))
		require.False(t, ok && Confirmed(key, string(forged), id, "ada@example.org", now), "byte %d", i)
	}
	for _, bad := range []string{"", "..", "12", "0.1.x", "-1.1.x", Token(key, Alerts, 12)} {
		id, ok := Confirms(bad)
		require.False(t, ok && Confirmed(key, bad, id, "ada@example.org", now), bad)
	}
}

// TestALetterSaysTheSameInTextAndHTML: whichever part a mail program shows.
func TestALetterSaysTheSameInTextAndHTML(t *testing.T) {
	letters, err := NewLetters("https://spill.example/", []byte("key"))
	require.NoError(t, err)
	about := About{To: "ada@example.org", Profile: 12, Handle: "ada", Title: `Ada & "Co" <b>`, Alert: 7}
	alert, err := letters.Alert(about, "Your page has reached 1000 views.", time.Unix(0, 0))
	require.NoError(t, err)
	half, unknown := 0.5, 10.0/3
	visitors := int64(9)
	report := &weekly.Report{From: time.Date(2026, 11, 9, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC),
		Numbers: weekly.Numbers{Views: 1234, Clicks: 567, CTR: &half, UniqueVisitors: &visitors}, Change: weekly.Change{Views: &unknown},
		Links: []weekly.Link{{ID: "1", Title: "<script>", Clicks: 432}}, Origins: []weekly.Origin{{Dimension: "country", Value: "AT", Views: 321, Clicks: 123}}}
	week, err := letters.Weekly(about, report)
	require.NoError(t, err)
	for _, l := range []Letter{alert, week} {
		require.Equal(t, "ada@example.org", l.To)
		require.Equal(t, "alert.7", l.ID)
		require.Contains(t, l.Text, l.Unsubscribe)
		require.Contains(t, l.HTML, l.Unsubscribe)
		require.True(t, strings.HasPrefix(l.Unsubscribe, "https://spill.example/unsubscribe/"))
		require.NotContains(t, l.HTML, "<script>")
		require.NotContains(t, l.HTML, "<b>\n")
		require.NotContains(t, l.Text, "&amp;")
		require.NotContains(t, l.Text+l.HTML, "<no value>")
	}
	for _, number := range []string{"1\u202f234", "567", "50.0 %", "+333 %", "9", "432", "321", "123", "Austria", "on their way"} {
		require.Contains(t, week.Text, number)
		require.Contains(t, html.UnescapeString(week.HTML), number)
	}
	require.Contains(t, week.Text, "https://spill.example/pages/ada?from=2026-11-09&to=2026-11-15")
	require.Contains(t, week.HTML, "https://spill.example/pages/ada?from=2026-11-09&amp;to=2026-11-15")
}
