package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/counters"
	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
	"spillway.dev/schemas/rules"
)

const (
	browser = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	gateway = `Mozilla/5.0 (Gate'way\1)` // with what a query would stumble over
	good    = "GoodBot/1.0"
)

// law judges by the rules; what is built in takes everything with "Bot" for one.
func law(t *testing.T, file string) Law {
	t.Helper()
	set, err := rules.Parse([]byte(file))
	require.NoError(t, err)
	return Law{Rules: set, Version: 7, BuiltIn: func(agent string) Judgement {
		if strings.Contains(agent, "Bot") {
			return Judgement{"bot", "calls itself a bot"}
		}
		return Judgement{"person", ""}
	}}
}

const file = `
rules:
  - {name: mail gateway, user_agent: "gate'way", class: scanner}
  - {name: good bot, user_agent: goodbot, class: person}
  - {name: office, network: 192.0.2.0/24, class: test}
`

func TestJudge(t *testing.T) {
	l := law(t, file)
	for _, c := range []struct {
		name, agent string
		was, is     Judgement
	}{
		{"by a rule", gateway, Judgement{"person", ""}, Judgement{"scanner", "rule: mail gateway"}},
		{"back from a wrong verdict", good, Judgement{"bot", "calls itself a bot"}, Judgement{"person", "rule: good bot"}},
		{"HEAD stays", gateway, Judgement{"head", "method: HEAD"}, Judgement{"head", "method: HEAD"}},
		{"a prefetch stays", good, Judgement{"prefetch", "header: X-Moz"}, Judgement{"prefetch", "header: X-Moz"}},
		{"the owner stays", gateway, Judgement{"owner", "cookie: owner"}, Judgement{"owner", "cookie: owner"}},
		{"what its visitor did stays", browser, Judgement{"scanner", "scanner: canary"}, Judgement{"scanner", "scanner: canary"}},
		{"unless a rule says otherwise", good, Judgement{"scanner", "scanner: canary"}, Judgement{"person", "rule: good bot"}},
		{"a network that was seen then", browser, Judgement{"owner", "rule: office"}, Judgement{"test", "rule: office"}},
		{"a rule that is no more", browser, Judgement{"test", "rule: gone"}, Judgement{"person", ""}},
		{"a rule that is no more, about a bot", "SomeBot", Judgement{"person", "rule: gone"}, Judgement{"bot", "calls itself a bot"}},
		{"newer lists", "SomeBot", Judgement{"person", ""}, Judgement{"bot", "calls itself a bot"}},
		{"another reason only", "SomeBot", Judgement{"bot", "some bot"}, Judgement{"bot", "some bot"}},
		{"nobody", browser, Judgement{"person", ""}, Judgement{"person", ""}},
	} {
		require.Equal(t, c.is, l.judge(c.agent, c.was), c.name)
		require.Equal(t, c.is, l.judge(c.agent, c.is), "%s: judged twice is the same", c.name)
	}
}

// world is real engines with events of four days, the first two of which are closed, and rollup's own workers.
type world struct {
	*eventtest.Engines
	t       *testing.T
	first   table.Date
	closer  *day.Closer
	updater *counters.Updater
	changer *Changer
}

func build(t *testing.T) *world {
	e := eventtest.New(t)
	// The days lie in two months.
	now := time.Now().UTC()
	first := table.DateOf(time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC).AddDate(0, -1, 0)) - 1
	w := &world{Engines: e, t: t, first: first, changer: NewChanger(e.Tables, e.Pool)}
	log := slog.New(slog.DiscardHandler)
	dayMetrics, err := day.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	counterMetrics, err := counters.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	clock := (first + 2).Time().Add(13 * time.Hour)
	w.closer = day.NewCloser(e.Tables, e.Pool, day.Options{Grace: -1, Now: func() time.Time {
		clock = clock.Add(10 * time.Second) // days that were closed just now rest
		return clock
	}}, dayMetrics, log)
	w.updater = counters.NewUpdater(e.Tables, e.Pool, counters.Options{Budget: time.Minute, Late: w.closer.Late}, counterMetrics, log)
	random := rand.New(rand.NewPCG(1, 7))
	var events []eventtest.Event
	for d := range 4 {
		for range 120 {
			v := eventtest.Event{Time: (first + table.Date(d)).Time().Add(time.Duration(random.Int64N(int64(24 * time.Hour)))).Truncate(time.Microsecond),
				Profile: 1 + random.Uint64N(3), Visitor: 1 + random.Uint64N(30)}
			if random.IntN(2) == 0 {
				v.Link = v.Profile*10 + random.Uint64N(3)
			}
			switch random.IntN(6) {
			case 0:
				v.Agent = gateway
			case 1:
				v.Agent, v.Class, v.Reason = good, "bot", "calls itself a bot"
			case 2:
				v.Agent, v.Class, v.Reason = good, "head", "method: HEAD"
			case 3:
				v.Agent, v.Class, v.Reason = browser, "test", "rule: office"
			default:
				v.Agent = browser
			}
			events = append(events, v)
		}
	}
	e.Insert(events...)
	w.follow()
	closed, err := day.ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	require.Len(t, closed.Dates(), 2)
	return w
}

