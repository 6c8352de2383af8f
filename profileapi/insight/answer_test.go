package insight

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// truth counts by hand what the reader is asked for.
func truth(events []happened, q Question, keep func(happened) bool) map[Class]Counts {
	all := map[Class]Counts{}
	seen := map[string]bool{}
	for _, e := range events {
		if e.profile != q.Profile || e.time.Before(q.From) || !e.time.Before(q.To) || !keep(e) {
			continue
		}
		c := all[e.class]
		first := func(of string) int64 {
			key := fmt.Sprint(of, e.class, e.date, e.visitor)
			if seen[key] {
				return 0
			}
			seen[key] = true
			return 1
		}
		c.UniqueVisitors += first("")
		if e.click {
			c.Clicks++
			c.UniqueClickers += first("click")
			if e.surface == "page" {
				c.PageClicks++
			}
		} else {
			c.Views++
			c.UniqueViewers += first("view")
		}
		all[e.class] = c
	}
	return all
}

// history is a profile's events around a switch of its clock; every date is the local one.
func history(random *rand.Rand, profile int64, zone *time.Location, around time.Time, days int) (events []happened, dates map[day]bool) {
	dates = map[day]bool{}
	begin := around.AddDate(0, 0, -days/2)
	for range 600 {
		at := begin.Add(time.Duration(random.Int64N(int64(days) * 24 * int64(time.Hour)))).Truncate(time.Microsecond)
		e := happened{time: at, date: dayOf(at.In(zone)), class: Person, profile: profile, visitor: random.Uint64N(40), surface: "page",
			country: []string{"DE", "AT", "", "O'X\\", "DE", "FR", "IT", "(other)"}[random.IntN(8)], channel: []string{"direct", "social"}[random.IntN(2)]}
		if (int64(e.date)+profile)%3 == 0 { // on some days no country is known
			e.country = ""
		}
		if random.IntN(4) == 0 {
			e.class = "bot"
		}
		if random.IntN(2) == 0 {
			e.click, e.link = true, 1+random.Uint64N(3)
			e.surface = []string{"page", "direct", "qr"}[random.IntN(3)]
		}
		dates[e.date] = true
		events = append(events, e)
	}
	return events, dates
}

// lost says which countries the days that are closed have put together.
func lost(events []happened, closed map[day]bool) func(happened) bool {
	type of struct {
		profile int64
		date    day
	}
	type weight struct{ people, n int }
	weights := map[of]map[string]weight{}
	for _, e := range events {
		at := of{e.profile, e.date}
		if weights[at] == nil {
			weights[at] = map[string]weight{}
		}
		w := weights[at][e.country]
		w.n++
		if e.class == Person {
			w.people++
		}
		weights[at][e.country] = w
	}
	kept := map[of][]string{}
	for at, of := range weights {
		kept[at] = slices.SortedFunc(maps.Keys(of), func(a, b string) int {
			return cmp.Or(cmp.Compare(of[b].people, of[a].people), cmp.Compare(of[b].n, of[a].n), cmp.Compare(a, b))
		})
		kept[at] = kept[at][:min(len(of), mostKept)]
	}
	return func(e happened) bool {
		return closed[e.date] && !slices.Contains(kept[of{e.profile, e.date}], e.country)
	}
}

