package api_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// visited is a creator with a profile, two links and visits.
type visited struct {
	*creator
	conn  driver.Conn
	id    string
	links []string
	start time.Time // of the hour before the last
	table string    // of events
}

// visits: people view 6 times (4 from DE), click link 0 4 times and link 1 once; bots view 3 times and preview 2.
func newVisited(t *testing.T) *visited {
	t.Helper()
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, where.MigrateClickHouse(t.Context()))
	v := &visited{creator: newCreatorOn(t, where), start: time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)}
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	v.conn, err = clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { v.conn.Close() })
	v.id, v.table = v.profile("ada"), layout.Local("events")
	for _, title := range []string{"=Shop", "Blog"} {
		v.links = append(v.links, v.must(201, "POST", v.path("/links"), map[string]any{"title": title, "url": "https://example.org/" + title}).body["id"].(string))
	}
	require.NoError(t, v.conn.Exec(t.Context(), "INSERT INTO "+layout.Local("terms")+" VALUES (0, 1)"))
	batch, err := v.conn.PrepareBatch(t.Context(), "INSERT INTO "+layout.Local("events")+
		" (stream, partition, sequence, offset, term, time, date, kind, class, reason, profile_id, link_id, visitor, surface, country, channel)")
	require.NoError(t, err)
	sequence := uint64(0)
	add := func(n int, kind, class, link, country string) {
		for range n {
			sequence++
			reason := ""
			if class != "person" {
				reason = "agent: " + class
			}
			at := v.start.Add(time.Duration(sequence) * time.Minute)
			require.NoError(t, batch.Append(uint64(7), uint32(0), sequence, sequence, uint64(1), at, at, kind, class, reason, id(t, v.id), id(t, link), sequence%4, "page", country, "social"))
		}
	}
	add(4, "view", "person", "0", "DE")
	add(2, "view", "person", "0", "AT")
	add(4, "click", "person", v.links[0], "DE")
	add(1, "click", "person", v.links[1], "AT")
	add(3, "view", "bot", "0", "US")
	add(2, "view", "preview", "0", "")
	require.NoError(t, batch.Send())
	return v
}

func id(t *testing.T, s string) (n uint64) {
	t.Helper()
	_, err := fmt.Sscan(s, &n)
	require.NoError(t, err)
	return n
}

func (v *visited) path(rest string) string { return "/v1/profiles/" + v.id + rest }

func TestInsightsOfARange(t *testing.T) {
	v := newVisited(t)
	a := v.must(200, "GET", v.path("/insights?period=24h&compare=previous"), nil)
	r := a.body["range"].(map[string]any)
	require.EqualValues(t, 6, r["views"])
	require.EqualValues(t, 5, r["clicks"])
	require.InDelta(t, 5.0/6, r["ctr"], 1e-9)
	require.EqualValues(t, 4, r["unique_visitors"])
	require.Equal(t, "aggregates", r["source"])
	require.EqualValues(t, 3, r["by_class"].(map[string]any)["bot"].(map[string]any)["views"])
	require.Zero(t, a.body["previous"].(map[string]any)["views"])
	require.Nil(t, a.body["change"].(map[string]any)["views"], "nothing to compare with")
	var views, clicks float64
	for _, p := range a.body["series"].([]any) {
		views += p.(map[string]any)["views"].(float64)
		clicks += p.(map[string]any)["clicks"].(float64)
	}
	require.EqualValues(t, 6, views)
	require.EqualValues(t, 5, clicks)
	links := a.body["links"].([]any)
	require.Len(t, links, 2)
	require.EqualValues(t, 4, links[0].(map[string]any)["clicks_in_range"])
	require.Len(t, a.body["annotations"], 2, "both links were added in the range")
	require.Equal(t, 304, v.send("GET", v.path("/insights?period=24h&compare=previous"), nil, "If-None-Match", a.Header.Get("ETag")).StatusCode)
	require.Contains(t, a.Header.Get("RateLimit-Policy"), `"default";q=1000;w=60`)

	all := v.must(200, "GET", v.path("/insights?period=24h&classes=person,bot,preview"), nil)
	require.EqualValues(t, 11, all.body["range"].(map[string]any)["views"])
	combined := v.must(200, "GET", v.path("/insights?period=24h&filter=country:DE&filter=channel:social&filter=link:"+v.links[0]), nil)
	require.EqualValues(t, 4, combined.body["range"].(map[string]any)["clicks"])
	require.Equal(t, "events", combined.body["range"].(map[string]any)["source"])
	for _, bad := range []string{"filter=country", "filter=link:x", "from=yesterday", "interval=minute", "timezone=Mars/Olympus", "period=1h", "from=2026-01-02&to=2026-01-01", "classes=ghost"} {
		v.must(422, "GET", v.path("/insights?"+bad), nil)
	}
}