func (w *world) all() Range { return Range{w.first, w.first + 3} }

// follow lets rollup do what it does by itself.
func (w *world) follow() {
	w.t.Helper()
	for range 200 {
		_, err := w.updater.Round(w.t.Context())
		require.NoError(w.t, err)
		require.NoError(w.t, w.closer.Round(w.t.Context()))
		settled, err := w.updater.Round(w.t.Context())
		require.NoError(w.t, err)
		if settled && !w.closer.Busy() {
			return
		}
	}
	require.Fail(w.t, "rollup does not settle")
}

// addsUp holds closed days' series and the counters against the events.
func (w *world) addsUp() {
	w.t.Helper()
	faults, err := day.Faults(w.t.Context(), w.Tables, day.Expired{}, nil)
	require.NoError(w.t, err)
	require.Empty(w.t, faults)
	closed, err := day.ReadClosed(w.t.Context(), w.Tables)
	require.NoError(w.t, err)
	require.Len(w.t, closed.Dates(), 2)
	require.Empty(w.t, closed.Due())
	differ, err := counters.Compare(w.t.Context(), w.Tables, w.Pool, closed, []uint64{1, 2, 3})
	require.NoError(w.t, err)
	require.Empty(w.t, differ)
}

// agrees holds everything that is derived against the events, row by row.
func (w *world) agrees() {
	w.t.Helper()
	w.addsUp()
	closed, err := day.ReadClosed(w.t.Context(), w.Tables)
	require.NoError(w.t, err)
	for _, d := range closed.Dates() {
		differing, err := w.closer.Verify(w.t.Context(), d)
		require.NoError(w.t, err)
		require.Zero(w.t, differing, d)
	}
	// The projections say what the rows say.
	events := w.Local("events")
	for _, q := range []string{
		"SELECT sum(cityHash64(profile_id, toString(class), n)) FROM (SELECT profile_id, class, count() AS n FROM " + events + " GROUP BY profile_id, class)",
		"SELECT sum(cityHash64(profile_id, toString(class), n)) FROM (SELECT profile_id, class, uniq(visitor) AS n FROM " + events + " GROUP BY profile_id, class)",
		"SELECT sum(cityHash64(stream, n, s)) FROM (SELECT partition, stream, count() AS n, sum(sequence) AS s FROM " + events + " GROUP BY partition, stream)",
	} {
		require.Equal(w.t, w.Number(q+" SETTINGS optimize_use_projections = 0"), w.Number(q+" SETTINGS force_optimize_projection = 1, optimize_aggregation_in_order = 0, optimize_read_in_order = 0"), q)
	}
}

// events is the same for the same rows, but for what may be changed: their order.
func (w *world) events() uint64 {
	return w.Number("SELECT sum(cityHash64(stream, partition, sequence, time, kind, class, reason, rules_version, profile_id, link_id, visitor, user_agent)) FROM " + w.Local("events"))
}

func (w *world) count(where string) uint64 {
	return w.Number("SELECT count() FROM " + w.Local("events") + " WHERE " + where)
}

