package hammer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhoComesMoreThanOnceASecondIsMarked(t *testing.T) {
	var table Table
	minute := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	const id = 0xfeed_beef_0042_0007
	for i := range Most {
		require.False(t, table.Note(id, minute.Add(time.Duration(i)*time.Millisecond)), i)
	}
	for range 100_000 { // the count does not begin anew
		require.True(t, table.Note(id, minute.Add(59*time.Second)))
	}
	require.False(t, table.Note(id, minute.Add(time.Minute)), "each minute begins anew")
}

func TestNobodyIsMarkedForWhatAnotherDid(t *testing.T) {
	var table Table
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	const one, other = 1<<60 | 5, 2<<60 | 5 // on the same place
	for range 2 * Most {
		table.Note(one, now)
	}
	require.True(t, table.Note(one, now))
	require.False(t, table.Note(other, now))
	for range 2 * Most {
		require.False(t, table.Note(0, now), "the unknown are many")
	}
}

func TestNoteAllocatesNothing(t *testing.T) {
	table, now := new(Table), time.Now()
	require.Zero(t, testing.AllocsPerRun(100, func() { table.Note(99, now) }))
}
