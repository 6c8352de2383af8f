package dashboard_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/mail"
	"spillway.dev/schemas/ownertoken"
	"spillway.dev/schemas/postgres"
)

// signedUp is a creator with a page, who is signed in.
func signedUp(t *testing.T) (browser, *httptest.Server, *pgxpool.Pool) {
	t.Helper()
	server, pool := house(t, "http://127.0.0.1")
	return signUp(t, server), server, pool
}

// signUp makes an account and its page.
func signUp(t *testing.T, server *httptest.Server) browser {
	t.Helper()
	b := sit(t, server)
	_, _ = b.send("POST", "/sign-up", url.Values{"email": {"ada@example.org"}, "password": {"analytical engines"}})
	answer, _ := b.send("POST", "/pages", url.Values{"title": {"Ada"}, "handle": {"ada"}, "timezone": {"Europe/London"}})
	require.Equal(t, "/pages/ada", answer.Header.Get("Location"))
	return b
}

func TestThisBrowserIsMine(t *testing.T) {
	b, server, pool := signedUp(t)
	key, err := postgres.Secret(t.Context(), pool, ownertoken.Secret)
	require.NoError(t, err)
	for path, purpose := range map[string]ownertoken.Purpose{"mine": ownertoken.Claim, "not-mine": ownertoken.Release} {
		answer, _ := b.send("GET", "/pages/ada/browser/"+path, nil, "Sec-Fetch-Site", "same-origin")
		require.Equal(t, 303, answer.StatusCode)
		require.Equal(t, "no-referrer", answer.Header.Get("Referrer-Policy"))
		to, err := url.Parse(answer.Header.Get("Location"))
		require.NoError(t, err)
		require.Equal(t, "http://127.0.0.1:1/ada", to.Scheme+"://"+to.Host+to.Path)
		got, expires, ok := ownertoken.Check(key, []byte(to.Query().Get(ownertoken.Parameter)), 1, time.Now())
		require.True(t, ok)
		require.Equal(t, purpose, got)
		require.WithinDuration(t, time.Now().Add(ownertoken.LinkTime), expires, time.Minute)
		for _, site := range []string{"cross-site", "same-site"} {
			answer, _ = b.send("GET", "/pages/ada/browser/"+path, nil, "Sec-Fetch-Site", site)
			require.Equal(t, 403, answer.StatusCode, "another site's page leads here")
		}
		answer, _ = sit(t, server).send("GET", "/pages/ada/browser/"+path, nil)
		require.Equal(t, "/sign-in", answer.Header.Get("Location"))
	}
}

