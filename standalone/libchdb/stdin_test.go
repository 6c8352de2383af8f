package libchdb

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A supervisor holds its children's standard input open and never writes to it: whoever reads it waits for ever.
func TestStandardInputIsEmptyWhateverTheParentHoldsOpen(t *testing.T) {
	kept, err := unix.FcntlInt(uintptr(syscall.Stdin), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, unix.Dup2(kept, syscall.Stdin))
		require.NoError(t, unix.Close(kept))
	})
	read, write, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, write.Close()); require.NoError(t, read.Close()) })
	require.NoError(t, unix.Dup2(int(read.Fd()), syscall.Stdin))

	require.NoError(t, EmptyStdin())

	n, err := syscall.Read(syscall.Stdin, make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n, "the end of the file, at once")
}