func TestBreakdownsAndTheirTables(t *testing.T) {
	v := newVisited(t)
	a := v.must(200, "GET", v.path("/insights/breakdowns?period=24h&dimensions=country,link,surface&limit=1"), nil)
	shown := a.body["breakdowns"].([]any)
	require.Len(t, shown, 3)
	country := shown[0].(map[string]any)
	require.Equal(t, "DE", country["items"].([]any)[0].(map[string]any)["value"])
	require.EqualValues(t, 4, country["items"].([]any)[0].(map[string]any)["views"])
	require.EqualValues(t, 2, country["other"].(map[string]any)["views"])
	require.EqualValues(t, 3, country["other"].(map[string]any)["by_class"].(map[string]any)["bot"].(map[string]any)["views"])
	require.Nil(t, country["items"].([]any)[0].(map[string]any)["unique_viewers"], "not asked for")
	asked := v.must(200, "GET", v.path("/insights/breakdowns?period=24h&dimensions=country,link&viewers=true"), nil).body["breakdowns"].([]any)
	require.EqualValues(t, 4, asked[0].(map[string]any)["items"].([]any)[0].(map[string]any)["unique_viewers"])
	require.Nil(t, asked[1].(map[string]any)["items"].([]any)[0].(map[string]any)["unique_viewers"], "links know no viewers")
	v.must(422, "GET", v.path("/insights/breakdowns?dimensions=visitor"), nil)
	v.must(422, "GET", v.path("/insights/breakdowns"), nil)

	read := func(query string) [][]string {
		a := v.must(200, "GET", v.path("/insights.csv?"+query), nil)
		require.Equal(t, "text/csv; charset=utf-8", a.Header.Get("Content-Type"))
		rows, err := csv.NewReader(strings.NewReader(a.raw)).ReadAll()
		require.NoError(t, err)
		return rows
	}
	numbers := map[string]string{}
	for _, row := range read("panel=numbers&period=24h") {
		numbers[row[0]] = row[1]
	}
	require.Equal(t, "6", numbers["views"])
	require.Equal(t, "5", numbers["clicks"])
	require.Equal(t, "4", numbers["unique_visitors"])
	links := read("panel=links&period=24h")
	require.Equal(t, "'=Shop", links[1][1], "a spreadsheet must not compute a title")
	require.Equal(t, "4", links[1][5])
	require.Len(t, read("panel=series&period=24h"), 25)
	require.Contains(t, read("panel=breakdown&dimension=country&period=24h"), []string{"DE", "4", "4"})
}

