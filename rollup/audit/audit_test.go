package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/counters"
	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
)

// house is a small installation whose numbers are right.
type house struct {
	*eventtest.Engines
	t       *testing.T
	closer  *day.Closer
	updater *counters.Updater
	day     time.Time // a closed day
}

func newHouse(t *testing.T) *house {
	e := eventtest.New(t)
	registry, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	dm, err := day.NewMetrics(registry)
	require.NoError(t, err)
	cm, err := counters.NewMetrics(registry)
	require.NoError(t, err)
	h := &house{Engines: e, t: t, day: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -4)}
	h.closer = day.NewCloser(e.Tables, e.Pool, day.Options{}, dm, log)
	h.updater = counters.NewUpdater(e.Tables, e.Pool, counters.Options{}, cm, log)
	random := rand.New(rand.NewPCG(1, 2))
	var events []eventtest.Event
	for n := range uint64(300) {
		v := eventtest.Event{Stream: 0xabc, Partition: uint32(n % 2), Sequence: n/2 + 1, Time: h.day.Add(time.Duration(n) * 20 * time.Minute), Profile: 1 + n%5,
			Visitor: random.Uint64N(50), Country: []string{"DE", "US"}[n%2]}
		if n%3 == 0 {
			v.Link = v.Profile*10 + n%2
		}
		events = append(events, v)
	}
	e.Insert(events...)
	for p := range uint32(2) {
		e.Announce(eventtest.Announcement{Stream: 0xabc, Partition: p, Journaled: 150, Time: time.Now().UTC(), Began: h.day, Origin: "here:/journal", Partitions: 2, Final: true})
	}
	h.roll()
	return h
}

// roll lets rollup do its work.
func (h *house) roll() {
	h.t.Helper()
	require.NoError(h.t, h.closer.Round(h.t.Context()))
	require.Eventually(h.t, func() bool {
		settled, err := h.updater.Round(h.t.Context())
		require.NoError(h.t, err)
		return settled
	}, time.Minute, time.Millisecond)
}

func (h *house) audit(o Options) Report {
	h.t.Helper()
	if o.Patience == 0 {
		o.Patience = time.Millisecond
	}
	r, err := New(h.Tables, h.Pool, h.closer, o).Audit(h.t.Context())
	require.NoError(h.t, err)
	return r
}

func (h *house) postgres(statement string) {
	h.t.Helper()
	_, err := h.Pool.Exec(h.t.Context(), statement)
	require.NoError(h.t, err)
}

func TestAHouseInOrder(t *testing.T) {
	h := newHouse(t)
	r := h.audit(Options{})
	require.True(t, r.OK, "%+v", r)
	require.True(t, h.audit(Options{Deep: true}).OK)
	require.Len(t, r.Streams, 1)
	s := r.Streams[0]
	require.Equal(t, "0000000000000abc", s.Stream)
	require.Equal(t, "here:/journal", s.Origin)
	require.True(t, s.Ended)
	require.EqualValues(t, 300, s.Journaled)
	require.EqualValues(t, 300, s.Stored)
	require.False(t, s.Off())
	require.Positive(t, r.ClosedDays)
	require.Equal(t, 5, r.Profiles)
	require.NotNil(t, r.CompleteThrough)

	var b bytes.Buffer
	require.NoError(t, r.WriteJSON(&b))
	var shape struct {
		Streams []struct {
			Stream                              string
			Journaled, Stored, Missing, Doubled *uint64
		}
		Missing, Doubled *uint64
	}
	require.NoError(t, json.Unmarshal(b.Bytes(), &shape))
	require.NotNil(t, shape.Missing)
	require.NotNil(t, shape.Streams[0].Doubled)
	require.NotContains(t, b.String(), "null,")
	b.Reset()
	require.NoError(t, r.WriteTable(&b))
	require.Contains(t, b.String(), "counted once")
}

