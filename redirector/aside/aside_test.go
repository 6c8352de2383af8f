package aside

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
	require.ErrorIs(t, Do(func() error {
		require.Equal(t, 2, runtime.GOMAXPROCS(0))
		require.NoError(t, Do(func() error { return nil }))
		require.Equal(t, 2, runtime.GOMAXPROCS(0), "another one still waits")
		return failed
	}), failed)
	require.Equal(t, 1, runtime.GOMAXPROCS(0))

	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			for range 50 {
				_ = Do(func() error { return nil })
			}
		})
	}
	waiting.Wait()
	require.Equal(t, 1, runtime.GOMAXPROCS(0))

	runtime.GOMAXPROCS(3)
	_ = Do(func() error { require.Equal(t, 3, runtime.GOMAXPROCS(0)); return nil })
	require.Equal(t, 3, runtime.GOMAXPROCS(0), "where there are several, nothing is changed")
}
