package completeness

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
)

func newWatch(t *testing.T, e *eventtest.Engines) *Watch {
	m, err := NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	return NewWatch(e.Tables, e.Pool, Options{SilentAfter: 10 * time.Minute, LostAfter: 24 * time.Hour}, m, slog.New(slog.DiscardHandler))
}

func TestCompleteThrough(t *testing.T) {
	e := eventtest.New(t)
	base := time.Now().UTC().Truncate(time.Second).Add(-3 * time.Hour)
	at := func(seconds int) time.Time { return base.Add(time.Duration(seconds) * time.Second) }
	event := func(stream uint64, partition uint32, sequence uint64, seconds int) {
		e.Insert(eventtest.Event{Stream: stream, Partition: partition, Sequence: sequence, Time: at(seconds), Profile: 1})
	}
	announce := func(stream uint64, partition uint32, journaled uint64, seconds int, change ...func(*eventtest.Announcement)) {
		a := eventtest.Announcement{Stream: stream, Partition: partition, Journaled: journaled, Time: at(seconds), Began: at(0), Origin: "host"}
		for _, c := range change {
			c(&a)
		}
		e.Announce(a)
	}
	final := func(a *eventtest.Announcement) { a.Final = true }
	two := func(a *eventtest.Announcement) { a.Partitions = 2 }
	just := func(t time.Time) time.Time { return t.Add(-time.Microsecond) }
	compute := func() Known {
		t.Helper()
		known, err := newWatch(t, e).Compute(t.Context())
		require.NoError(t, err)
		return known
	}
	reset := func() {
		for _, name := range []string{"events", "announcements", "expired_streams"} {
			e.Run("TRUNCATE TABLE " + e.Local(name))
		}
	}

	for _, tc := range []struct {
		name     string
		build    func()
		through  time.Time
		heldBack []Holding
		silent   int
		lost     []Holding
		doubled  uint64
	}{
		{name: "whole and running", build: func() { event(1, 0, 1, 5); event(1, 0, 2, 6); announce(1, 0, 2, 10) }, through: at(10)},
		{name: "nothing yet but announced", build: func() { announce(1, 0, 0, 10) }, through: at(10)},
		{name: "the slowest lane decides", build: func() {
			announce(1, 0, 0, 30, two)
			announce(1, 1, 0, 20, two)
		}, through: at(20), heldBack: []Holding{{Reason: "silent"}}},
		{name: "a lane was never heard of", build: func() { announce(1, 0, 0, 30, two) }, through: at(0), heldBack: []Holding{{Reason: "silent"}}},
		{name: "the end is on its way", build: func() { event(1, 0, 1, 5); event(1, 0, 2, 6); announce(1, 0, 9, 30) }, through: just(at(6)), heldBack: []Holding{{Reason: "missing", Events: 7}}},
		{name: "all is on its way", build: func() { announce(1, 0, 9, 30) }, through: at(0), heldBack: []Holding{{Reason: "missing", Events: 9}}},
		{name: "a hole", build: func() {
			event(1, 0, 1, 5)
			event(1, 0, 2, 6)
			event(1, 0, 5, 9)
			announce(1, 0, 5, 30)
		}, through: just(at(6)), heldBack: []Holding{{Reason: "missing", Events: 2}}},
		{name: "a hole and a double", build: func() {
			event(1, 0, 1, 5)
			event(1, 0, 3, 7)
			event(1, 0, 3, 7)
			announce(1, 0, 3, 30)
		}, through: just(at(5)), heldBack: []Holding{{Reason: "missing", Events: 1}}, doubled: 1},
		{name: "a double only", build: func() { event(1, 0, 1, 5); event(1, 0, 1, 5); announce(1, 0, 1, 30) }, through: at(30), doubled: 1},
		{name: "rows before an announcement", build: func() { event(1, 0, 1, 5); event(1, 0, 2, 8); announce(2, 0, 0, 10) }, through: just(at(8))},
		{name: "one ended, one goes on", build: func() {
			event(1, 0, 1, 5)
			announce(1, 0, 1, 6, final)
			announce(2, 0, 0, 60)
		}, through: at(60)},
		{name: "all ended", build: func() { announce(1, 0, 0, 6, final); announce(2, 0, 0, 9, final) }, through: at(9)},
		{name: "ended with a hole", build: func() {
			event(1, 0, 2, 7)
			announce(1, 0, 2, 8, final)
			announce(2, 0, 0, 60)
		}, through: at(0), heldBack: []Holding{{Reason: "missing", Events: 1}}},
		{name: "ended in one lane, the other has yet to say so", build: func() {
			announce(1, 0, 0, 6, final, two)
			announce(1, 1, 0, 5, two)
			announce(2, 0, 0, 60)
		}, through: at(5), heldBack: []Holding{{Reason: "silent"}}},
		{name: "fell silent", build: func() { announce(1, 0, 0, 6); announce(2, 0, 0, 60+600) }, through: at(660), silent: 1},
		{name: "not silent yet", build: func() { announce(1, 0, 0, 60); announce(2, 0, 0, 60+600) }, through: at(60), heldBack: []Holding{{Reason: "silent"}}},
		{name: "silent with something missing", build: func() { announce(1, 0, 3, 6); announce(2, 0, 0, 60+600) }, through: at(0),
			heldBack: []Holding{{Reason: "missing", Events: 3}}, silent: 1},
		{name: "everybody is silent", build: func() { announce(1, 0, 0, 6); announce(2, 0, 0, 9) }, through: at(6)},
		{name: "missing for too long", build: func() {
			event(1, 0, 1, -90000)
			event(1, 0, 3, -80000)
			announce(1, 0, 3, -70000, final)
			announce(2, 0, 0, 60)
		}, through: at(60), lost: []Holding{{Reason: "missing", Events: 1}}},
		{name: "unreadable", build: func() {
			event(1, 0, 1, 5)
			event(1, 0, 4, 9)
			announce(1, 0, 4, 20, final, func(a *eventtest.Announcement) { a.Unreadable = [][2]uint64{{2, 3}} })
			announce(2, 0, 0, 60)
		}, through: at(60), lost: []Holding{{Reason: "unreadable", Events: 2}}},
		{name: "unreadable, but a copy sent it", build: func() {
			event(1, 0, 1, 5)
			event(1, 0, 2, 9)
			announce(1, 0, 2, 20, final, func(a *eventtest.Announcement) { a.Unreadable = [][2]uint64{{2, 2}} })
			announce(2, 0, 0, 60)
		}, through: at(60)},
		{name: "unreadable, and another is missing", build: func() {
			event(1, 0, 1, 5)
			announce(1, 0, 3, 20, final, func(a *eventtest.Announcement) { a.Unreadable = [][2]uint64{{2, 2}} })
			announce(2, 0, 0, 60)
		}, through: just(at(5)), heldBack: []Holding{{Reason: "missing", Events: 1}}, lost: []Holding{{Reason: "unreadable", Events: 1}}},
		{name: "dropped", build: func() {
			announce(1, 0, 0, 60, two, func(a *eventtest.Announcement) { a.Dropped, a.DroppedSince, a.DroppedUntil = 7, at(20), at(30) })
			announce(1, 1, 0, 60, two, func(a *eventtest.Announcement) { a.Dropped, a.DroppedSince, a.DroppedUntil = 7, at(20), at(30) })
		}, through: at(60), lost: []Holding{{Reason: "dropped", Events: 7}}},
		{name: "expired", build: func() {
			e.Run("INSERT INTO " + e.Local("expired_streams") + " (partition, stream, highest, holes, events) VALUES (0, 1, 9, [(4, 4)], 8)")
			event(1, 0, 4, 5)
			announce(1, 0, 9, 10)
		}, through: at(10)},
	} {
		reset()
		tc.build()
		known := compute()
		require.NotNil(t, known.Through, tc.name)
		require.Equal(t, tc.through, known.Through.UTC(), tc.name)
		require.Len(t, known.HeldBack, len(tc.heldBack), "%s: %+v", tc.name, known)
		for i, h := range tc.heldBack {
			require.Equal(t, h.Reason, known.HeldBack[i].Reason, tc.name)
			require.Equal(t, h.Events, known.HeldBack[i].Events, tc.name)
			require.Equal(t, "0000000000000001", known.HeldBack[i].Stream, tc.name)
			require.Equal(t, tc.through, known.HeldBack[i].Since.UTC(), tc.name)
		}
		require.Equal(t, tc.doubled, known.Doubled, tc.name)
		require.Len(t, known.Silent, tc.silent, "%s: %+v", tc.name, known)
		require.Len(t, known.Lost, len(tc.lost), "%s: %+v", tc.name, known)
		for i, h := range tc.lost {
			require.Equal(t, h.Reason, known.Lost[i].Reason, tc.name)
			require.Equal(t, h.Events, known.Lost[i].Events, tc.name)
		}
	}

	reset()
	require.Nil(t, compute().Through, "nothing is known of nothing")
	now := time.Now().UTC()
	e.Announce(eventtest.Announcement{Stream: 1, Time: now, Began: now})
	require.True(t, compute().Through.Before(now.Add(-time.Second)), "a redirector that was started just now may not be heard of yet")
}

