package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/api"
	"spillway.dev/profileapi/export"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/limit"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/profile"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// creator is a client of an API on engines of its own.
type creator struct {
	t       *testing.T
	server  *httptest.Server
	pool    *pgxpool.Pool
	metrics *prometheus.Registry
	token   string

	contract *contract // every answer is held against the document
}

// answer is what came back.
type answer struct {
	*http.Response
	body map[string]any
	raw  string
}

func newCreator(t *testing.T) *creator {
	return newCreatorOn(t, engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: "http://127.0.0.1:1/nowhere"})
}

func newCreatorOn(t *testing.T, where engines.Addresses, exporting ...export.Options) *creator {
	t.Helper()
	return newCreatorWith(t, where, 0, exporting...)
}

// newCreatorWith has its own patience with ClickHouse.
func newCreatorWith(t *testing.T, where engines.Addresses, patience time.Duration, exporting ...export.Options) *creator {
	t.Helper()
	require.NoError(t, postgres.Migrate(t.Context(), where.Database))
	pool, err := where.OpenPostgres(t.Context(), 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	c := &creator{t: t, pool: pool, metrics: prometheus.NewRegistry(), token: account.NewSecret()}
	reader := insight.NewReader(conn, pool, layout)
	silent := slog.New(slog.NewTextHandler(io.Discard, nil))
	hub, err := live.NewHub(pool, reader, live.Options{Every: 50 * time.Millisecond}, silent, c.metrics)
	require.NoError(t, err)
	exports, err := export.NewSource(where, append(exporting, export.Options{})[0], c.metrics)
	require.NoError(t, err)
	running, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); hub.Run(running) }()
	t.Cleanup(func() { stop(); <-stopped })
	a, err := api.New(api.Options{
		Mail: true, Pool: pool, Accounts: account.NewStore(pool), Reader: reader, Hub: hub, Exports: exports, Public: "https://lnk.example/",
		Profiles: profile.NewStore(pool, profile.NewRules([]string{"https://lnk.example"}, []string{"127.0.0.1:8080"})),
		Limit:    limit.New(limit.Policy{Name: "default", Quota: 1000, Window: time.Minute}, nil), Cookie: "spillway",
		Patience: patience, Log: silent, Metrics: c.metrics, Stopping: running.Done(),
	})
	require.NoError(t, err)
	c.contract = newContract(t, a.Document())
	c.server = httptest.NewServer(a)
	t.Cleanup(c.server.Close)
	_, err = account.EnsureAdminToken(t.Context(), pool, c.token)
	require.NoError(t, err)
	return c
}

// send makes a request; body may be nil, a string that is sent as it is, or a value that is sent as JSON. headers are pairs.
func (c *creator) send(method, path string, body any, headers ...string) answer {
	c.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		require.NoError(c.t, err)
		in = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, c.server.URL+path, in)
	require.NoError(c.t, err)
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	a := answer{Response: response, raw: string(raw)}
	if len(raw) > 0 && strings.Contains(response.Header.Get("Content-Type"), "json") {
		require.NoError(c.t, json.Unmarshal(raw, &a.body), "%s %s: %s", method, path, raw)
	}
	c.contract.holds(method, path, response.StatusCode, response.Header.Get("Content-Type"), raw)
	return a
}

// must is send, and fails the test unless the answer has that status.
func (c *creator) must(status int, method, path string, body any, headers ...string) answer {
	c.t.Helper()
	a := c.send(method, path, body, headers...)
	require.Equal(c.t, status, a.StatusCode, "%s %s: %v", method, path, a.body)
	if status >= 400 {
		require.Equal(c.t, "application/problem+json", a.Header.Get("Content-Type"))
		require.EqualValues(c.t, status, a.body["status"])
		require.NotEmpty(c.t, a.body["title"])
	}
	return a
}

func (c *creator) as(token string) *creator {
	other := *c
	other.token = token
	return &other
}

func (c *creator) profile(handle string) string {
	c.t.Helper()
	return c.must(201, "POST", "/v1/profiles", map[string]any{"handle": handle, "title": "A page"}).body["id"].(string)
}