// TestTheRestIsSaidTheSameEverywhere: what closed days keep as one is never a value, and is never missing.
func TestTheRestIsSaidTheSameEverywhere(t *testing.T) {
	v := newVisited(t)
	for i, kind := range []string{"view", "view", "click"} {
		require.NoError(t, v.conn.Exec(t.Context(), fmt.Sprintf(`INSERT INTO %s (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, link_id, visitor, surface, country)
			VALUES (7, 0, %d, %[2]d, 1, fromUnixTimestamp64Micro(toInt64(%d), 'UTC'), toDate('%s'), '%s', 'person', %s, %s, 1, 'page', '(other)')`,
			v.table, 100+i, v.start.UnixMicro(), v.start.Format(time.DateOnly), kind, v.id, []string{"0", "0", v.links[0]}[i])))
	}
	b := v.must(200, "GET", v.path("/insights/breakdowns?period=24h&dimensions=country&limit=100"), nil).body["breakdowns"].([]any)[0].(map[string]any)
	other := b["other"].(map[string]any)
	require.EqualValues(t, 1, other["values"])
	require.EqualValues(t, 2, other["views"])
	require.EqualValues(t, 1, other["clicks"])
	rows := []string{"country,views,clicks"}
	for _, one := range b["items"].([]any) {
		item := one.(map[string]any)
		require.NotEqual(t, "(other)", item["value"])
		rows = append(rows, fmt.Sprintf("%v,%v,%v", item["value"], item["views"], item["clicks"]))
	}
	rows = append(rows, "(other),2,1", "")
	require.Equal(t, strings.Join(rows, "\r\n"), v.must(200, "GET", v.path("/insights.csv?period=24h&panel=breakdown&dimension=country"), nil).raw)
	a := v.send("POST", "/v1/graphql", map[string]any{"query": `query($id: ID!) { profile(id: $id) { insights(period: LAST_24_HOURS, dimensions: ["country"], limit: 100) {
		breakdowns { items { value views clicks } other { views clicks } } } } }`, "variables": map[string]any{"id": v.id}})
	g := a.body["data"].(map[string]any)["profile"].(map[string]any)["insights"].(map[string]any)["breakdowns"].([]any)[0].(map[string]any)
	require.Equal(t, map[string]any{"views": 2.0, "clicks": 1.0}, g["other"])
	require.Len(t, g["items"], len(b["items"].([]any)))
	v.must(422, "GET", v.path("/insights?period=24h&filter=country:(other)"), nil)
	a = v.send("POST", "/v1/graphql", map[string]any{"query": `query($id: ID!) { profile(id: $id) { insights(filters: ["country:(other)"]) { to } } }`, "variables": map[string]any{"id": v.id}})
	require.NotEmpty(t, a.body["errors"])
}

func TestWhatIsNotCountedIsListedWithItsReason(t *testing.T) {
	v := newVisited(t)
	var reasons []string
	query := "?limit=2"
	for {
		a := v.must(200, "GET", v.path("/events"+query), nil)
		for _, e := range a.body["items"].([]any) {
			reasons = append(reasons, e.(map[string]any)["reason"].(string))
			require.Equal(t, false, e.(map[string]any)["counted"])
		}
		next, more := a.body["next"].(string)
		if !more {
			break
		}
		query = "?limit=2&after=" + next
	}
	require.Equal(t, []string{"agent: preview", "agent: preview", "agent: bot", "agent: bot", "agent: bot"}, reasons)
	require.Len(t, v.must(200, "GET", v.path("/events?classes=person&filter=country:AT"), nil).body["items"], 3)
	v.must(422, "GET", v.path("/events?after=x"), nil)
}

func TestSharesSeeOneProfilesNumbersAndNothingElse(t *testing.T) {
	v := newVisited(t)
	other := v.profile("bob")
	made := v.must(201, "POST", v.path("/shares"), map[string]any{"name": "the label"})
	guest := v.as(made.body["token"].(string))
	guest.must(200, "GET", v.path("/insights"), nil)
	guest.must(200, "GET", v.path("/insights/breakdowns?dimensions=country"), nil)
	guest.must(200, "GET", v.path("/annotations"), nil)
	guest.must(404, "GET", "/v1/profiles/"+other+"/insights", nil)
	for _, path := range []string{"", "/links", "/events", "/shares", "/qr"} {
		guest.must(403, "GET", v.path(path), nil)
	}
	guest.must(403, "GET", "/v1/profiles", nil)
	guest.must(403, "POST", v.path("/annotations"), map[string]any{"text": "x"})
	require.Len(t, v.must(200, "GET", v.path("/shares"), nil).body["items"], 1)
	v.must(204, "DELETE", v.path("/shares/"+made.body["id"].(string)), nil)
	guest.must(401, "GET", v.path("/insights"), nil)
	brief := v.must(201, "POST", v.path("/shares"), map[string]any{"name": "brief", "expires_at": time.Now().Add(200 * time.Millisecond)})
	require.Eventually(t, func() bool {
		return v.as(brief.body["token"].(string)).send("GET", v.path("/insights"), nil).StatusCode == 401
	}, 3*time.Second, 50*time.Millisecond)
	v.must(422, "POST", v.path("/shares"), map[string]any{"name": "past", "expires_at": "2001-01-01T00:00:00Z"})
}