func TestAWatchFollows(t *testing.T) {
	e := eventtest.New(t)
	w := newWatch(t, e)
	base := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	through := func() time.Time {
		t.Helper()
		known, err := w.Compute(t.Context())
		require.NoError(t, err)
		require.NoError(t, w.Publish(t.Context(), known))
		var told time.Time
		require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT complete_through FROM completeness").Scan(&told))
		require.WithinDuration(t, *known.Through, told, 0)
		return told.UTC()
	}
	put := func(stream, sequence uint64, at time.Time) {
		e.Insert(eventtest.Event{Stream: stream, Sequence: sequence, Time: at, Profile: 1})
	}
	put(1, 1, base)
	e.Announce(eventtest.Announcement{Stream: 1, Journaled: 1, Time: base, Began: base, Final: true})
	e.Announce(eventtest.Announcement{Stream: 2, Time: base.Add(time.Second), Began: base})
	require.Equal(t, base.Add(time.Second), through())
	require.True(t, w.settled[1])
	require.False(t, w.settled[2])
	for i := range uint64(3) {
		at := base.Add(time.Duration(2+i) * time.Second)
		put(2, i+1, at)
		e.Announce(eventtest.Announcement{Stream: 2, Journaled: i + 1, Time: at, Began: base})
		require.Equal(t, at, through())
	}
	put(2, 5, base.Add(20*time.Second)) // number 4 is on its way
	e.Announce(eventtest.Announcement{Stream: 2, Journaled: 5, Time: base.Add(30 * time.Second), Began: base})
	require.Equal(t, base.Add(4*time.Second-time.Microsecond), through())
	put(2, 4, base.Add(19*time.Second))
	clear(w.gaps) // as five seconds later
	require.Equal(t, base.Add(30*time.Second), through())

	// What is gone of an ended stream is noticed within a minute, by looking at all.
	e.Run("ALTER TABLE " + e.Local("events") + " DELETE WHERE stream = 1 SETTINGS mutations_sync = 2")
	w.all = time.Time{}
	require.Equal(t, base, through())

	// An older judgement does not replace a newer one.
	older, err := w.Compute(t.Context())
	require.NoError(t, err)
	older.At = older.At.Add(-time.Hour)
	*older.Through = base.Add(-time.Hour)
	require.NoError(t, w.Publish(t.Context(), older))
	require.Equal(t, base, through())
}

func TestARedirectorWithASlowClockIsNotSilent(t *testing.T) {
	e := eventtest.New(t)
	w := newWatch(t, e)
	base := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	slow := base.Add(-time.Hour)
	var known Known
	for i := range 2 {
		var err error
		e.Announce(eventtest.Announcement{Stream: 1, Time: slow.Add(time.Duration(i) * time.Second), Began: slow})
		e.Announce(eventtest.Announcement{Stream: 2, Time: base.Add(time.Duration(i) * time.Second), Began: base})
		known, err = w.Compute(t.Context())
		require.NoError(t, err)
	}
	require.Empty(t, known.Silent)
	require.Equal(t, slow.Add(time.Second), known.Through.UTC())
}
