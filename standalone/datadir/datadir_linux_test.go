package datadir_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/standalone/datadir"
)

// A full and a read-only disk are real ones here where the test may mount them; elsewhere a directory without permission is.
func TestADiskThatTakesNothing(t *testing.T) {
	path := t.TempDir()
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(path, 0o500))
		_, err := datadir.Open(t.Context(), filepath.Join(path, "data"), 0)
		require.ErrorContains(t, err, "cannot be written to: change its permissions")
		return
	}
	// A disk of one page, filled: the directory and its lock fit, VERSION does not.
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=4k,nr_inodes=10"); err != nil {
		require.ErrorIs(t, err, syscall.EPERM, "only a container without the right to mount may refuse")
		return
	}
	defer func() { require.NoError(t, syscall.Unmount(path, syscall.MNT_DETACH)) }()
	require.NoError(t, os.WriteFile(filepath.Join(path, "fill"), []byte(strings.Repeat("x", 4096)), 0o644))
	_, err := datadir.Open(t.Context(), filepath.Join(path, "data"), 0)
	require.ErrorContains(t, err, "is on a full disk: free some space")
	require.NoError(t, os.Remove(filepath.Join(path, "fill")))
	require.NoError(t, syscall.Mount("", path, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	_, err = datadir.Open(t.Context(), filepath.Join(path, "data"), 0)
	require.ErrorContains(t, err, "cannot be written to: change its permissions")
}
