package insight

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClosedDaysAreReadOnce asks the same again while days are closed, and closed again.
func TestClosedDaysAreReadOnce(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 6, 10, 12, 0, 0, 0, time.UTC)
	date := dayOf(at)
	view := happened{time: at, date: date, class: Person, profile: 1, visitor: 1, surface: "page"}
	bot := view
	bot.class, bot.click, bot.link, bot.visitor = "bot", true, 5, 2
	w.insert(view, bot)
	ask := func() (counts [2]Counts, series, links int64) {
		q := Question{Profile: 1, From: at.AddDate(0, 0, -5).Truncate(24 * time.Hour), To: at.AddDate(0, 0, 5).Truncate(24 * time.Hour), outlook: &outlook{}}
		totals, err := w.Totals(t.Context(), q)
		require.NoError(t, err)
		points, _, err := w.Series(t.Context(), q, Day)
		require.NoError(t, err)
		for _, p := range points {
			views, clicks := p.Of(Classes())
			series += views + clicks
		}
		breakdowns, err := w.Breakdowns(t.Context(), q, []Dimension{ByLink}, Order{Classes: Classes()})
		require.NoError(t, err)
		for _, item := range breakdowns[0].Items {
			views, clicks := item.Of(Classes())
			links += views + clicks
		}
		return [2]Counts{totals.ByClass[Person], totals.ByClass["bot"]}, series, links
	}
	expect := func(views int64, about string) {
		t.Helper()
		counts, series, links := ask()
		require.Equal(t, [2]Counts{{Views: views, UniqueViewers: 1, UniqueVisitors: 1}, {Clicks: 1, PageClicks: 1, UniqueClickers: 1, UniqueVisitors: 1}}, counts, about)
		require.Equal(t, [2]int64{views + 1, views + 1}, [2]int64{series, links}, about)
	}
	drop := func() {
		w.run(fmt.Sprintf("ALTER TABLE %s DROP PARTITION '%s'", w.layout.Local("days"), date.time().Format(time.DateOnly)))
	}

	expect(1, "an open day")
	w.close(date)
	expect(1, "a closed day")
	drop()
	expect(1, "a closed day whose rows nobody reads any more")
	w.insert(view)
	expect(1, "a late event counts when its day is closed again")
	time.Sleep(2 * time.Millisecond) // closings have their names from the clock
	w.close(date)
	expect(2, "a day that was closed again")
	drop()
	expect(2, "a day that was closed again and is not read any more")
}

// TestAReplicaMayBeLate: on a cluster the list of closed days and their rows may come from different replicas, so a day that was closed just now
// is read anew.
func TestAReplicaMayBeLate(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 6, 10, 12, 0, 0, 0, time.UTC)
	date := dayOf(at)
	for _, table := range []string{"events", "days", "closed_days"} {
		w.run(fmt.Sprintf("CREATE VIEW %s_all AS SELECT * FROM %[1]s", w.layout.Local(table)))
	}
	w.Reader.layout.Cluster = "several"
	views := func() int64 {
		totals, err := w.Totals(t.Context(), Question{Profile: 1, From: at.AddDate(0, 0, -5).Truncate(24 * time.Hour), To: at.AddDate(0, 0, 5).Truncate(24 * time.Hour)})
		require.NoError(t, err)
		return totals.ByClass[Person].Views
	}
	list := func(ago string) {
		w.run(fmt.Sprintf("INSERT INTO %s (date, events, closed_at) SELECT toDate(%d), 1, now64(3) - INTERVAL %s", w.layout.Local("closed_days"), date, ago))
	}
	list("59 MINUTE")
	require.Zero(t, views(), "the rows are not there yet")
	w.insert(happened{time: at, date: date, class: Person, profile: 1, surface: "page"})
	w.close(date)
	require.EqualValues(t, 1, views())

	w.run("TRUNCATE TABLE " + w.layout.Local("closed_days"))
	list("61 MINUTE")
	require.EqualValues(t, 1, views())
	w.run("TRUNCATE TABLE " + w.layout.Local("days"))
	require.EqualValues(t, 1, views(), "by now every replica has them")
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory
	const rows = 1000
	closings := map[day]closing{1: 7}
	remember := func(profile int64) {
		m.keep(profile, map[day]*closedDay{1: {events: make([]sum, rows)}}, closings)
	}
	known := func(profile int64) bool { return m.find(profile, closings)[1] != nil }
	for profile := range int64(3 * maxRemembered / rows) {
		remember(profile)
		require.True(t, known(profile))
		if known(0) { // as a question does that finds something
			m.keep(0, m.find(0, closings), closings)
		}
		require.LessOrEqual(t, len(m.young)+len(m.old), maxRemembered/rows+2)
	}
	require.True(t, known(0), "who is asked for again and again")
	require.False(t, known(1), "who was not asked for in a long time")
	require.Empty(t, m.find(0, map[day]closing{1: 8}), "another closing")

	// What is replaced takes no room.
	m = memory{}
	for at := range closing(10) {
		m.keep(1, map[day]*closedDay{1: {events: make([]sum, rows)}}, map[day]closing{1: at})
	}
	require.Equal(t, rows+1, m.size)
}
