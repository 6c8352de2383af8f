package event

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

func TestLanesNameEveryEventOnce(t *testing.T) {
	for _, lanes := range []Lanes{{1, 1}, {1, 7}, {3, 1}, {4, 256}, {5, 3}} {
		count := map[uint32]uint64{}
		for k := uint64(1); k <= 5000; k++ {
			partition, sequence := lanes.Place(k)
			require.Less(t, partition, lanes.Partitions)
			count[partition]++
			require.Equal(t, count[partition], sequence, "sequences of a partition are consecutive")
			require.Equal(t, k, lanes.Event(partition, sequence))
			for p := range lanes.Partitions {
				require.Equal(t, count[p], lanes.Last(p, k), "%+v: last of partition %d after %d", lanes, p, k)
			}
		}
	}
}

func TestBatchOfCopiedBytesIsTheProtobufMessage(t *testing.T) {
	want := &EventBatch{Stream: 1 << 63, FirstSequence: 41}
	bytes := AppendHeader(nil, want.Stream, want.FirstSequence)
	for i := range 3 {
		e := &Event{TimeUs: int64(i), Kind: Kind_KIND_CLICK, ProfileId: 7, UserAgent: "curl/8"}
		want.Events = append(want.Events, e)
		var err error
		bytes, err = AppendEvent(bytes, e)
		require.NoError(t, err)
	}
	want.Announcement = &Announcement{Journaled: 43, Unreadable: []*Range{{First: 2, Last: 3}}}
	bytes, err := AppendAnnouncement(bytes, want.Announcement)
	require.NoError(t, err)

	var got EventBatch
	require.NoError(t, proto.Unmarshal(bytes, &got))
	require.True(t, proto.Equal(want, &got))

	batch, err := ParseBatch(bytes)
	require.NoError(t, err)
	require.Equal(t, want.Stream, batch.Stream)
	require.Equal(t, uint64(43), batch.Last())
	next := uint64(41)
	batch.Events(func(sequence uint64, encoded []byte) bool {
		require.Equal(t, next, sequence)
		var e Event
		require.NoError(t, e.UnmarshalVT(encoded))
		require.Equal(t, int64(next-41), e.TimeUs)
		next++
		return true
	})
	require.Equal(t, uint64(44), next)
	var announcement Announcement
	require.NoError(t, announcement.UnmarshalVT(batch.Announcement))
	require.Equal(t, uint64(43), announcement.Journaled)
}

func TestBatchWithoutANameIsRefused(t *testing.T) {
	nameless, err := AppendEvent(nil, &Event{TimeUs: 1})
	require.NoError(t, err)
	_, err = ParseBatch(nameless)
	require.ErrorIs(t, err, ErrNoStream)

	noSequence, err := AppendEvent(AppendHeader(nil, 9, 0), &Event{TimeUs: 1})
	require.NoError(t, err)
	_, err = ParseBatch(noSequence)
	require.ErrorContains(t, err, "first sequence")

	_, err = ParseBatch([]byte("not a batch at all"))
	require.Error(t, err)
	_, err = ParseBatch(append(AppendHeader(nil, 9, 1), tagEvent, 100, 'x'))
	require.Error(t, err, "a cut record")
}

func FuzzParseBatch(f *testing.F) {
	good, _ := AppendEvent(AppendHeader(nil, 1, 1), &Event{TimeUs: 1, UserAgent: "x"})
	f.Add(good)
	long, _ := AppendEvent(good, &Event{TimeUs: 2, UserAgent: strings.Repeat("y", 300)})
	longer, _ := AppendEvent(long, &Event{TimeUs: 3, UserAgent: strings.Repeat("z", 1<<14)})
	f.Add(longer)
	f.Add(longer[:len(longer)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		batch, err := ParseBatch(value)
		if err != nil {
			return
		}
		var all [][]byte
		batch.Events(func(sequence uint64, encoded []byte) bool {
			require.Equal(t, batch.First+uint64(len(all)), sequence)
			all = append(all, encoded)
			return true
		})
		require.Len(t, all, batch.Count)
		// Whoever can read the message with protobuf must see the same.
		var full EventBatch
		if proto.Unmarshal(value, &full) != nil {
			return
		}
		require.Equal(t, full.Stream, batch.Stream)
		require.Len(t, full.Events, batch.Count)
		for i, encoded := range all {
			var e Event
			require.NoError(t, proto.Unmarshal(encoded, &e))
			require.True(t, proto.Equal(full.Events[i], &e), "event %d: %v instead of %v", i, &e, full.Events[i])
		}
	})
}

func BenchmarkParseBatch(b *testing.B) {
	value := AppendHeader(nil, 1, 1)
	for range 300 {
		value, _ = AppendEvent(value, &Event{TimeUs: 1_700_000_000_000_000, ProfileId: 4711, LinkId: 815, Visitor: 1 << 60, UserAgent: strings.Repeat("u", 120)})
	}
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		batch, err := ParseBatch(value)
		require.NoError(b, err)
		batch.Events(func(uint64, []byte) bool { return true })
	}
}