// TestWhoIsHereIsAskedForTheirAddress: the account may be older than the server's mail.
func TestWhoIsHereIsAskedForTheirAddress(t *testing.T) {
	b, _, pool := signedUp(t)
	due := func() (letters int) {
		t.Helper()
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT coalesce(sum(letters), 0) FROM confirmations WHERE next_at IS NOT NULL`).Scan(&letters))
		return letters
	}
	require.Equal(t, 1, due(), "at sign-up")
	london, err := time.LoadLocation("Europe/London")
	require.NoError(t, err)
	for _, wants := range []bool{false, true} {
		_, err = pool.Exec(t.Context(), `DELETE FROM confirmations`)
		require.NoError(t, err)
		_, err = pool.Exec(t.Context(), `INSERT INTO mail_settings (profile_id, alerts, weekly) SELECT id, $1, $1 FROM profiles
			ON CONFLICT (profile_id) DO UPDATE SET alerts = $1, weekly = $1`, wants)
		require.NoError(t, err)
		for range 2 {
			_, text := b.send("GET", "/pages/ada", nil)
			require.Equal(t, wants, strings.Contains(text, "letter that was sent on "+time.Now().In(london).Format("2 January")), text)
			require.NotEqual(t, wants, strings.Contains(text, "Send a letter that asks"))
		}
		require.Equal(t, wants, due() == 1)
	}
	_, err = pool.Exec(t.Context(), `UPDATE confirmations SET next_at = NULL, last_error = 'no such mailbox'`)
	require.NoError(t, err)
	_, text := b.send("GET", "/pages/ada", nil)
	require.Contains(t, text, "could not be delivered")
	answer, text := b.send("POST", "/pages/ada/mail", url.Values{"confirm": {"1"}}, "X-Part", "manage")
	require.Equal(t, 422, answer.StatusCode)
	require.Contains(t, text, "ask again in 10 minutes")
}

func TestWebhooksAreAddedTriedAndRemoved(t *testing.T) {
	b, _, pool := signedUp(t)
	send := func(status int, form url.Values) string {
		t.Helper()
		answer, text := b.send("POST", "/pages/ada/webhooks", form, "X-Part", "manage")
		require.Equal(t, status, answer.StatusCode, text)
		return text
	}
	for _, bad := range []string{"", "example.org", "http://example.org/", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]:9/"} {
		require.Contains(t, send(422, url.Values{"url": {bad}}), `role="alert"`, bad)
	}
	text := send(200, url.Values{"url": {"https://example.org/hook"}})
	secret := regexp.MustCompile(`wh_[0-9a-f]{64}`).FindString(text)
	require.NotEmpty(t, secret)
	_, text = b.send("GET", "/pages/ada", nil)
	require.NotContains(t, text, secret, "it is shown once")
	require.Contains(t, text, "https://example.org/hook")
	id := regexp.MustCompile(`name="test" value="(\d+)"`).FindStringSubmatch(text)[1]
	require.Contains(t, send(200, url.Values{"test": {id}}), "On its way")
	_, err := pool.Exec(t.Context(), `UPDATE deliveries SET next_at = NULL, attempts = 11, last_error = 'answered 500'`)
	require.NoError(t, err)
	_, text = b.send("GET", "/pages/ada", nil)
	require.Contains(t, text, "Given up after 11 tries: answered 500")
	delivery := regexp.MustCompile(`name="replay" value="(\d+)"`).FindStringSubmatch(text)[1]
	require.Contains(t, send(200, url.Values{"replay": {delivery}}), "On its way")
	require.NotContains(t, send(200, url.Values{"remove": {id}}), `class="where"`)
	send(422, url.Values{"remove": {id}})
	send(422, url.Values{"test": {id}})
}

func TestLettersAreChosenAndUnsubscribedFrom(t *testing.T) {
	b, server, pool := signedUp(t)
	settings := func() (alerts, weekly bool) {
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT alerts, weekly FROM mail_settings`).Scan(&alerts, &weekly))
		return alerts, weekly
	}
	_, text := b.send("GET", "/pages/ada", nil)
	require.Contains(t, text, "ada@example.org")
	answer, _ := b.send("POST", "/pages/ada/mail", url.Values{"weekly": {"1"}})
	require.Equal(t, 303, answer.StatusCode)
	alerts, weekly := settings()
	require.False(t, alerts)
	require.True(t, weekly)

	key, err := postgres.Secret(t.Context(), pool, mail.Secret)
	require.NoError(t, err)
	path := mail.UnsubscribePath + mail.Token(key, mail.Weekly, 1)
	stranger := sit(t, server) // nobody is signed in where the letter is read
	answer, text = stranger.send("GET", path, nil)
	require.Equal(t, 200, answer.StatusCode)
	require.Contains(t, text, "weekly reports of Ada")
	_, weekly = settings()
	require.True(t, weekly, "looking changes nothing")
	answer, _ = stranger.send("POST", path, url.Values{"List-Unsubscribe": {"One-Click"}})
	require.Equal(t, 200, answer.StatusCode)
	_, weekly = settings()
	require.False(t, weekly)
	for _, bad := range []string{path + "x", strings.Replace(path, "weekly", "alerts", 1), strings.Replace(path, ".1.", ".2.", 1), mail.UnsubscribePath + "x"} {
		answer, _ = stranger.send("POST", bad, nil)
		require.Equal(t, 404, answer.StatusCode, bad)
	}
}