// A ClickHouse that takes questions and never answers takes away what it has, not what PostgreSQL has.
func TestAStoreThatHangsTakesOnlyTimelinesAway(t *testing.T) {
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(hanging.Close)
	c := newCreatorWith(t, engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: hanging.URL + "/spillway"}, 200*time.Millisecond)
	id := c.profile("ada")
	c.must(201, "POST", "/v1/profiles/"+id+"/annotations", map[string]any{"text": "A talk", "time": time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)})
	a := c.must(200, "GET", "/v1/profiles/"+id+"/insights", nil)
	require.NotNil(t, a.body["lifetime"])
	require.NotEmpty(t, a.body["unavailable"])
	require.NotEmpty(t, a.body["annotations"])

	begin := time.Now()
	a = c.send("POST", "/v1/graphql", map[string]any{"query": `query($id: ID!) { profile(id: $id) { insights { lifetime { views } series { views } unavailable } } }`, "variables": map[string]any{"id": id}})
	require.Equal(t, 200, a.StatusCode, a.raw)
	numbers := a.body["data"].(map[string]any)["profile"].(map[string]any)["insights"].(map[string]any)
	require.Equal(t, map[string]any{"views": 0.0}, numbers["lifetime"])
	require.Nil(t, numbers["series"])
	require.NotEmpty(t, numbers["unavailable"])
	c.must(503, "GET", "/v1/profiles/"+id+"/insights.csv?panel=series", nil)
	require.Less(t, time.Since(begin), 10*time.Second, "what every operation may take is more")
}

func TestAnnotationsByHandAndByChange(t *testing.T) {
	v := newVisited(t)
	note := v.must(201, "POST", v.path("/annotations"), map[string]any{"text": " Radio interview ", "link_id": v.links[0]})
	require.Equal(t, "Radio interview", note.body["text"])
	v.must(200, "PATCH", v.path("/links/"+v.links[0]), map[string]any{"url": "https://example.org/new", "hidden": true})
	v.must(200, "PATCH", v.path(""), map[string]any{"timezone": "Asia/Kathmandu"})
	kinds := func() (all []string) {
		query := "?limit=2"
		for {
			a := v.must(200, "GET", v.path("/annotations"+query), nil)
			for _, n := range a.body["items"].([]any) {
				all = append(all, n.(map[string]any)["kind"].(string))
			}
			next, more := a.body["next"].(string)
			if !more {
				return all
			}
			query = "?limit=2&after=" + next
		}
	}
	require.ElementsMatch(t, []string{"timezone", "link-hidden", "link-target", "note", "link-added", "link-added"}, kinds())
	v.must(204, "DELETE", v.path("/annotations/"+note.body["id"].(string)), nil)
	require.NotContains(t, kinds(), "note")
	v.must(422, "POST", v.path("/annotations"), map[string]any{"text": "a\nb"})
	v.must(404, "POST", v.path("/annotations"), map[string]any{"text": "x", "link_id": "999999"})
}

// message is one server-sent event.
type message struct{ event, id, data string }

func (v *visited) watch(ctx context.Context, last string) <-chan message {
	request, err := http.NewRequestWithContext(ctx, "GET", v.server.URL+v.path("/live"), nil)
	require.NoError(v.t, err)
	request.Header.Set("Authorization", "Bearer "+v.token)
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(v.t, err)
	require.Equal(v.t, "text/event-stream", response.Header.Get("Content-Type"))
	messages := make(chan message, 100)
	go func() {
		defer response.Body.Close()
		defer close(messages)
		var m message
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				m.event = value
			case "id":
				m.id = value
			case "data":
				m.data = value
			case "":
				if m.event != "" {
					messages <- m
				}
				m = message{}
			}
		}
	}()
	return messages
}

