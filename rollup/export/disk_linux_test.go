package export

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// On a full disk the run ends with what to do; what was published stays, what was begun goes, and with room again nothing is missing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		require.ErrorIs(t, err, syscall.EPERM, "only who may not mount may be without this test")
		return
	}
	defer func() { require.NoError(t, syscall.Unmount(disk, syscall.MNT_DETACH)) }()
	f := newTables(t)
	f.insert(streamA, 0, 1, 1000, day0)
	f.once(disk)
	before := published(t, openStore(t, disk))[0]
	ballast := filepath.Join(disk, "ballast")
	f.insert(streamA, 0, 1001, 70_000, day0)
	// Full at different moments: in the middle of a file, and when there is not even room for a manifest.
	for _, size := range []int{2 << 20, 4 << 20} {
		file, err := os.Create(ballast)
		require.NoError(t, err)
		_, _ = file.Write(make([]byte, size)) // as much as goes
		require.NoError(t, file.Close())
		_, err = f.exporter(disk).Once(context.Background())
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "make room in "+disk)
		require.NoError(t, os.Remove(ballast))
		onlyListed(t, openStore(t, disk))
		require.Equal(t, before, published(t, openStore(t, disk))[0])
	}
	require.EqualValues(t, 69_000, f.once(disk).Events)
	sameRows(t, f.wantEvents(""), publishedRows(t, openStore(t, disk), "events"))
	report, err := Audit(t.Context(), disk, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
}