// TestEveryPanelSumsToTheHeadline asks for random ranges, in zones of all kinds, around switches of the clock, with closed, open and cut
// days, and holds headline, series, links, surfaces and breakdowns against each other and against a count by hand.
func TestEveryPanelSumsToTheHeadline(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Log("seed", seed)
	var all []happened
	type creator struct {
		profile int64
		zone    *time.Location
		around  time.Time
	}
	var creators []creator
	for i, c := range []struct{ zone, around string }{
		{"Europe/Berlin", "2026-03-29"}, {"Australia/Lord_Howe", "2026-04-05"}, {"Asia/Kathmandu", "2026-03-29"},
		{"America/St_Johns", "2026-11-01"}, {"Europe/Berlin", "2026-11-01"}, {"Pacific/Chatham", "2026-04-05"}, {"Pacific/Kiritimati", "2026-03-29"},
	} {
		zone, err := time.LoadLocation(c.zone)
		require.NoError(t, err)
		around, err := time.ParseInLocation(time.DateOnly, c.around, zone)
		require.NoError(t, err)
		events, _ := history(random, int64(i+1), zone, around, 4)
		all = append(all, events...)
		creators = append(creators, creator{int64(i + 1), zone, around})
	}
	w.insert(all...)
	dates, closed := map[day]bool{}, map[day]bool{}
	for _, e := range all {
		dates[e.date] = true
	}
	for d := range dates {
		if random.IntN(3) > 0 {
			w.everyPanel = random.IntN(4) == 0
			w.close(d)
			closed[d] = true
		}
	}
	isLost := lost(all, closed)
	foldings := 0

	asked := []*time.Location{}
	for _, name := range []string{"UTC", "Asia/Kolkata", "America/New_York", "Pacific/Apia"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		asked = append(asked, zone)
	}
	for round := range 24 {
		c := creators[random.IntN(len(creators))]
		zone := c.zone
		if random.IntN(2) == 0 {
			zone = asked[random.IntN(len(asked))]
		}
		interval := []Interval{QuarterHour, Hour, Day, Week}[random.IntN(4)]
		from := c.around.Add(time.Duration(random.Int64N(int64(120*time.Hour))) - 60*time.Hour).In(zone)
		first, end, err := interval.Bounds(from, from.Add(time.Duration(1+random.Int64N(int64(80*time.Hour)))))
		require.NoError(t, err)
		q := Question{Profile: c.profile, From: first, To: end}
		keep := func(happened) bool { return true }
		switch round % 6 {
		case 1:
			q.Filters = Filters{{ByLink, []string{"2"}}}
			keep = func(e happened) bool { return e.link == 2 }
		case 2:
			q.Filters = Filters{{"country", []string{"DE", "O'X\\"}}}
			keep = func(e happened) bool { return e.country == "DE" || e.country == "O'X\\" }
		case 3:
			q.Filters = Filters{{"country", []string{""}}, {BySurface, []string{"page"}}, {"channel", []string{"social"}}}
			keep = func(e happened) bool { return e.country == "" && e.surface == "page" && e.channel == "social" }
		case 4:
			q.Filters = Filters{{"country", []string{"", "AT"}}}
			keep = func(e happened) bool { return e.country == "" || e.country == "AT" }
		case 5:
			q.Filters = Filters{{"country", []string{""}}, {ByLink, []string{"1", "2"}}}
			keep = func(e happened) bool { return e.country == "" && (e.link == 1 || e.link == 2) }
		}
		about := fmt.Sprintf("profile %d from %s to %s by %s, filters %v", q.Profile, first, end, interval, q.Filters)
		want := truth(all, q, keep)

		totals, err := w.Totals(ctx, q)
		require.NoError(t, err, about)
		require.True(t, totals.KnowsUnique)
		for class, n := range want {
			got := totals.ByClass[class]
			if !totals.KnowsPage {
				got.PageClicks = n.PageClicks
			}
			require.Equal(t, n, got, "%s, class %s", about, class)
		}
		require.Len(t, totals.ByClass, len(want), about)

		points, _, err := w.Series(ctx, q, interval)
		require.NoError(t, err, about)
		require.Equal(t, first.Unix(), points[0].Start.Unix())
		for i, p := range points {
			until := end
			if i+1 < len(points) {
				until = points[i+1].Start
			}
			in := truth(all, Question{Profile: q.Profile, From: p.Start, To: until}, keep)
			for class, n := range in {
				require.Equal(t, n.Views, p.Views[class], "%s, views at %s", about, p.Start)
				require.Equal(t, n.Clicks, p.Clicks[class], "%s, clicks at %s", about, p.Start)
			}
		}
		breakdowns, err := w.Breakdowns(ctx, q, Dimensions(), Order{Classes: Classes(), Limit: 2, Viewers: true})
		require.NoError(t, err, about)
		// A date that the range cuts is read from its events, and so is what other dimensions than the country narrow down.
		cut := map[day]bool{}
		for _, e := range all {
			if e.profile == q.Profile && (e.time.Before(first) || !e.time.Before(end)) {
				cut[e.date] = true
			}
		}
		folds := func(e happened) bool { return round%6 < 2 && !cut[e.date] && (isLost(e) || e.country == Rest) }
		for _, b := range breakdowns {
			sum := b.Other
			if b.Folded {
				foldings++
			}
			for _, item := range b.Items {
				sum.Merge(item.Tally)
				require.NotEqual(t, Rest, item.Value, "%s, %s", about, b.Dimension)
				require.Equal(t, b.Dimension.inSeries(), item.Viewers == nil)
				if b.Dimension == "country" || b.Dimension == "channel" {
					of := truth(all, q, func(e happened) bool {
						return keep(e) && (b.Dimension == "country" && e.country == item.Value && !folds(e) || b.Dimension == "channel" && e.channel == item.Value)
					})
					for class, n := range of {
						require.Equal(t, n.UniqueViewers, item.Viewers[class], "%s, viewers of %s %q", about, b.Dimension, item.Value)
						require.Equal(t, n.Views, item.Views[class], "%s, views of %s %q", about, b.Dimension, item.Value)
						require.Equal(t, n.Clicks, item.Clicks[class], "%s, clicks of %s %q", about, b.Dimension, item.Value)
					}
				}
				if b.Dimension == ByLink {
					link, err := strconv.ParseUint(item.Value, 10, 64)
					require.NoError(t, err)
					for class, n := range truth(all, q, func(e happened) bool { return keep(e) && e.link == link }) {
						require.Equal(t, n.Clicks, item.Clicks[class], "%s, link %d", about, link)
					}
				}
			}
			for class, n := range want {
				require.Equal(t, n.Views, sum.Views[class], "%s, views by %s", about, b.Dimension)
				require.Equal(t, n.Clicks, sum.Clicks[class], "%s, clicks by %s", about, b.Dimension)
			}
		}
	}
	require.Positive(t, foldings, "no breakdown met a value that stands for others")
}

