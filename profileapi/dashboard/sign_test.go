package dashboard_test

import (
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/dashboard"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/profile"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// house is a dashboard whose ClickHouse is away: pages must come all the same.
func house(t *testing.T, origin string) (*httptest.Server, *pgxpool.Pool) {
	t.Helper()
	return houseOn(t, origin, "http://127.0.0.1:1/nowhere", 0)
}

// houseOn asks that ClickHouse, with that patience.
func houseOn(t *testing.T, origin, timelines string, patience time.Duration) (*httptest.Server, *pgxpool.Pool) {
	t.Helper()
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: timelines}
	require.NoError(t, postgres.Migrate(t.Context(), where.Database))
	pool, err := where.OpenPostgres(t.Context(), 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	reader := insight.NewReader(conn, pool, layout)
	silent := slog.New(slog.NewTextHandler(io.Discard, nil))
	hub, err := live.NewHub(pool, reader, live.Options{}, silent, prometheus.NewRegistry())
	require.NoError(t, err)
	running, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); hub.Run(running) }()
	t.Cleanup(func() { stop(); <-stopped })
	d, err := dashboard.New(dashboard.Options{Public: "http://127.0.0.1:1", Origin: origin, SignUp: true, Pool: pool, Accounts: account.NewStore(pool),
		Profiles: profile.NewStore(pool, profile.NewRules(nil, nil)), Reader: reader, Hub: hub, Mail: true, Patience: patience, Log: silent})
	require.NoError(t, err)
	mux := http.NewServeMux()
	d.Register(mux.Handle)
	server := httptest.NewServer(http.NewCrossOriginProtection().Handler(mux))
	t.Cleanup(server.Close)
	return server, pool
}

type browser struct {
	*http.Client
	t    *testing.T
	base string
}

func sit(t *testing.T, server *httptest.Server) browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return browser{&http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, t, server.URL}
}