func TestWhatIsOnItsWayIsNotMissing(t *testing.T) {
	h := newHouse(t)
	at := time.Now().UTC()
	h.Announce(eventtest.Announcement{Stream: 1, Journaled: 3, Time: at, Began: at})
	late := make(chan struct{})
	go func() {
		defer close(late)
		time.Sleep(300 * time.Millisecond)
		for n := range uint64(3) {
			h.Insert(eventtest.Event{Stream: 1, Sequence: n + 1, Time: at, Profile: 1})
		}
		// More was announced meanwhile, which this audit does not ask for.
		h.Announce(eventtest.Announcement{Stream: 1, Journaled: 9, Time: at, Began: at})
	}()
	r := h.audit(Options{Patience: 10 * time.Second})
	<-late
	require.Zero(t, r.Missing, "%+v", r.Streams)
	require.EqualValues(t, 6, h.audit(Options{}).Missing)
}

func TestWhatIsOffIsFound(t *testing.T) {
	h := newHouse(t)
	events, days := h.Local("events"), h.Local("days")
	const sync = " SETTINGS mutations_sync = 2"
	again := func(stream uint64, partition uint32, sequence uint64) {
		h.Insert(eventtest.Event{Stream: stream, Partition: partition, Sequence: sequence, Time: time.Now().UTC(), Profile: 1, Visitor: 1})
	}
	final := func(stream, journaled uint64, change func(*eventtest.Announcement)) {
		a := eventtest.Announcement{Stream: stream, Journaled: journaled, Time: time.Now().UTC(), Began: h.day, Final: true}
		change(&a)
		h.Announce(a)
	}
	none := func(*eventtest.Announcement) {}
	find := func(r Report, stream string) Stream {
		for _, s := range r.Streams {
			if s.Stream == stream {
				return s
			}
		}
		t.Fatalf("no stream %s", stream)
		return Stream{}
	}

	// Streams. Each is one of its own, so that they can be there together.
	for _, n := range []uint64{1, 2, 5, 6} {
		again(1, 0, n) // a range is missing, and the end
	}
	final(1, 9, none)
	for _, n := range []uint64{1, 2, 2, 3} {
		again(2, 0, n) // doubled
	}
	final(2, 3, none)
	for _, n := range []uint64{1, 3, 3} {
		again(3, 0, n) // a hole and a double: as many rows as sequences
	}
	final(3, 3, none)
	final(4, 0, func(a *eventtest.Announcement) {
		a.Dropped, a.DroppedSince, a.DroppedUntil = 12, h.day, h.day.Add(time.Second)
	})
	again(5, 0, 1)
	final(5, 3, func(a *eventtest.Announcement) { a.Unreadable = [][2]uint64{{2, 3}} })
	h.roll()
	r := h.audit(Options{})
	require.False(t, r.OK)
	require.Equal(t, []Gap{{0, 3, 4}, {0, 7, 9}}, find(r, "0000000000000001").Gaps)
	require.EqualValues(t, 5, find(r, "0000000000000001").Missing)
	require.Equal(t, []Gap{{0, 2, 2}}, find(r, "0000000000000002").Doubles)
	require.EqualValues(t, 1, find(r, "0000000000000002").Doubled)
	require.Zero(t, find(r, "0000000000000002").Missing)
	require.Equal(t, []Gap{{0, 2, 2}}, find(r, "0000000000000003").Gaps)
	require.EqualValues(t, 1, find(r, "0000000000000003").Doubled)
	require.EqualValues(t, 12, find(r, "0000000000000004").Dropped)
	require.EqualValues(t, 2, find(r, "0000000000000005").Missing)
	require.EqualValues(t, 2, find(r, "0000000000000005").Unreadable)
	require.False(t, find(r, "0000000000000abc").Off())
	require.EqualValues(t, 8, r.Missing)
	require.EqualValues(t, 2, r.Doubled)
	require.Empty(t, r.Days)
	require.Zero(t, r.CountersOff, "%+v", r.Counters)
	var b bytes.Buffer
	require.NoError(t, r.WriteTable(&b))
	require.Contains(t, b.String(), "missing in stream 0000000000000001, partition 0: 7 … 9")
	require.Contains(t, b.String(), "dropped, 12 events")

	// Losses that nobody can heal may be accepted, nothing else.
	for _, s := range []string{"1", "2", "3"} {
		h.Run("ALTER TABLE " + events + " DELETE WHERE stream = " + s + sync)
		h.Run("ALTER TABLE " + h.Local("announcements") + " DELETE WHERE stream = " + s + sync)
	}
	h.updater = newHouseUpdater(t, h)
	h.roll()
	require.False(t, h.audit(Options{}).OK)
	require.True(t, h.audit(Options{AcceptLost: true}).OK)

	// Counters.
	h.postgres("UPDATE profile_counters SET views = views + 1 WHERE profile_id = 2 AND class = 'person'")
	h.postgres("UPDATE link_counters SET clicks = clicks - 1 WHERE profile_id = 3 AND link_id = (SELECT min(link_id) FROM link_counters WHERE profile_id = 3)")
	h.postgres("INSERT INTO profile_counters VALUES (99, 'bot', 1, 0, 0, 0, 0, 0, now())")
	r = h.audit(Options{AcceptLost: true})
	require.False(t, r.OK)
	require.Equal(t, 3, r.CountersOff, "%+v", r.Counters)
	require.Len(t, r.ListsUnequal, 1)
	require.EqualValues(t, 3, r.ListsUnequal[0].Profile)
	h.updater = newHouseUpdater(t, h) // begins with a sweep, which sets them right
	h.roll()
	require.True(t, h.audit(Options{AcceptLost: true}).OK)

	// Closed days. What is changed in them changes counters too, as soon as they are computed from them again.
	date := h.day.Format(time.DateOnly)
	for _, tamper := range []struct {
		statement string
		deep      bool
	}{
		{"UPDATE events = events + 1 WHERE date = '" + date + "' AND dimension = '' AND profile_id = 1", false},
		{"UPDATE events = if(profile_id = 1, events + 1, events - 1) WHERE date = '" + date + "' AND dimension = '' AND (profile_id, bucket) IN (" +
			"SELECT profile_id, min(bucket) FROM " + days + " WHERE date = '" + date + "' AND dimension = '' AND profile_id IN (1, 2) GROUP BY profile_id)", false},
		{"DELETE WHERE date = '" + date + "' AND dimension = 'country' AND value = 'US'", false},
		{"DELETE WHERE date = '" + date + "'", false},
		{"UPDATE visitors = visitors + 1 WHERE date = '" + date + "' AND dimension = 'visitors'", true},
		{"UPDATE events = if(value = 'US', events + 1, events - 1) WHERE date = '" + date + "' AND dimension = 'country' AND profile_id = 1 AND kind = 'view'", true},
	} {
		h.Run("ALTER TABLE " + days + " " + tamper.statement + sync)
		r := h.audit(Options{AcceptLost: true, Deep: tamper.deep})
		require.False(t, r.OK, tamper.statement)
		require.Len(t, r.Days, 1, tamper.statement)
		require.Equal(t, date, r.Days[0].Day)
		_, err := h.closer.Close(t.Context(), table.DateOf(h.day))
		require.NoError(t, err)
		h.roll()
		require.True(t, h.audit(Options{AcceptLost: true}).OK, tamper.statement)
	}
	require.True(t, h.audit(Options{AcceptLost: true, Deep: true}).OK)
}

func newHouseUpdater(t *testing.T, h *house) *counters.Updater {
	m, err := counters.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	return counters.NewUpdater(h.Tables, h.Pool, counters.Options{}, m, slog.New(slog.DiscardHandler))
}