// TestAggregatesNeedNoEvents: where single events are deleted, what is closed still answers; what needs them says so.
func TestAggregatesNeedNoEvents(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	random := rand.New(rand.NewPCG(1, 2))
	events, dates := history(random, 1, time.UTC, time.Date(2025, 6, 10, 0, 0, 0, 0, time.UTC), 6)
	w.insert(events...)
	for d := range dates {
		w.close(d)
	}
	w.run("ALTER TABLE " + w.layout.Local("events") + " DROP PARTITION '202506'")
	_, err := w.pool.Exec(ctx, "INSERT INTO expired_months VALUES ('2025-06-01')")
	require.NoError(t, err)
	q := Question{Profile: 1, From: time.Date(2025, 6, 8, 0, 0, 0, 0, time.UTC), To: time.Date(2025, 6, 12, 0, 0, 0, 0, time.UTC)}
	everything := func(happened) bool { return true }
	totals, err := w.Totals(ctx, q)
	require.NoError(t, err)
	require.Equal(t, Aggregates, totals.Source)
	require.Equal(t, truth(events, q, everything), totals.ByClass)

	// Of the rare values only their sum is left.
	isLost := lost(events, dates)
	breakdowns, err := w.Breakdowns(ctx, q, []Dimension{"country"}, Order{Classes: Classes()})
	require.NoError(t, err)
	require.True(t, breakdowns[0].Folded)
	require.Equal(t, 1, breakdowns[0].Others)
	var rest int64
	for _, e := range events {
		if e.time.Before(q.From) || !e.time.Before(q.To) {
			continue
		}
		if isLost(e) || e.country == Rest {
			rest++
		}
	}
	views, clicks := breakdowns[0].Other.Of(Classes())
	require.Equal(t, rest, views+clicks)

	germans := q
	germans.Filters = Filters{{"country", []string{"DE"}}}
	totals, err = w.Totals(ctx, germans)
	require.NoError(t, err)
	require.False(t, totals.KnowsUnique)
	require.False(t, totals.KnowsPage)
	want := truth(events, q, func(e happened) bool { return e.country == "DE" && !isLost(e) })[Person]
	require.Equal(t, want.Clicks, totals.ByClass[Person].Clicks)
	require.Equal(t, want.Views, totals.ByClass[Person].Views)

	var expired *Expired
	social := germans
	social.Filters = append(social.Filters, Filter{"channel", []string{"social"}})
	_, err = w.Totals(ctx, social)
	require.ErrorAs(t, err, &expired)
	require.Equal(t, "2025-07-01", expired.Before.Format(time.DateOnly))
	_, _, err = w.Series(ctx, germans, Day)
	require.ErrorAs(t, err, &expired)
	cut := q
	cut.From = cut.From.Add(5 * time.Hour)
	points, source, err := w.Series(ctx, cut, Hour)
	require.NoError(t, err, "the series of closed days is by the quarter hour")
	require.Equal(t, Aggregates, source)
	require.Len(t, points, 4*24-5)
	_, err = w.Breakdowns(ctx, cut, []Dimension{"country"}, Order{})
	require.ErrorAs(t, err, &expired, "a breakdown of half a day needs its events")
}

