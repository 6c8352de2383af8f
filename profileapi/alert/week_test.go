package alert

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/weekly"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// visited is a creator whose page is visited.
type visited struct {
	creator
	t        *testing.T
	reader   *insight.Reader
	batch    driver.Batch
	sequence uint64
}

func newVisited(t *testing.T) *visited {
	t.Helper()
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, where.MigrateClickHouse(t.Context()))
	v := &visited{creator: newCreator(t, where), t: t}
	v.confirmed(t)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	v.reader = insight.NewReader(conn, v.pool, layout)
	require.NoError(t, conn.Exec(t.Context(), "INSERT INTO "+layout.Local("terms")+" VALUES (0, 1)"))
	v.batch, err = conn.PrepareBatch(t.Context(), "INSERT INTO "+layout.Local("events")+
		" (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, link_id, visitor, surface, country, channel)")
	require.NoError(t, err)
	return v
}

// add lets something happen n times, on the page's date.
func (v *visited) add(n int, at time.Time, kind, class string, link uint64) {
	v.t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(v.t, err)
	date, err := time.Parse(time.DateOnly, at.In(berlin).Format(time.DateOnly))
	require.NoError(v.t, err)
	for range n {
		v.sequence++
		require.NoError(v.t, v.batch.Append(uint64(7), uint32(0), v.sequence, v.sequence, uint64(1), at, date, kind, class, uint64(v.profile), link, v.sequence, "page", "DE", "social"))
	}
}

func (v *visited) send() { require.NoError(v.t, v.batch.Send()) }

// through says up to when everything is known.
func (v *visited) through(at time.Time) {
	v.t.Helper()
	_, err := v.pool.Exec(v.t.Context(), `INSERT INTO completeness (complete_through, computed_at) VALUES ($1, $1)
		ON CONFLICT (only_row) DO UPDATE SET complete_through = excluded.complete_through, computed_at = excluded.computed_at`, at)
	require.NoError(v.t, err)
}

// TestTheWeekIsToldOnMondayMorning asks two processes on each hour of a Monday.
func TestTheWeekIsToldOnMondayMorning(t *testing.T) {
	ctx := t.Context()
	v := newVisited(t)
	c, reader := v.creator, v.reader
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	monday := time.Date(2026, 3, 30, 0, 0, 0, 0, berlin) // the week before has an hour less
	add := v.add
	first, last := monday.AddDate(0, 0, -7), monday.Add(-time.Second)
	add(3, first, "view", "person", 0)
	add(4, last, "view", "person", 0)
	add(2, last, "click", "person", 11)
	add(1, last, "click", "person", 12)
	add(9, last, "click", "bot", 11)
	add(5, first.Add(-time.Second), "view", "person", 0) // of the week before
	add(6, monday, "view", "person", 0)                  // of the week after
	v.send()
	_, err = c.pool.Exec(ctx, `INSERT INTO profile_counters VALUES ($1, 'person', 18, 3, 0, 1, 1, 1, $2)`, c.profile, monday)
	require.NoError(t, err)
	// A page without any visit is told nothing.
	_, err = c.pool.Exec(ctx, `WITH p AS (INSERT INTO profiles (account_id, handle, title, timezone, created_at) SELECT account_id, 'bob', 'Bob', timezone, created_at FROM profiles RETURNING id)
		INSERT INTO profile_counters SELECT id, 'person', 0, 0, 0, 0, 0, 0, $1 FROM p`, monday)
	require.NoError(t, err)
	through := v.through
	through(last)

	store := NewStore(c.pool)
	told := func() []Alert {
		list, err := store.List(ctx, c.profile, 0, 10)
		require.NoError(t, err)
		return list
	}
	now := monday
	clock := func() time.Time { return now }
	processes := []*Watch{NewWatch(c.pool, reader, Options{Now: clock, Mail: true}, silent), NewWatch(c.pool, reader, Options{Now: clock, Mail: true}, silent)}
	look := func(at time.Time) {
		now = at
		for _, w := range processes {
			require.NoError(t, w.weeks(ctx))
		}
	}
	look(monday.Add(8*time.Hour - time.Second))
	require.Empty(t, told(), "it is not morning yet")
	look(monday.Add(8 * time.Hour))
	require.Empty(t, told(), "some of the week is on its way")
	through(monday)
	look(monday.Add(9 * time.Hour))
	look(monday.Add(10 * time.Hour))
	list := told()
	require.Len(t, list, 1)
	require.Equal(t, Weekly, list[0].Kind)
	require.Equal(t, "Your week, 23 to 29 March 2026: 7 views (+40 %), 3 clicks, 10 visitors (+100 %). Most clicked: Link 11.", list[0].Text)
	var report weekly.Report
	require.NoError(t, json.Unmarshal(list[0].Details, &report))
	require.Equal(t, "2026-W13", report.Week)
	require.True(t, report.Complete)
	require.EqualValues(t, 5, report.Before.Views)
	require.Len(t, report.Links, 2)
	require.Equal(t, 167*time.Hour, report.To.Sub(report.From))
	require.Equal(t, []weekly.Origin{{Dimension: "channel", Value: "social", Views: 7, Clicks: 3}, {Dimension: "country", Value: "DE", Views: 7, Clicks: 3}}, report.Origins)
	var all int
	require.NoError(t, c.pool.QueryRow(ctx, `SELECT count(*) FROM alerts`).Scan(&all))
	require.Equal(t, 1, all)

	desk, post := opened(t)
	c.again(t, outbox(t, c, OutboxOptions{Post: post, Origin: "https://spill.example"}))
	require.Len(t, desk.letters, 1)
	text, html := parts(t, desk.letters[0])
	require.Contains(t, text, "Views            7  (+40 % against the week before)")
	require.Contains(t, text, "2  Link 11")
	require.Contains(t, text, "https://spill.example/pages/ada?from=2026-03-23&to=2026-03-29")
	require.Contains(t, html, "Germany: 7 views, 3 clicks")
	require.True(t, strings.Contains(desk.letters[0].Header.Get("List-Unsubscribe"), "/unsubscribe/weekly."), desk.letters[0].Header)
}

