package api_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/weekly"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// TestTheWeeklyReportSaysWhatTheInsightsSay holds each number of a report against the insights of the same seven days.
func TestTheWeeklyReportSaysWhatTheInsightsSay(t *testing.T) {
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, where.MigrateClickHouse(t.Context()))
	c := newCreatorOn(t, where)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	p := c.must(201, "POST", "/v1/profiles", map[string]any{"handle": "ada", "title": "Ada", "timezone": "Asia/Kathmandu"}).body["id"].(string)
	path := "/v1/profiles/" + p
	var links []string
	for i := range 5 {
		links = append(links, c.must(201, "POST", path+"/links", map[string]any{"title": fmt.Sprint("Link ", i), "url": "https://example.org/"}).body["id"].(string))
	}
	zone, err := time.LoadLocation("Asia/Kathmandu")
	require.NoError(t, err)
	now := time.Now().In(zone)
	week := weekly.Before(now)
	require.NoError(t, conn.Exec(t.Context(), "INSERT INTO "+layout.Local("terms")+" VALUES (0, 1)"))
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO "+layout.Local("events")+
		" (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, link_id, visitor, surface, country, channel, referrer_host)")
	require.NoError(t, err)
	for n := range uint64(3000) { // over four weeks around the one
		at := week.From.AddDate(0, 0, -14).Add(time.Duration(n) * 13 * time.Minute).In(zone)
		date := time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC)
		kind, link, class := "view", uint64(0), "person"
		if n%3 == 0 {
			kind, link = "click", id(t, links[n%5*(n%2)])
		}
		if n%7 == 0 {
			class = "bot"
		}
		require.NoError(t, batch.Append(uint64(7), uint32(0), n+1, n+1, uint64(1), at, date, kind, class, id(t, p), link, n*n%97, "page",
			[]string{"DE", "AT", "", "NP", "IN"}[n%5], []string{"social", "direct"}[n%2], []string{"", "instagram.com"}[n%2]))
	}
	require.NoError(t, batch.Send())

	report, err := weekly.Read(t.Context(), insight.NewReader(conn, c.pool, layout), int64(id(t, p)), week, now, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	between := fmt.Sprintf("from=%s&to=%s", week.From.Format(time.DateOnly), week.To.Format(time.DateOnly))
	a := c.must(200, "GET", path+"/insights?interval=day&compare=previous&"+between, nil).body
	same := func(of map[string]any, n weekly.Numbers) {
		t.Helper()
		require.EqualValues(t, of["views"], n.Views)
		require.EqualValues(t, of["clicks"], n.Clicks)
		require.InDelta(t, of["ctr"], *n.CTR, 1e-12)
		require.EqualValues(t, of["unique_visitors"], *n.UniqueVisitors)
	}
	same(a["range"].(map[string]any), report.Numbers)
	same(a["previous"].(map[string]any), report.Before)
	require.Greater(t, report.Views, int64(100))
	require.InDelta(t, a["change"].(map[string]any)["views"], *report.Change.Views, 1e-12)
	require.InDelta(t, a["change"].(map[string]any)["unique_visitors"], *report.Change.UniqueVisitors, 1e-12)
	inRange := map[string]float64{}
	for _, l := range a["links"].([]any) {
		inRange[l.(map[string]any)["id"].(string)] = l.(map[string]any)["clicks_in_range"].(float64)
	}
	require.Len(t, report.Links, weekly.Best)
	named := map[string]bool{}
	for i, l := range report.Links {
		require.EqualValues(t, inRange[l.ID], l.Clicks)
		require.True(t, i == 0 || l.Clicks <= report.Links[i-1].Clicks)
		named[l.ID] = true
	}
	for other, clicks := range inRange {
		require.True(t, named[other] || int64(clicks) <= report.Links[len(report.Links)-1].Clicks)
	}
	for _, b := range c.must(200, "GET", path+"/insights/breakdowns?dimensions=channel,referrer_host,country&interval=day&limit=10&"+between, nil).body["breakdowns"].([]any) {
		found := 0
		for _, i := range b.(map[string]any)["items"].([]any) {
			item := i.(map[string]any)
			for _, o := range report.Origins {
				if string(o.Dimension) == b.(map[string]any)["dimension"] && o.Value == item["value"] {
					require.EqualValues(t, item["views"], o.Views)
					require.EqualValues(t, item["clicks"], o.Clicks)
					found++
				}
			}
		}
		require.Positive(t, found)
	}
}