func next(t *testing.T, messages <-chan message, event string) message {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case m, ok := <-messages:
			require.True(t, ok, "the stream ended")
			if m.event == event {
				return m
			}
		case <-timeout:
			require.FailNow(t, "no "+event)
		}
	}
}

func TestLiveNumbersComeBySelfAndGoOnWhereTheyStopped(t *testing.T) {
	v := newVisited(t)
	count := func(clicks int) {
		_, err := v.pool.Exec(t.Context(), `INSERT INTO profile_counters VALUES ($1, 'person', 10, $2, 0, 1, 1, 1, now())
			ON CONFLICT (profile_id, class) DO UPDATE SET clicks = excluded.clicks, as_of = excluded.as_of`, id(t, v.id), clicks)
		require.NoError(t, err)
	}
	count(1)
	ctx, leave := context.WithCancel(t.Context())
	messages := v.watch(ctx, "")
	clicks := func(m message) float64 {
		var n struct {
			Lifetime struct{ Clicks float64 }
		}
		require.NoError(t, json.Unmarshal([]byte(m.data), &n))
		return n.Lifetime.Clicks
	}
	require.EqualValues(t, 1, clicks(next(t, messages, "numbers")))
	require.Contains(t, next(t, messages, "visits").data, `"reason":"agent: preview"`)
	count(2)
	seen := next(t, messages, "numbers")
	require.EqualValues(t, 2, clicks(seen))
	leave()

	ctx, leave = context.WithCancel(t.Context())
	defer leave()
	messages = v.watch(ctx, seen.id)
	next(t, messages, "visits")
	select {
	case m := <-messages:
		require.NotEqual(t, "numbers", m.event, "what was seen is not sent again")
	case <-time.After(200 * time.Millisecond):
	}
	count(3)
	require.EqualValues(t, 3, clicks(next(t, messages, "numbers")))
}

func TestGapsAreSaidAndNeverZero(t *testing.T) {
	v := newVisited(t)
	from, to := v.start.Add(-3*time.Hour), v.start.Add(-time.Hour)
	lost, err := json.Marshal([]map[string]any{{"stream": "00000000000000aa", "reason": "dropped", "events": 12, "since": from, "until": to}})
	require.NoError(t, err)
	_, err = v.pool.Exec(t.Context(), `INSERT INTO completeness (complete_through, computed_at, lost) VALUES (now(), now(), $1)`, lost)
	require.NoError(t, err)
	a := v.must(200, "GET", v.path("/insights?period=24h"), nil)
	require.Len(t, a.body["gaps"], 1)
	unknown := 0
	for _, p := range a.body["series"].([]any) {
		at, err := time.Parse(time.RFC3339, p.(map[string]any)["time"].(string))
		require.NoError(t, err)
		if p.(map[string]any)["views"] == nil {
			unknown++
			require.False(t, at.Before(from) || !at.Before(to))
			require.Equal(t, false, p.(map[string]any)["complete"])
		}
	}
	require.Equal(t, 2, unknown)
}

func TestQuotasAreKept(t *testing.T) {
	v := newCreator(t)
	for range 3000 { // the quota comes back meanwhile
		a := v.send("GET", "/v1/profiles/0", nil)
		if a.StatusCode == 429 {
			require.NotEmpty(t, a.Header.Get("Retry-After"))
			require.Contains(t, a.Header.Get("RateLimit"), "r=0")
			return
		}
		require.Equal(t, 404, a.StatusCode)
	}
	require.Fail(t, "never refused")
}

func TestCodesToScan(t *testing.T) {
	v := newCreator(t)
	path := "/v1/profiles/" + v.profile("ada")
	link := v.must(201, "POST", path+"/links", map[string]any{"title": "x", "url": "https://example.org"}).body["id"].(string)
	svg := v.must(200, "GET", path+"/links/"+link+"/qr", nil)
	require.Equal(t, "image/svg+xml", svg.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(svg.raw, "<svg"))
	png := v.must(200, "GET", path+"/qr?format=png&size=300", nil)
	require.Equal(t, "image/png", png.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(png.raw, "\x89PNG"))
	v.must(422, "GET", path+"/qr?format=gif", nil)
	v.must(404, "GET", path+"/links/99999/qr", nil)
}