func TestTheLifeOfAProfile(t *testing.T) {
	c := newCreator(t)
	made := c.must(201, "POST", "/v1/profiles", map[string]any{"handle": "ada", "title": " Ada ", "timezone": "Europe/London"})
	require.Equal(t, "ada", made.body["handle"])
	require.Equal(t, "Ada", made.body["title"])
	require.Equal(t, "https://lnk.example/ada", made.body["url"])
	require.IsType(t, "", made.body["id"])
	path := "/v1/profiles/" + made.body["id"].(string)

	c.must(409, "POST", "/v1/profiles", map[string]any{"handle": "ada", "title": "Another"})
	read := c.must(200, "GET", path, nil)
	require.Equal(t, made.body, read.body)
	require.Equal(t, 304, c.send("GET", path, nil, "If-None-Match", read.Header.Get("ETag")).StatusCode)

	changed := c.must(200, "PATCH", path, map[string]any{"bio": "First\nSecond", "handle": "ada.l"}, "If-Match", read.Header.Get("ETag"))
	require.Equal(t, "First\nSecond", changed.body["bio"])
	require.Equal(t, "ada.l", changed.body["handle"])
	require.Equal(t, "Ada", changed.body["title"])
	require.Greater(t, changed.body["layout"], made.body["layout"])
	c.must(412, "PATCH", path, map[string]any{"bio": "lost update"}, "If-Match", read.Header.Get("ETag"))
	again := c.must(200, "PATCH", path, map[string]any{"bio": "First\nSecond"})
	require.Equal(t, changed.Header.Get("ETag"), again.Header.Get("ETag"), "the same again changes nothing")

	c.profile("ada") // its first handle is free again
	c.must(204, "DELETE", path, nil)
	c.must(404, "GET", path, nil)
	c.must(404, "DELETE", path, nil)
	c.profile("ada.l")
}

func TestProfilesAreListedInPages(t *testing.T) {
	c := newCreator(t)
	var want []any
	for _, handle := range []string{"one", "two", "three"} {
		want = append(want, c.profile(handle))
	}
	var got []any
	query := "?limit=2"
	for {
		page := c.must(200, "GET", "/v1/profiles"+query, nil)
		for _, p := range page.body["items"].([]any) {
			got = append(got, p.(map[string]any)["id"])
		}
		next, more := page.body["next"].(string)
		if !more {
			break
		}
		query = "?limit=2&after=" + next
	}
	require.Equal(t, want, got)
	c.must(422, "GET", "/v1/profiles?after=x", nil)
	c.must(422, "GET", "/v1/profiles?limit=0", nil)
}

func TestTheLifeOfALink(t *testing.T) {
	c := newCreator(t)
	path := "/v1/profiles/" + c.profile("ada") + "/links"
	var ids, codes []any
	for _, title := range []string{"Shop", "Blog", "Band"} {
		l := c.must(201, "POST", path, map[string]any{"title": title, "url": "https://example.org/" + title})
		require.Len(t, l.body["code"], 7)
		require.Equal(t, "https://lnk.example/l/"+l.body["code"].(string), l.body["tracked_url"])
		ids, codes = append(ids, l.body["id"]), append(codes, l.body["code"])
	}
	require.Len(t, map[any]bool{codes[0]: true, codes[1]: true, codes[2]: true}, 3)

	one := path + "/" + ids[0].(string)
	l := c.must(200, "PATCH", one, map[string]any{"url": "https://example.org/new?x=1#top", "utm": map[string]any{"source": "bio"}})
	require.Equal(t, "https://example.org/new?x=1#top", l.body["url"])
	require.Equal(t, map[string]any{"source": "bio"}, l.body["utm"])
	require.Equal(t, codes[0], l.body["code"])
	require.Equal(t, l.body, c.must(200, "GET", one, nil).body)
	c.must(200, "PATCH", one, map[string]any{"hidden": true, "query_mode": "append"})
	c.must(412, "DELETE", one, nil, "If-Match", l.Header.Get("ETag"))

	order := c.must(200, "PUT", path+"/order", map[string]any{"links": []any{ids[2], ids[0], ids[1]}})
	titles := func(a answer) (out []any) {
		for _, l := range a.body["items"].([]any) {
			out = append(out, l.(map[string]any)["title"])
		}
		return out
	}
	require.Equal(t, []any{"Band", "Shop", "Blog"}, titles(order))
	require.Equal(t, []any{"Band", "Shop", "Blog"}, titles(c.must(200, "GET", path, nil)))
	for _, wrong := range [][]any{{ids[0]}, {ids[0], ids[0], ids[1]}, {ids[0], ids[1], ids[2], "99999"}, {ids[0], ids[1], "x"}} {
		c.must(422, "PUT", path+"/order", map[string]any{"links": wrong})
	}

	c.must(204, "DELETE", one, nil)
	c.must(404, "GET", one, nil)
	c.must(404, "PATCH", one, map[string]any{"title": "x"})
	require.Equal(t, []any{"Band", "Blog"}, titles(c.must(200, "GET", path, nil)))
	var kept int
	require.NoError(t, c.pool.QueryRow(t.Context(), "SELECT count(*) FROM links WHERE code = $1", codes[0]).Scan(&kept))
	require.Equal(t, 1, kept, "the code stays taken")
}

