package stream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
)

func TestLanesTellWhatIsThere(t *testing.T) {
	e := eventtest.New(t)
	at := time.Now().UTC().Truncate(time.Millisecond)
	put := func(stream uint64, partition uint32, sequences ...uint64) {
		var events []eventtest.Event
		for _, n := range sequences {
			events = append(events, eventtest.Event{Stream: stream, Partition: partition, Sequence: n, Time: at.Add(time.Duration(n) * time.Second), Profile: 1})
		}
		e.Insert(events...)
	}
	put(1, 0, 1, 2, 3, 4)
	put(1, 1, 1, 2, 3)
	put(2, 0, 1, 2, 4, 5)          // a hole
	put(3, 0, 1, 2, 2, 3)          // a double
	put(4, 0, 1, 3, 3, 4)          // a hole and a double: count and maximum agree
	put(5, 0, 8, 9)                // the months before have expired
	put(6, 0, 1, 2)                // nothing was announced of it
	put(1<<63+5, 2, 1, 2, 3, 4, 5) // the sum of squares is modulo 2^64
	e.Run("INSERT INTO " + e.Local("expired_streams") + " (partition, stream, highest, holes, events) VALUES (0, 5, 7, [(3, 4)], 5)")
	for _, a := range []eventtest.Announcement{
		{Stream: 1, Journaled: 3, Time: at}, {Stream: 1, Journaled: 6, Time: at.Add(time.Second), Final: true, Origin: "host:/journal", Partitions: 2, Began: at},
		{Stream: 1, Partition: 1, Journaled: 3, Time: at, Partitions: 2}, {Stream: 2, Journaled: 5, Time: at}, {Stream: 3, Journaled: 3, Time: at},
		{Stream: 4, Journaled: 4, Time: at}, {Stream: 5, Journaled: 9, Time: at}, {Stream: 7, Journaled: 2, Time: at, Unreadable: [][2]uint64{{2, 2}}},
	} {
		e.Announce(a)
	}
	// ClickHouse refuses a query that would read the raw events.
	require.NoError(t, lanes{}.loadStored(t.Context(), e.With("force_optimize_projection", 1), " WHERE stream IN (1, 2)"))
	all, err := Load(t.Context(), e.Tables)
	require.NoError(t, err)
	by := map[Name]*Lane{}
	for _, l := range all {
		by[l.Name] = l
	}
	require.Len(t, by, 9)
	for _, tc := range []struct {
		name            Name
		stored          uint64
		whole           bool
		missing, double Ranges
		twice           uint64
	}{
		{Name{0, 1}, 4, true, Ranges{{5, 6}}, nil, 0},
		{Name{1, 1}, 3, true, nil, nil, 0},
		{Name{0, 2}, 5, false, Ranges{{3, 3}}, nil, 0},
		{Name{0, 3}, 3, false, nil, Ranges{{2, 2}}, 1},
		{Name{0, 4}, 4, false, Ranges{{2, 2}}, Ranges{{3, 3}}, 1},
		{Name{0, 5}, 9, false, Ranges{{3, 4}}, nil, 0},
		{Name{0, 6}, 2, true, nil, nil, 0},
		{Name{0, 7}, 0, true, Ranges{{1, 2}}, nil, 0},
		{Name{2, 1<<63 + 5}, 5, true, nil, nil, 0},
	} {
		l := by[tc.name]
		stored, whole := l.Stored()
		require.Equal(t, tc.stored, stored, "%v", tc.name)
		require.Equal(t, tc.whole, whole, "%v", tc.name)
		d, err := ReadDetail(t.Context(), e.Tables, l)
		require.NoError(t, err)
		require.Equal(t, tc.missing, l.Missing(d), "%v", tc.name)
		require.Equal(t, tc.double, d.Doubled, "%v", tc.name)
		require.Equal(t, tc.twice, d.Twice, "%v", tc.name)
	}
	a := by[Name{0, 1}].Announcement
	require.True(t, a.Final)
	require.Equal(t, "host:/journal", a.Origin)
	require.EqualValues(t, 2, a.Partitions)
	require.Equal(t, at.Add(time.Second), a.Time.UTC())
	require.False(t, by[Name{0, 6}].Announced)
	require.Equal(t, Ranges{{2, 2}}, by[Name{0, 7}].Announcement.Unreadable)

	before, after, err := Around(t.Context(), e.Tables, Name{0, 2}, 3, 3)
	require.NoError(t, err)
	require.Equal(t, at.Add(2*time.Second), before.UTC())
	require.Equal(t, at.Add(4*time.Second), after.UTC())
	before, _, err = Around(t.Context(), e.Tables, Name{0, 2}, 1, 1)
	require.NoError(t, err)
	require.True(t, before.IsZero())

	put(1, 0, 5)
	put(2, 0, 6)
	e.Run("TRUNCATE TABLE " + e.Local("expired_streams"))
	followed, err := Follow(t.Context(), e.Tables, by, map[uint64]bool{1: true})
	require.NoError(t, err)
	for _, l := range followed {
		require.NotEqual(t, uint64(6), l.Stream, "nothing was announced of it")
		switch l.Name {
		case Name{0, 1}:
			require.EqualValues(t, 4, l.Rows, "as it was")
		case Name{0, 2}:
			require.EqualValues(t, 5, l.Rows, "as it is")
		case Name{0, 5}:
			require.NotEmpty(t, l.Expired, "as it was")
		}
	}
}
