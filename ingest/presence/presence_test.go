package presence_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/presence"
	"spillway.dev/ingest/table"
)

// put inserts sequences of streams into partition 2.
func put(t *testing.T, tbl *table.Table, sequences map[uint64][]uint64) {
	t.Helper()
	term, err := fence.New(tbl, 0).Take(t.Context(), 2, 0, false)
	require.NoError(t, err)
	for stream, all := range sequences {
		list := strings.ReplaceAll(fmt.Sprint(all), " ", ",")
		tabletest.Exec(t, tbl, fmt.Sprintf("INSERT INTO events (stream, partition, sequence, term, date) SELECT %d, 2, arrayJoin(CAST(%s AS Array(UInt64))), %d, '2026-01-01'", stream, list, uint64(term)))
	}
}

func ranges(p *presence.Partition, stream, first, last uint64) []presence.Range {
	return p.Stream(stream).AppendMissing(nil, first, last)
}

func TestLoadKnowsEachSequence(t *testing.T) {
	tbl := tabletest.Open(t)
	random := rand.New(rand.NewPCG(3, 4))
	sequences := map[uint64][]uint64{
		1: {1, 2, 3}, 2: {5, 6, 7}, 3: {1, 3}, 4: {2, 2, 3}, 5: {1, 1, 4, 4}, // 4 and 5 hold an event twice: they are not taken for whole
		6: {1 << 63, 1<<63 + 1}, 7: {3, 2, 1}, 1<<64 - 1: {9},
	}
	for s := uint64(100); s < 160; s++ {
		for q := uint64(1); q < 30; q++ {
			if random.IntN(8) > 0 {
				sequences[s] = append(sequences[s], q)
			}
		}
	}
	put(t, tbl, sequences)
	p, err := presence.Load(t.Context(), tbl, 2)
	require.NoError(t, err)
	require.Equal(t, len(sequences), p.Streams())
	for stream, all := range sequences {
		there := map[uint64]bool{}
		for _, q := range all {
			there[q] = true
			require.Empty(t, ranges(p, stream, q, q))
		}
		for q := uint64(1); q < 40; q++ {
			require.Equal(t, there[q], len(ranges(p, stream, q, q)) == 0, "stream %d sequence %d", stream, q)
		}
		require.EqualValues(t, len(there), p.Stream(stream).Count(), "stream %d", stream)
	}
	other, err := presence.Load(t.Context(), tbl, 1)
	require.NoError(t, err)
	require.Zero(t, other.Streams())
}

// The counts come from the projection, and rows are read of those streams only whose counts do not say all.
func TestLoadReadsAProjection(t *testing.T) {
	tbl := tabletest.Open(t)
	put(t, tbl, map[uint64][]uint64{1: {1, 2, 3}})
	rows, err := tbl.Query(t.Context(), "SELECT stream, count() AS n, min(sequence) AS least, max(sequence) AS greatest, sum(sequence) AS total, sum(sequence * sequence) AS squares FROM events WHERE partition = 2 GROUP BY partition, stream SETTINGS force_optimize_projection = 1")
	require.NoError(t, err, "the question of presence.Load")
	require.NoError(t, rows.Close())
}

func TestLoadAddsWhatHasExpired(t *testing.T) {
	tbl := tabletest.Open(t)
	put(t, tbl, map[uint64][]uint64{1: {8, 9}})
	tabletest.Exec(t, tbl, "INSERT INTO expired_streams (partition, stream, highest, holes, events, recorded_at) VALUES (2, 1, 3, [], 3, '2026-01-01')")
	tabletest.Exec(t, tbl, "INSERT INTO expired_streams (partition, stream, highest, holes, events) VALUES (2, 1, 6, [(1, 1), (4, 5)], 3), (2, 9, 5, [], 5), (1, 1, 99, [], 99)")
	p, err := presence.Load(t.Context(), tbl, 2)
	require.NoError(t, err)
	require.Equal(t, []presence.Range{{1, 1}, {4, 5}, {7, 7}, {10, 12}}, ranges(p, 1, 1, 12))
	require.Equal(t, []presence.Range{{6, 6}}, ranges(p, 9, 1, 6))
}

func TestMissing(t *testing.T) {
	tbl := tabletest.Open(t)
	put(t, tbl, map[uint64][]uint64{1: {1, 2, 5}, 2: {1}})
	tabletest.Exec(t, tbl, "INSERT INTO announcements (partition, stream, journaled, unreadable) VALUES (2, 1, 8, [(3, 3)]), (2, 2, 1, []), (2, 3, 2, [(1, 1)])")
	p, err := presence.Load(t.Context(), tbl, 2)
	require.NoError(t, err)
	const settle = time.Minute
	now := time.Now()
	_, _, early := p.Missing(now, settle)
	require.True(t, early)
	now = now.Add(settle)
	finding, events, early := p.Missing(now, settle)
	require.False(t, early)
	require.EqualValues(t, 1+3+1, events, "4, 6-8, and 2 of stream 3; what is announced as lost is not looked for")
	require.NotZero(t, finding)
	p.Stream(1).Hear(now)
	_, events, _ = p.Missing(now, settle)
	require.EqualValues(t, 1+1, events, "the end of stream 1 may be on its way")
	p.Stream(1).Add(4, 4)
	p.Stream(3).Add(2, 2)
	finding, events, _ = p.Missing(now, settle)
	require.Zero(t, events)
	require.Zero(t, finding)
}

// A live stream says each second how far it has journaled. That must not put off for ever the finding that its end is missing.
func TestTheEndOfALiveStreamIsMissed(t *testing.T) {
	const settle = time.Minute
	now := time.Now()
	p := presence.New(now)
	s := p.Stream(1)
	s.Add(1, 5)
	s.Hear(now)
	for range 200 {
		now = now.Add(time.Second)
		s.Announce(now, 9)
		if _, events, early := p.Missing(now, settle); !early && events > 0 {
			require.EqualValues(t, 4, events)
			break
		}
	}
	_, events, _ := p.Missing(now, settle)
	require.EqualValues(t, 4, events)

	// What is announced now is not missed now.
	s.Add(6, 9)
	now = now.Add(2 * settle)
	s.Announce(now, 12)
	_, events, _ = p.Missing(now, settle)
	require.Zero(t, events)
	_, events, _ = p.Missing(now.Add(settle), settle)
	require.EqualValues(t, 3, events)
}