func TestWhatIsRefusedSaysWhere(t *testing.T) {
	c := newCreator(t)
	id := c.profile("ada")
	for _, tc := range []struct {
		path, location string
		body           map[string]any
	}{
		{"/v1/profiles", "body.handle", map[string]any{"handle": "A", "title": "x"}},
		{"/v1/profiles", "body.handle", map[string]any{"handle": "Upper", "title": "x"}},
		{"/v1/profiles", "body.handle", map[string]any{"handle": "robots.txt", "title": "x"}},
		{"/v1/profiles", "body.handle", map[string]any{"handle": "a..b", "title": "x"}},
		{"/v1/profiles", "body.title", map[string]any{"handle": "abc", "title": "  "}},
		{"/v1/profiles", "body.title", map[string]any{"handle": "abc", "title": "a\u0000b"}},
		{"/v1/profiles", "body.title", map[string]any{"handle": "abc", "title": "evil\u202etxt"}},
		{"/v1/profiles", "body.timezone", map[string]any{"handle": "abc", "title": "x", "timezone": "Mars/Olympus"}},
		{"/v1/profiles", "body.timezone", map[string]any{"handle": "abc", "title": "x", "timezone": "Local"}},
		{"/v1/profiles", "body.theme", map[string]any{"handle": "abc", "title": "x", "theme": "pink"}},
		{"/v1/profiles", "body.id", map[string]any{"handle": "abc", "title": "x", "id": "7"}},
		{"/v1/profiles", "body", map[string]any{"handle": "abc"}},
		{"/v1/profiles/" + id + "/links", "body.url", map[string]any{"title": "x", "url": "javascript:alert(1)"}},
		{"/v1/profiles/" + id + "/links", "body.url", map[string]any{"title": "x", "url": "https://lnk.example/l/abcdefg"}},
		{"/v1/profiles/" + id + "/links", "body.url", map[string]any{"title": "x", "url": "http://localhost:8080/l/abcdefg"}},
		{"/v1/profiles/" + id + "/links", "body.url", map[string]any{"title": "x", "url": "https://example.org/" + strings.Repeat("a", 2048)}},
		{"/v1/profiles/" + id + "/links", "body.query_mode", map[string]any{"title": "x", "url": "https://example.org", "query_mode": "both"}},
	} {
		a := c.must(422, "POST", tc.path, tc.body)
		first := a.body["errors"].([]any)[0].(map[string]any)
		require.Equal(t, tc.location, first["location"], "%v", tc.body)
		require.NotEmpty(t, first["message"])
	}
	c.must(400, "POST", "/v1/profiles", `{"handle":`)
	c.must(400, "POST", "/v1/profiles", nil)
	c.must(415, "POST", "/v1/profiles", "handle=ada", "Content-Type", "application/x-www-form-urlencoded")
	c.must(413, "POST", "/v1/profiles", `{"handle":"abc","title":"`+strings.Repeat("a", 70<<10)+`"}`)
	c.must(404, "GET", "/v1/nothing", nil)
	c.must(404, "GET", "/nothing", nil)
	refused := c.must(405, "PUT", "/v1/profiles", map[string]any{})
	require.Contains(t, refused.Header.Get("Allow"), "POST")
	require.Equal(t, "PUT", c.send("OPTIONS", "/v1/profiles/1/links/order", nil).Header.Get("Allow"), "not those of a link whose id is order")
	require.Equal(t, "DELETE, GET, HEAD, PATCH", c.send("PUT", "/v1/profiles/1/links/2", nil).Header.Get("Allow"))
	for _, id := range []string{"0", "-1", "x", "99999999999999999999", "999999"} {
		c.must(404, "GET", "/v1/profiles/"+id, nil)
	}
}

