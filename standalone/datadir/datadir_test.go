package datadir_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/standalone/datadir"
)

// TestMain lets the binary be the other process, too.
func TestMain(m *testing.M) {
	if path := os.Getenv("DATADIR_TEST_HOLD"); path != "" {
		d, err := datadir.Open(context.Background(), path, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = d.Close()
		return
	}
	os.Exit(m.Run())
}

func TestADirectoryIsMadeAndReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d, err := datadir.Open(t.Context(), path, 0)
	require.NoError(t, err)
	require.Equal(t, path, d.Path)
	content, err := os.ReadFile(filepath.Join(path, "VERSION"))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%d\n", datadir.Format), string(content))
	require.NoError(t, d.Close())
	d, err = datadir.Open(t.Context(), path, 0)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestOneProcessOwnsADirectory(t *testing.T) {
	path := t.TempDir()
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "DATADIR_TEST_HOLD="+path)
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	in, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	_, err = datadir.Open(t.Context(), path, 100*time.Millisecond)
	require.ErrorContains(t, err, fmt.Sprintf("in use by process %d", other.Process.Pid))
	require.ErrorContains(t, err, "--data or SPILLWAY_DATA")
	require.NotContains(t, err.Error(), "\n")

	// A predecessor that is on its way out is waited for, also one that is killed.
	go func() {
		time.Sleep(150 * time.Millisecond)
		_ = other.Process.Signal(syscall.SIGKILL)
	}()
	d, err := datadir.Open(t.Context(), path, 20*time.Second)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	_ = in.Close()
	_ = other.Wait()
}

func TestAnotherFormatIsRefused(t *testing.T) {
	path := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(path, "VERSION"), []byte("99\n"), 0o644))
	_, err := datadir.Open(t.Context(), path, 0)
	require.ErrorContains(t, err, `has format "99", this program needs format 1`)
	// Refused, it is not kept either.
	require.NoError(t, os.WriteFile(filepath.Join(path, "VERSION"), []byte("1\n"), 0o644))
	d, err := datadir.Open(t.Context(), path, 0)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestAFileIsNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	_, err := datadir.Open(t.Context(), path, 0)
	require.ErrorContains(t, err, "is a file: choose another directory")
}
