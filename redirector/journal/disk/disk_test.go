package disk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Both file systems keep the same contract.
func TestContract(t *testing.T) {
	real, err := OpenDirectory(t.TempDir())
	require.NoError(t, err)
	for name, d := range map[string]FS{"directory": real, "memory": NewMemory()} {
		t.Run(name, func(t *testing.T) {
			unlock, err := d.Lock()
			require.NoError(t, err)
			_, err = d.Lock()
			require.ErrorIs(t, err, ErrLocked)
			require.NoError(t, unlock.Close())
			unlock, err = d.Lock()
			require.NoError(t, err)
			require.NoError(t, unlock.Close())

			_, err = d.Open("a")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.ErrorIs(t, d.Remove("a"), fs.ErrNotExist)
			f, err := d.Create("a")
			require.NoError(t, err)
			_, err = d.Create("a")
			require.ErrorIs(t, err, fs.ErrExist)
			require.NoError(t, f.Allocate(3*PageSize, nil))
			size, err := f.Size()
			require.NoError(t, err)
			require.Equal(t, int64(3*PageSize), size)
			m, err := f.Map()
			require.NoError(t, err)
			require.NoError(t, f.Close(), "the mapping outlives the file")
			require.NoError(t, m.Touch(0, 3*PageSize))
			copy(m.Bytes()[PageSize:], "hello")
			require.NoError(t, m.Sync(PageSize, PageSize+5))
			require.NoError(t, d.Rename("a", "b"))
			require.NoError(t, d.Sync())
			names, err := d.List()
			require.NoError(t, err)
			require.Equal(t, []string{"b"}, names)
			f, err = d.Open("b")
			require.NoError(t, err)
			b := make([]byte, 5)
			_, err = f.ReadAt(b, PageSize)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b))
			_, err = f.WriteAt([]byte("J"), PageSize)
			require.NoError(t, err)
			require.Equal(t, "Jello", string(m.Bytes()[PageSize:PageSize+5]))
			require.NoError(t, f.Sync())
			require.NoError(t, f.Close())
			require.NoError(t, m.Unmap())
			require.NoError(t, m.Unmap())
		})
	}
}

func TestAllocatedBytesAreReallyHeld(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDirectory(dir)
	require.NoError(t, err)
	f, err := d.Create("a")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Allocate(1<<20, nil))
	info, err := os.Stat(dir + "/a")
	require.NoError(t, err)
	require.GreaterOrEqual(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(1<<20))
}

func TestAPowerCutTakesOnlyWhatWasNotSynced(t *testing.T) {
	forgot, kept, name := 0, 0, 0
	for seed := range uint64(50) {
		m := NewMemory()
		f, err := m.Create("a")
		require.NoError(t, err)
		require.NoError(t, f.Allocate(2*PageSize, nil))
		require.NoError(t, f.Sync())
		require.NoError(t, m.Sync())
		p, err := f.Map()
		require.NoError(t, err)
		copy(p.Bytes(), "synced")
		require.NoError(t, p.Sync(0, 6))
		copy(p.Bytes()[PageSize:], "forgotten")
		require.NoError(t, m.Rename("a", "b"))

		killed := m.Kill()
		require.Equal(t, "forgotten", string(killed.Content("b")[PageSize:PageSize+9]), "a kill takes nothing")

		cut := m.Cut(rand.New(rand.NewPCG(seed, 0)))
		b := cut.Content("b")
		if b == nil {
			b = cut.Content("a")
			name++
		}
		require.Equal(t, "synced", string(b[:6]))
		if b[PageSize] == 0 {
			forgot++
		} else {
			kept++
		}
	}
	require.Positive(t, forgot)
	require.Positive(t, kept)
	require.Positive(t, name, "a name that was not synced may be the old one")
}

func TestFaultsAndCapacity(t *testing.T) {
	m := NewMemory()
	m.Capacity = PageSize
	f, err := m.Create("a")
	require.NoError(t, err)
	require.ErrorIs(t, f.Allocate(2*PageSize, nil), syscall.ENOSPC)
	broken := errors.New("broken")
	m.Fault = func(op Operation, _ string) error {
		if op == OpSync {
			return broken
		}
		return nil
	}
	require.ErrorIs(t, f.Sync(), broken)
	require.NoError(t, m.Sync())
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