func TestThePastIsJudgedAnewAndEverythingFollows(t *testing.T) {
	w := build(t)
	w.agrees()
	ctx := t.Context()
	l := law(t, file)
	scanned, back, head := w.count("user_agent LIKE '%way%'"), w.count("user_agent = 'GoodBot/1.0' AND class = 'bot'"), w.count("class = 'head'")
	require.NotZero(t, scanned)
	require.NotZero(t, back)
	before := w.count("class = 'person'")
	names := w.Number("SELECT sum(cityHash64(stream, partition, sequence, term)) FROM " + w.Local("events"))

	trial, err := Try(ctx, w.Tables, w.Pool, l, w.all(), 2)
	require.NoError(t, err)
	require.EqualValues(t, 480, trial.Events)
	require.Equal(t, scanned, trial.Lost.sum())
	require.Equal(t, back, trial.Gained.sum())
	require.Len(t, trial.Profiles, 2)
	require.Equal(t, 1, trial.More)
	require.Equal(t, w.count(fmt.Sprintf("class = 'person' AND kind = 'view' AND profile_id = %d", trial.Profiles[0].ID)), trial.Profiles[0].Now.Views)
	require.Equal(t, []bool{true, true, false}, []bool{trial.Rules[0].Tried, trial.Rules[1].Tried, trial.Rules[2].Tried})
	require.Equal(t, scanned, trial.Rules[0].Events)
	require.Equal(t, before, w.count("class = 'person'"), "a trial changes nothing")
	var text, object bytes.Buffer
	require.NoError(t, trial.WriteTable(&text))
	require.Contains(t, text.String(), "not tried: it looks at a network")
	require.Contains(t, text.String(), gateway)
	require.NoError(t, trial.WriteJSON(&object))
	var read Trial
	require.NoError(t, json.Unmarshal(object.Bytes(), &read))
	require.Equal(t, *trial, read)

	done, err := w.changer.Apply(ctx, l, w.all())
	require.NoError(t, err)
	require.Equal(t, scanned+back, done.Events)
	require.Zero(t, done.Left)
	require.Len(t, done.Days, 4)
	require.Len(t, done.Again, 2)
	w.follow()
	w.agrees()
	require.Equal(t, before-scanned+back, w.count("class = 'person'"))
	require.Equal(t, scanned, w.count("class = 'scanner' AND reason = 'rule: mail gateway'"))
	require.Equal(t, back, w.count("class = 'person' AND reason = 'rule: good bot'"))
	require.Equal(t, head, w.count("class = 'head'"))
	require.Equal(t, scanned+back, w.count(fmt.Sprintf("rules_version = %d", l.Rules.Version(7))))
	require.Equal(t, names, w.Number("SELECT sum(cityHash64(stream, partition, sequence, term)) FROM "+w.Local("events")), "names and terms are what they were")
	var people int64
	require.NoError(t, w.Pool.QueryRow(ctx, "SELECT sum(views + clicks) FROM profile_counters WHERE class = 'person'").Scan(&people))
	require.EqualValues(t, before-scanned+back, people)
	// What the trial said has come.
	for _, p := range trial.Profiles {
		require.Equal(t, p.Then.Clicks, w.count(fmt.Sprintf("class = 'person' AND kind = 'click' AND profile_id = %d", p.ID)))
	}

	once := w.events()
	done, err = w.changer.Apply(ctx, l, w.all())
	require.NoError(t, err)
	require.Zero(t, done.Events)
	require.Empty(t, done.Again)
	require.Equal(t, once, w.events())
	w.follow()
	w.agrees()

	// Without the rules everything is as it was, but for what an older network rule said.
	none := law(t, "rules: [{name: office, network: 192.0.2.0/24, class: test}]")
	_, err = w.changer.Apply(ctx, none, w.all())
	require.NoError(t, err)
	w.follow()
	w.agrees()
	require.Equal(t, before, w.count("class = 'person' AND reason = ''"))
	require.Equal(t, back, w.count("class = 'bot'"))
	require.NotZero(t, w.count("class = 'test' AND reason = 'rule: office'"))
}

// Whoever dies at any step leaves numbers that come to agree by themselves, and whoever repeats it gets what he would have got at once.
func TestApplyMayDieAtAnyStep(t *testing.T) {
	l := law(t, file)
	whole := build(t)
	_, err := whole.changer.Apply(t.Context(), l, whole.all())
	require.NoError(t, err)
	want := whole.events()

	w := build(t)
	died := errors.New("died")
	for steps := 0; ; steps++ {
		left := steps
		w.changer.step = func(string) error {
			if left--; left < 0 {
				return died
			}
			return nil
		}
		_, err := w.changer.Apply(t.Context(), l, w.all())
		if err == nil {
			require.Greater(t, steps, 4)
			break
		}
		require.ErrorIs(t, err, died)
		w.follow()
		w.addsUp()
	}
	require.Equal(t, want, w.events())
	w.follow()
	w.agrees()
}

// A day is not closed while its events are being changed, and is closed again after a change that nobody followed up.
func TestNobodyClosesADayThatIsHeld(t *testing.T) {
	w := build(t)
	ctx := t.Context()
	d := w.first
	release, err := day.Hold(ctx, w.Pool, []table.Date{d + 1, d})
	require.NoError(t, err)
	again, err := day.Again(ctx, w.Tables, []table.Date{d, d + 3})
	require.NoError(t, err)
	require.Equal(t, []table.Date{d}, again, "the other was not closed")
	_, err = w.closer.Close(ctx, d)
	require.ErrorIs(t, err, day.ErrBusy)
	faults, err := day.Faults(ctx, w.Tables, day.Expired{}, nil)
	require.NoError(t, err)
	require.Len(t, faults, 1)
	require.Contains(t, faults[0].Reason, "closed again")
	release()
	require.NoError(t, CloseAgain(ctx, w.Tables, w.closer, again, 20*time.Second))
	w.follow()
	w.agrees()
}

func TestDates(t *testing.T) {
	now := time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		days         int
		since, until string
		want         string
	}{
		{1, "", "", "2026-11-21 2026-11-22"},
		{7, "", "", "2026-11-15 2026-11-22"},
		{7, "", "2026-11-10", "2026-11-04 2026-11-10"},
		{7, "2026-11-01", "", "2026-11-01 2026-11-22"},
		{7, "2026-11-01", "2026-11-01", "2026-11-01 2026-11-01"},
		{0, "", "", "0 days: use 1 or more"},
		{7, "2026-11-02", "2026-11-01", "the range begins on 2026-11-02, after its end"},
		{7, "1.11.", "", `date "1.11.": write it as`},
	} {
		r, err := Dates(c.days, c.since, c.until, now)
		if err != nil {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.Equal(t, c.want, r.Since.String()+" "+r.Until.String())
	}
}