// TestOpenDaysComeFromProjections makes ClickHouse refuse to read single events.
func TestOpenDaysComeFromProjections(t *testing.T) {
	w := newWorld(t)
	events, _ := history(rand.New(rand.NewPCG(3, 4)), 1, time.UTC, time.Date(2026, 6, 10, 0, 0, 0, 0, time.UTC), 4)
	w.insert(events...)
	q := Question{Profile: 1, From: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 6, 20, 0, 0, 0, 0, time.UTC)}
	w.settings["force_optimize_projection"] = 1
	_, err := w.Totals(t.Context(), Question{Profile: 1, From: q.From, To: q.To, Filters: Filters{{ByLink, []string{"1"}}}})
	require.Error(t, err, "the setting refuses what reads events")
	delete(w.settings, "force_optimize_projection")
	q.alone()
	d, err := w.daysFor(t.Context(), q)
	require.NoError(t, err)
	w.settings["force_optimize_projection"] = 1
	points, err := w.Breakdowns(t.Context(), q, nil, Order{})
	require.NoError(t, err)
	require.Empty(t, points)
	for _, part := range w.series(q, nil, d.open, panel{}) {
		require.NoError(t, w.each(t.Context(), part, []any{new(string), new(string), new(int8), new(string), new(bool), new(uint64)}, func() error { return nil }), part)
	}
	counts := map[Class]Counts{}
	delete(w.settings, "force_optimize_projection")
	known, err := w.visitors(t.Context(), q, counts)
	require.NoError(t, err)
	require.True(t, known)
	require.Equal(t, truth(events, q, func(happened) bool { return true })[Person].UniqueVisitors, counts[Person].UniqueVisitors)
}

func TestFilters(t *testing.T) {
	f, err := ParseFilters([]string{"country:DE", "link:7", "country:AT", "country:DE", "utm_source:a:b", "place:"})
	require.NoError(t, err)
	require.Equal(t, Filters{{"country", []string{"DE", "AT"}}, {ByLink, []string{"7"}}, {"utm_source", []string{"a:b"}}, {"place", []string{""}}}, f)
	for _, bad := range []string{"country", "visitor:1", "link:x", "link:-1", "surface:moon", ":x", "layout:1 OR 1", "country:(other)", "layout:(other)", "referrer_host:(other)"} {
		_, err := ParseFilters([]string{bad})
		var e *BadFilter
		require.ErrorAs(t, err, &e, bad)
	}
	require.Equal(t, "unhex('2720') ", literal("' ")+" ")
}

func TestAListLeavesOutWhatItIsAskedToHide(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 6, 10, 12, 0, 0, 0, time.UTC)
	for i, agent := range []string{"Firefox", "Spillway-Preview", ""} {
		w.run(fmt.Sprintf("INSERT INTO %s (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, user_agent) VALUES (7, 0, %d, %[2]d, 1, %s, toDate(%d), 'view', 'owner', 1, '%s')",
			w.layout.Local("events"), i+1, micro(at), dayOf(at), agent))
	}
	q := Question{Profile: 1, From: at.Add(-time.Hour), To: at.Add(time.Hour)}
	list, err := w.List(t.Context(), q, []Class{"owner"}, nil, 10)
	require.NoError(t, err)
	require.Len(t, list, 3)
	q.Hide = "Spillway-Preview"
	list, err = w.List(t.Context(), q, []Class{"owner"}, nil, 10)
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, e := range list {
		require.NotEqual(t, q.Hide, e.UserAgent)
	}
}

// TestAListGoesBackAsFarAsItHasTo: however far apart events are, pages of a list put together are all of them, the latest first.
func TestAListGoesBackAsFarAsItHasTo(t *testing.T) {
	w := newWorld(t)
	end := time.Date(2026, 6, 10, 12, 0, 0, 0, time.UTC)
	var want []time.Time
	for _, back := range []time.Duration{1, firstStep - 1, firstStep, firstStep + 1, 20 * time.Hour, 5 * firstStep, 5*firstStep + 1, 11 * 24 * time.Hour, 390 * 24 * time.Hour, 390*24*time.Hour + 1} {
		at := end.Add(-back.Truncate(time.Microsecond)).Add(-time.Microsecond)
		want = append(want, at)
		w.insert(happened{time: at, date: dayOf(at), class: Person, profile: 1, surface: "page"})
	}
	for size := 1; size <= len(want)+1; size += 3 {
		var got []time.Time
		var before *Event
		for {
			page, err := w.List(t.Context(), Question{Profile: 1, From: end.AddDate(-30, 0, 0), To: end}, []Class{Person}, before, size)
			require.NoError(t, err)
			for _, e := range page {
				got = append(got, e.Time)
			}
			if len(page) < size {
				break
			}
			before = &page[size-1]
		}
		require.Equal(t, want, got, "pages of %d", size)
	}
}
