package disk

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoeverWaitsForTheDiskLeavesVisitorsAProcessor(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	failed := errors.New("failed")
	require.ErrorIs(t, aside(func() error {
		require.Equal(t, 2, runtime.GOMAXPROCS(0))
		require.NoError(t, aside(func() error { return nil }))
		require.Equal(t, 2, runtime.GOMAXPROCS(0), "another one still waits")
		return failed
	}), failed)
	require.Equal(t, 1, runtime.GOMAXPROCS(0))

	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			for range 50 {
				_ = aside(func() error { return nil })
			}
		})
	}
	waiting.Wait()
	require.Equal(t, 1, runtime.GOMAXPROCS(0))

	runtime.GOMAXPROCS(3)
	_ = aside(func() error { require.Equal(t, 3, runtime.GOMAXPROCS(0)); return nil })
	require.Equal(t, 3, runtime.GOMAXPROCS(0), "where there are several, nothing is changed")
}

func TestAllocatingPausesBetweenItsParts(t *testing.T) {
	d, err := OpenDirectory(t.TempDir())
	require.NoError(t, err)
	f, err := d.Create("segment")
	require.NoError(t, err)
	defer f.Close()
	pauses := 0
	require.NoError(t, f.Allocate(1<<20, func() { pauses++ }))
	require.GreaterOrEqual(t, pauses, 8)
}