// TestAnHourIsComparedOnceAllOfItIsKnown: what is on its way, or lost, is no drop.
func TestAnHourIsComparedOnceAllOfItIsKnown(t *testing.T) {
	ctx := t.Context()
	v := newVisited(t)
	begin := time.Date(2026, 5, 13, 0, 0, 0, 0, time.UTC)
	for hour := range 26 {
		at := begin.Add(time.Duration(hour) * time.Hour)
		switch hour {
		case 24:
			v.add(500, at, "view", "person", 0)
		case 25:
			v.add(3, at, "view", "person", 0)
		default:
			v.add(30, at, "view", "person", 0)
			v.add(30, at.Add(time.Minute), "click", "person", 11)
		}
		v.add(1000, at, "view", "bot", 0)
	}
	v.send()
	_, err := v.pool.Exec(ctx, `INSERT INTO profile_counters VALUES ($1, 'person', 80, 0, 0, 1, 1, 1, $2)`, v.profile, begin.Add(26*time.Hour))
	require.NoError(t, err)
	w := NewWatch(v.pool, v.reader, Options{}, silent)
	store := NewStore(v.pool)
	compare := func(end time.Time) (known bool, kinds []string) {
		t.Helper()
		known, err := w.hours(ctx, end)
		require.NoError(t, err)
		list, err := store.List(ctx, v.profile, 0, 10)
		require.NoError(t, err)
		for _, a := range list {
			kinds = append(kinds, a.Kind)
		}
		return known, kinds
	}
	end := begin.Add(25 * time.Hour)
	known, kinds := compare(end)
	require.False(t, known, "nobody knows anything yet")
	require.Empty(t, kinds)
	v.through(end.Add(-time.Second))
	known, _ = compare(end)
	require.False(t, known)
	v.through(end)
	for range 2 {
		known, kinds = compare(end)
		require.True(t, known)
		require.Equal(t, []string{Spike}, kinds)
	}
	list, err := store.List(ctx, v.profile, 0, 1)
	require.NoError(t, err)
	require.Equal(t, "Many more visits than usual: 500 views and clicks in an hour, 60 are usual.", list[0].Text)

	end = end.Add(time.Hour)
	v.through(end)
	_, err = v.pool.Exec(ctx, `UPDATE completeness SET lost = jsonb_build_array(jsonb_build_object('reason', 'dropped', 'since', $1::timestamptz, 'until', $2::timestamptz))`,
		end.Add(-30*time.Minute), end.Add(-20*time.Minute))
	require.NoError(t, err)
	known, kinds = compare(end)
	require.True(t, known)
	require.Equal(t, []string{Spike}, kinds, "some of the hour is lost")
	_, err = v.pool.Exec(ctx, `UPDATE completeness SET lost = '[]'`)
	require.NoError(t, err)
	_, kinds = compare(end)
	require.Equal(t, []string{Drop, Spike}, kinds)
}
