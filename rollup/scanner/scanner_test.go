package scanner

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

// world is real engines, a profile with links, and a watch whose clock the test moves.
type world struct {
	*eventtest.Engines
	t       *testing.T
	watch   *Watch
	now     time.Time
	profile uint64
}

func build(t *testing.T) *world {
	w := &world{Engines: eventtest.New(t), t: t, now: time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour), profile: 7}
	m, err := NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	w.watch = NewWatch(w.Tables, w.Pool, Options{Now: func() time.Time { return w.now }}, m, slog.New(slog.DiscardHandler))
	w.links(w.profile, 5)
	return w
}

// links makes a profile with n links that its page shows, numbered from profile × 100, and one that is hidden.
func (w *world) links(profile uint64, n int) {
	w.t.Helper()
	for _, statement := range []string{
		"INSERT INTO accounts (id) OVERRIDING SYSTEM VALUE VALUES (1) ON CONFLICT DO NOTHING",
		fmt.Sprintf("INSERT INTO profiles (id, account_id, handle, title) OVERRIDING SYSTEM VALUE VALUES (%d, 1, 'p%d', 'p')", profile, profile),
		fmt.Sprintf("INSERT INTO links (id, profile_id, code, title, url, hidden) OVERRIDING SYSTEM VALUE SELECT %[1]d * 100 + i, %[1]d, 'c' || %[1]d || '-' || i, 't', 'https://example.com', i = %[2]d FROM generate_series(0, %[2]d) AS i", profile, n),
	} {
		_, err := w.Pool.Exec(w.t.Context(), statement)
		require.NoError(w.t, err)
	}
}

func (w *world) round() uint64 {
	w.t.Helper()
	n, err := w.watch.Round(w.t.Context())
	require.NoError(w.t, err)
	return n
}

func (w *world) count(where string) uint64 {
	w.t.Helper()
	return w.Number("SELECT count() FROM " + w.Local("events") + " WHERE " + where)
}

// visits are a view and clicks of links, by their places on the page, each some time after w.now.
func (w *world) visits(visitor uint64, view time.Duration, clicks map[int]time.Duration) []eventtest.Event {
	events := []eventtest.Event{{Time: w.now.Add(view), Profile: w.profile, Visitor: visitor}}
	for link, at := range clicks {
		events = append(events, eventtest.Event{Time: w.now.Add(at), Profile: w.profile, Link: w.profile*100 + uint64(link), Visitor: visitor})
	}
	return events
}

const ms = time.Millisecond

func all(first, gap time.Duration) map[int]time.Duration {
	clicks := map[int]time.Duration{}
	for i := range 5 {
		clicks[i] = first + time.Duration(i)*gap
	}
	return clicks
}

func TestWhoFollowsTheCanaryIsAScannerAtThatMoment(t *testing.T) {
	w := build(t)
	trap := func(visitor uint64, at time.Duration) eventtest.Event {
		return eventtest.Event{Time: w.now.Add(at), Profile: w.profile, Visitor: visitor, Class: "scanner", Reason: ReasonCanary}
	}
	w.Insert(append(w.visits(1, 0, map[int]time.Duration{0: 2 * time.Second, 3: 4 * time.Second}), trap(1, 3*time.Second))...)
	w.Insert(w.visits(1, 40*time.Second, map[int]time.Duration{1: 41 * time.Second})...) // much later
	w.Insert(w.visits(2, 0, map[int]time.Duration{0: 2 * time.Second})...)               // another visitor
	// An id that many people share in that moment loses nothing but the canary itself.
	w.Insert(trap(3, 3*time.Second))
	for i := range 6 {
		w.Insert(w.visits(3, time.Duration(i)*time.Second, map[int]time.Duration{i % 5: time.Duration(i)*time.Second + 500*ms})...)
	}
	// What a rule decided is decided.
	w.Insert(trap(4, 0), eventtest.Event{Time: w.now.Add(time.Second), Profile: w.profile, Visitor: 4, Reason: "rule: fine"})
	people := w.count("class = 'person'")
	w.now = w.now.Add(10 * time.Second)
	require.Zero(t, w.round(), "too early: others may be about to show that the id is shared")
	w.now = w.now.Add(40 * time.Second)
	require.EqualValues(t, 3, w.round())
	require.EqualValues(t, 4, w.count("visitor = 1 AND class = 'scanner' AND reason = '"+ReasonCanary+"'"))
	require.EqualValues(t, 2, w.count("visitor = 1 AND class = 'person'"))
	require.Equal(t, people-3, w.count("class = 'person'"))
	require.Zero(t, w.round(), "nothing is left to do")
}