func TestAnAddressIsConfirmedByWhoReadsTheLetter(t *testing.T) {
	b, server, pool := signedUp(t)
	const notice, button = "This address is not confirmed", "Send the letter again"
	var letters int
	count := func() int {
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT letters FROM confirmations WHERE account_id = 1 AND next_at IS NOT NULL`).Scan(&letters))
		return letters
	}
	require.Equal(t, 1, count(), "whoever signs up is asked")
	_, text := b.send("GET", "/pages/ada", nil)
	require.Contains(t, text, notice)
	require.Contains(t, text, button)
	answer, text := b.send("POST", "/pages/ada/mail", url.Values{"confirm": {"1"}}, "X-Part", "manage")
	require.Equal(t, 422, answer.StatusCode)
	require.Contains(t, text, "A letter was sent a short while ago")
	_, err := pool.Exec(t.Context(), `UPDATE confirmations SET asked_at = now() - interval '10 minutes'`)
	require.NoError(t, err)
	answer, text = b.send("POST", "/pages/ada/mail", url.Values{"confirm": {"1"}}, "X-Part", "manage")
	require.Equal(t, 200, answer.StatusCode)
	require.Contains(t, text, "The letter is on its way")
	require.Equal(t, 2, count())
	var settings int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM mail_settings`).Scan(&settings))
	require.Zero(t, settings, "asking changes nothing else")

	key, err := postgres.Secret(t.Context(), pool, mail.Secret)
	require.NoError(t, err)
	confirmed := func() (yes bool) {
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT email_confirmed_at IS NOT NULL FROM accounts`).Scan(&yes))
		return yes
	}
	expires := time.Now().Add(mail.ConfirmTime)
	path := mail.ConfirmPath + mail.Confirmation(key, 1, "ada@example.org", expires)
	stranger := sit(t, server) // the letter may be read elsewhere
	for _, bad := range []string{path + "x", mail.ConfirmPath + "x", mail.ConfirmPath + mail.Confirmation(key, 1, "eve@example.org", expires),
		mail.ConfirmPath + mail.Confirmation(key, 2, "ada@example.org", expires), mail.ConfirmPath + mail.Confirmation(key, 1, "ada@example.org", time.Now().Add(-time.Second))} {
		answer, _ = stranger.send("POST", bad, nil)
		require.Equal(t, 404, answer.StatusCode, bad)
	}
	answer, text = stranger.send("GET", path, nil)
	require.Equal(t, 200, answer.StatusCode)
	require.Contains(t, text, "ada@example.org")
	require.False(t, confirmed(), "programs that look at addresses in letters confirm nothing")
	answer, text = stranger.send("POST", path, nil)
	require.Equal(t, 200, answer.StatusCode)
	require.Contains(t, text, "Your address is confirmed")
	require.True(t, confirmed())
	_, text = b.send("GET", "/pages/ada", nil)
	require.NotContains(t, text, notice)
	require.NotContains(t, text, button)
	answer, text = b.send("POST", "/pages/ada/mail", url.Values{"confirm": {"1"}}, "X-Part", "manage") // of a page that was open before
	require.Equal(t, 200, answer.StatusCode)
	require.Contains(t, text, "Nothing is to be confirmed any more")
	require.NotContains(t, text, "on its way")
}

// A ClickHouse that takes questions and never answers keeps nobody waiting for long.
func TestWhatWasLeftOutWhileTheAnswerHangs(t *testing.T) {
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(hanging.Close)
	server, _ := houseOn(t, "http://127.0.0.1", hanging.URL+"/spillway", 200*time.Millisecond)
	b := signUp(t, server)
	begin := time.Now()
	answer, text := b.send("GET", "/pages/ada/left-out", nil)
	require.Equal(t, 503, answer.StatusCode)
	require.Contains(t, text, "The numbers are not affected")
	require.Less(t, time.Since(begin), 10*time.Second)
}

func TestWhatWasLeftOutWhileNobodyKnows(t *testing.T) {
	b, server, _ := signedUp(t)
	answer, text := b.send("GET", "/pages/ada/left-out?range=30d", nil)
	require.Equal(t, 503, answer.StatusCode)
	require.Contains(t, text, "The numbers are not affected")
	answer, _ = sit(t, server).send("GET", "/pages/ada/left-out", nil)
	require.Equal(t, "/sign-in", answer.Header.Get("Location"))
}