func (b browser) send(method, path string, form url.Values, headers ...string) (*http.Response, string) {
	b.t.Helper()
	request, err := http.NewRequest(method, b.base+path, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := b.Do(request)
	require.NoError(b.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(b.t, err)
	return answer, string(text)
}

func TestSigningUpInAndOut(t *testing.T) {
	server, pool := house(t, "http://127.0.0.1")
	b := sit(t, server)
	for _, bad := range []url.Values{{"email": {"ada"}, "password": {"analytical engines"}}, {"email": {"ada@example.org"}, "password": {"short"}}} {
		answer, text := b.send("POST", "/sign-up", bad)
		require.Equal(t, 422, answer.StatusCode)
		require.Contains(t, text, `role="alert"`)
	}
	credentials := url.Values{"email": {" Ada@Example.org"}, "password": {"analytical engines"}}
	answer, _ := b.send("POST", "/sign-up", credentials)
	require.Equal(t, "/pages/new", answer.Header.Get("Location"))
	cookie := answer.Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
	require.False(t, cookie.Secure, "http cannot keep a secure cookie")
	answer, _ = sit(t, server).send("POST", "/sign-up", credentials)
	require.Equal(t, 422, answer.StatusCode, "the address is taken")

	var stored string
	var plain int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT password_hash FROM accounts WHERE email = 'ada@example.org'").Scan(&stored))
	require.True(t, strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$"), stored)
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM sessions WHERE hash = $1", []byte(cookie.Value)).Scan(&plain))
	require.Zero(t, plain)

	// What another site's page sends is refused, though the browser would add the cookie.
	page := url.Values{"title": {"Ada"}, "handle": {"ada"}, "timezone": {"Europe/London"}}
	answer, _ = b.send("POST", "/pages", page, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, 403, answer.StatusCode)
	answer, _ = b.send("POST", "/pages", page, "Origin", "https://evil.example")
	require.Equal(t, 403, answer.StatusCode)
	answer, _ = b.send("POST", "/pages", page, "Sec-Fetch-Site", "same-origin")
	require.Equal(t, "/pages/ada", answer.Header.Get("Location"))

	answer, text := b.send("GET", "/pages/ada", nil)
	require.Equal(t, 200, answer.StatusCode, "the page comes while ClickHouse is away")
	require.Contains(t, text, "lifetime numbers are not affected")
	require.NotContains(t, answer.Header.Get("Content-Security-Policy"), "unsafe")
	require.NotContains(t, text, "style=")
	stranger := sit(t, server)
	answer, _ = stranger.send("GET", "/pages/ada", nil)
	require.Equal(t, "/sign-in", answer.Header.Get("Location"))
	_, _ = stranger.send("POST", "/sign-up", url.Values{"email": {"eve@example.org"}, "password": {"another long one"}})
	answer, _ = stranger.send("GET", "/pages/ada", nil)
	require.Equal(t, 404, answer.StatusCode, "another account sees nothing")
	answer, _ = stranger.send("POST", "/pages/ada/links", url.Values{"title": {"x"}, "url": {"https://example.org"}})
	require.Equal(t, 404, answer.StatusCode)

	answer, text = b.send("POST", "/pages/ada/links", url.Values{"title": {"<script>alert(1)</script>"}, "url": {"example.org"}}, "X-Part", "manage")
	require.Equal(t, 200, answer.StatusCode)
	require.NotContains(t, text, "<script>")
	require.Contains(t, text, "https://example.org")
	answer, text = b.send("POST", "/pages/ada/links", url.Values{"title": {"x"}, "url": {"javascript:alert(1)"}}, "X-Part", "manage")
	require.Equal(t, 422, answer.StatusCode)
	require.Contains(t, text, `role="alert"`)

	_, _ = b.send("POST", "/sign-out", nil)
	again := sit(t, server)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	again.Jar.SetCookies(u, []*http.Cookie{cookie})
	answer, _ = again.send("GET", "/pages/ada", nil)
	require.Equal(t, "/sign-in", answer.Header.Get("Location"), "a session that was closed opens nothing")
	answer, _ = again.send("POST", "/sign-in", credentials)
	require.Equal(t, 303, answer.StatusCode)
	require.NotEqual(t, cookie.Value, answer.Cookies()[0].Value)
}

func TestGuessingIsThrottled(t *testing.T) {
	server, _ := house(t, "http://127.0.0.1")
	b := sit(t, server)
	for range 10 {
		answer, text := b.send("POST", "/sign-in", url.Values{"email": {"nobody@example.org"}, "password": {"a guess at it"}})
		require.Equal(t, 422, answer.StatusCode)
		require.Contains(t, text, "No account has this address and password")
	}
	answer, _ := b.send("POST", "/sign-in", url.Values{"email": {"Nobody@example.org "}, "password": {"a guess at it"}})
	require.Equal(t, 429, answer.StatusCode)
	require.NotEmpty(t, answer.Header.Get("Retry-After"))
	answer, _ = b.send("POST", "/sign-in", url.Values{"email": {"other@example.org"}, "password": {"a guess at it"}})
	require.Equal(t, 422, answer.StatusCode)
}

func TestCookiesOverHTTPSAreSecure(t *testing.T) {
	server, _ := house(t, "https://spill.example")
	answer, _ := sit(t, server).send("POST", "/sign-up", url.Values{"email": {"ada@example.org"}, "password": {"analytical engines"}})
	cookie := answer.Cookies()[0]
	require.Equal(t, "__Host-spillway", cookie.Name)
	require.True(t, cookie.Secure)
	require.Equal(t, "/", cookie.Path)
	require.Empty(t, cookie.Domain)
}

func TestFilesArePackedForWhoeverUnpacks(t *testing.T) {
	server, _ := house(t, "http://127.0.0.1")
	b := sit(t, server)
	plain, body := b.send("GET", "/assets/style.css", nil, "Accept-Encoding", "identity")
	require.Empty(t, plain.Header.Get("Content-Encoding"))
	packed, small := b.send("GET", "/assets/style.css", nil, "Accept-Encoding", "br, gzip")
	require.Equal(t, "gzip", packed.Header.Get("Content-Encoding"))
	require.Less(t, len(small), len(body)/2)
	r, err := gzip.NewReader(strings.NewReader(small))
	require.NoError(t, err)
	unpacked, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, body, string(unpacked))
	require.NotEqual(t, plain.Header.Get("ETag"), packed.Header.Get("ETag"))
	again, _ := b.send("GET", "/assets/style.css", nil, "Accept-Encoding", "gzip", "If-None-Match", packed.Header.Get("ETag"))
	require.Equal(t, 304, again.StatusCode)
}