func TestEveryLinkInASecondIsAScannersDay(t *testing.T) {
	w := build(t)
	w.links(8, 3)
	w.Insert(w.visits(1, -time.Second, all(0, 150*ms))...) // a gateway
	w.Insert(w.visits(2, -time.Second, all(0, 400*ms))...) // too slow: 1.6 s
	w.Insert(append(w.visits(3, -time.Second, all(0, 100*ms)), w.visits(3, -2*time.Hour, nil)...)...)
	w.Insert(append(w.visits(4, -time.Second, all(0, 100*ms)), w.visits(4, -time.Second, map[int]time.Duration{2: 700 * ms})...)...) // one link twice
	four := all(0, 100*ms)
	delete(four, 1)
	w.Insert(w.visits(5, -time.Second, four)...)          // not all
	w.Insert(w.visits(0, -time.Second, all(0, 50*ms))...) // unknown visitors are not one
	few := w.visits(6, -time.Second, map[int]time.Duration{0: 0, 1: 100 * ms, 2: 200 * ms})
	for i := range few {
		few[i].Profile = 8 // a page of three links
		if few[i].Link > 0 {
			few[i].Link += 100
		}
	}
	w.Insert(few...)
	people := w.count("class = 'person'")
	w.now = w.now.Add(5 * time.Second)
	require.Zero(t, w.round(), "too early")
	w.now = w.now.Add(30 * time.Second)
	require.EqualValues(t, 6, w.round())
	require.EqualValues(t, 6, w.count("visitor = 1 AND class = 'scanner' AND reason = '"+ReasonBurst+"'"))
	require.Equal(t, people-6, w.count("class = 'person'"))
	require.Zero(t, w.round())

	// The id does something more: people share it, and get back what was taken.
	w.Insert(w.visits(1, 20*time.Minute, nil)...)
	w.now = w.now.Add(25 * time.Minute)
	require.EqualValues(t, 6, w.round())
	require.Zero(t, w.count("class = 'scanner'"))
	require.Equal(t, people+1, w.count("class = 'person' AND reason = ''"))
	require.Zero(t, w.round(), "and it is not taken again")
}

// 5 000 people on 10 addresses with 3 user agents lose no click, whichever links they like and however quickly they come.
func TestACrowdLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		spread time.Duration // over which they come
		choose func(*rand.Rand) int
	}{
		{"uniform", 10 * time.Minute, func(r *rand.Rand) int { return r.IntN(5) }},
		{"Zipf", 10 * time.Minute, func(r *rand.Rand) int { return int(5 * math.Pow(r.Float64(), 2.5)) }},
		{"all at once", 20 * time.Second, func(r *rand.Rand) int { return r.IntN(5) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := build(t)
			start := w.now
			random := rand.New(rand.NewPCG(5, 1))
			var events []eventtest.Event
			for range 5000 {
				visitor := 1 + random.Uint64N(30)
				at := time.Duration(random.Int64N(int64(c.spread)))
				one := w.visits(visitor, at, nil)
				for range random.IntN(4) {
					at += 800*ms + time.Duration(random.ExpFloat64()*float64(2*time.Second))
					one = append(one, w.visits(visitor, 0, map[int]time.Duration{c.choose(random): at})[1])
				}
				events = append(events, one...)
			}
			slices.SortFunc(events, func(a, b eventtest.Event) int { return a.Time.Compare(b.Time) })
			people := 0
			for len(events) > 0 {
				w.now = w.now.Add(max(c.spread/8, 10*time.Second))
				n, _ := slices.BinarySearchFunc(events, w.now, func(e eventtest.Event, at time.Time) int { return e.Time.Compare(at) })
				if n > 0 {
					w.Insert(events[:n]...)
				}
				events, people = events[n:], people+n
				require.Zero(t, w.round())
			}
			w.now = w.now.Add(time.Minute)
			require.Zero(t, w.round())
			require.EqualValues(t, people, w.count("class = 'person'"))
			require.Equal(t, table.DateOf(start), table.DateOf(w.now))
		})
	}
}