func TestTokensAndWhatTheyMayDo(t *testing.T) {
	c := newCreator(t)
	anonymous := c.as("")
	require.Equal(t, `Bearer realm="spillway"`, anonymous.must(401, "GET", "/v1/profiles", nil).Header.Get("WWW-Authenticate"))
	require.Contains(t, c.as("sw_wrong").must(401, "GET", "/v1/profiles", nil).Header.Get("WWW-Authenticate"), "invalid_token")
	anonymous.must(401, "GET", "/v1/profiles", nil, "Authorization", "Basic "+c.token)

	make := func(scopes ...string) (string, *creator) {
		a := c.must(201, "POST", "/v1/tokens", map[string]any{"name": "test", "scopes": scopes})
		require.True(t, strings.HasPrefix(a.body["token"].(string), "sw_"))
		return a.body["id"].(string), c.as(a.body["token"].(string))
	}
	_, reader := make("read")
	writerID, writer := make("write")
	id := writer.profile("ada")
	reader.must(200, "GET", "/v1/profiles/"+id, nil)
	require.Contains(t, reader.must(403, "POST", "/v1/profiles", map[string]any{"handle": "bob", "title": "x"}).Header.Get("WWW-Authenticate"), "insufficient_scope")
	writer.must(403, "POST", "/v1/tokens", map[string]any{"name": "more", "scopes": []string{"admin"}})
	c.must(422, "POST", "/v1/tokens", map[string]any{"name": "x", "scopes": []string{"root"}})
	c.must(422, "POST", "/v1/tokens", map[string]any{"name": "x", "scopes": []string{}})
	c.must(422, "POST", "/v1/tokens", map[string]any{"name": "x", "scopes": []string{"read"}, "expires_at": "2001-01-01T00:00:00Z"})
	require.Len(t, c.must(200, "GET", "/v1/tokens", nil).body["items"], 3)

	c.must(204, "DELETE", "/v1/tokens/"+writerID, nil)
	writer.must(401, "GET", "/v1/profiles", nil)
	require.Len(t, c.must(200, "GET", "/v1/tokens", nil).body["items"], 2)
	c.must(404, "DELETE", "/v1/tokens/424242", nil)

	soon := time.Now().Add(300 * time.Millisecond)
	brief := c.as(c.must(201, "POST", "/v1/tokens", map[string]any{"name": "brief", "scopes": []string{"read"}, "expires_at": soon}).body["token"].(string))
	brief.must(200, "GET", "/v1/profiles", nil)
	require.Eventually(t, func() bool { return brief.send("GET", "/v1/profiles", nil).StatusCode == 401 }, 3*time.Second, 50*time.Millisecond)

	var plain int
	require.NoError(t, c.pool.QueryRow(t.Context(), "SELECT count(*) FROM tokens WHERE position($1::bytea IN hash) > 0", []byte(c.token)).Scan(&plain))
	require.Zero(t, plain)
}

func TestAnotherAccountSeesNothing(t *testing.T) {
	c := newCreator(t)
	id := c.profile("ada")
	link := c.must(201, "POST", "/v1/profiles/"+id+"/links", map[string]any{"title": "x", "url": "https://example.org"}).body["id"].(string)
	made := c.must(201, "POST", "/v1/accounts", map[string]any{"email": "bob@example.org"})
	c.must(409, "POST", "/v1/accounts", map[string]any{"email": "bob@example.org"})
	bob := c.as(made.body["token"].(string))
	bob.must(403, "POST", "/v1/accounts", map[string]any{"email": "eve@example.org"})
	require.Empty(t, bob.must(200, "GET", "/v1/profiles", nil).body["items"])
	mine := bob.profile("bob")
	path := "/v1/profiles/" + id
	for _, r := range []struct {
		method, path string
		body         any
	}{
		{"GET", path, nil}, {"PATCH", path, map[string]any{"title": "stolen"}}, {"DELETE", path, nil}, {"GET", path + "/insights", nil},
		{"GET", path + "/links", nil}, {"POST", path + "/links", map[string]any{"title": "x", "url": "https://example.org"}},
		{"PUT", path + "/links/order", map[string]any{"links": []string{link}}},
		{"GET", path + "/links/" + link, nil}, {"PATCH", path + "/links/" + link, map[string]any{"title": "stolen"}}, {"DELETE", path + "/links/" + link, nil},
		// Through a profile of one's own.
		{"GET", "/v1/profiles/" + mine + "/links/" + link, nil}, {"PATCH", "/v1/profiles/" + mine + "/links/" + link, map[string]any{"title": "stolen"}},
		{"DELETE", "/v1/profiles/" + mine + "/links/" + link, nil},
	} {
		bob.must(404, r.method, r.path, r.body)
	}
	require.Equal(t, "A page", c.must(200, "GET", path, nil).body["title"])
	require.Equal(t, "x", c.must(200, "GET", path+"/links/"+link, nil).body["title"])
}

func TestPostgresAwayIsSaid(t *testing.T) {
	c := newCreator(t)
	c.pool.Reset()
	ctx := t.Context()
	// As if the schema were not there yet: the service answers before its first migration is done.
	_, err := c.pool.Exec(ctx, "ALTER TABLE tokens RENAME TO tokens_later")
	require.NoError(t, err)
	a := c.must(503, "GET", "/v1/profiles", nil)
	require.Equal(t, "2", a.Header.Get("Retry-After"))
	_, err = c.pool.Exec(ctx, "ALTER TABLE tokens_later RENAME TO tokens")
	require.NoError(t, err)
	c.must(200, "GET", "/v1/profiles", nil)

	families, err := c.metrics.Gather()
	require.NoError(t, err)
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "spillway_profileapi_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			seen[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	require.Equal(t, map[string]float64{"list-profiles 2xx": 1, "list-profiles 5xx": 1}, seen)
}
