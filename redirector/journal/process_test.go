package journal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// childEnv has the test binary append to the directory that it names, and tell of each append, until it is killed.
const childEnv = "SPILLWAY_JOURNAL_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

func child(dir string) int {
	j, err := Open(Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 256 << 20, Lanes: lanes, SyncInterval: 5 * time.Millisecond})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Printf("%016x\n", j.Live().ID())
	for i := 1; ; i++ {
		if k, ok := j.Append(click(i)); ok {
			// What is told is told by a system call, after the append and before the next.
			if _, err := os.Stdout.WriteString(strconv.FormatUint(k, 10) + "\n"); err != nil {
				return 1
			}
		} else {
			time.Sleep(100 * time.Microsecond)
			i--
		}
	}
}

func TestWhatWasAppendedSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	type told struct {
		stream uint64
		last   uint64
	}
	var children []told
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		stream, err := strconv.ParseUint(lines.Text(), 16, 64)
		require.NoError(t, err)
		c := told{stream: stream}
		kill := time.Now().Add(time.Duration(50+round*37) * time.Millisecond)
		for lines.Scan() {
			k, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break // the last line was cut
			}
			require.Equal(t, c.last+1, k)
			c.last = k
			if time.Now().After(kill) {
				require.NoError(t, cmd.Process.Kill())
				kill = time.Now().Add(time.Hour)
			}
		}
		_ = cmd.Wait()
		children = append(children, c)
	}
	j := open(t, Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 256 << 20})
	streams := j.Streams()
	require.Len(t, streams, len(children)+1)
	for i, c := range children {
		require.Equal(t, c.stream, streams[i].ID())
		require.Greater(t, c.last, uint64(100))
		r := streams[i].Reader()
		got, err := drain(t, r)
		require.ErrorIs(t, err, io.EOF)
		require.GreaterOrEqual(t, uint64(len(got)), c.last, "every append that was told of is there")
		require.LessOrEqual(t, uint64(len(got)), c.last+1, "and at most the one that was not told of any more")
		for k, b := range got {
			e := click(int(k))
			require.Equal(t, encoded(t, e), b)
		}
		r.Close()
		m, err := streams[i].Mark()
		require.NoError(t, err)
		require.True(t, m.Final)
		require.Empty(t, m.Unreadable)
		require.Equal(t, uint64(len(got)), m.K)
		t.Logf("killed after %d appends", c.last)
	}
}

// A disk that is really full, and that has room again later.
func TestAFullTmpfs(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	ballast := filepath.Join(dir, "ballast")
	if os.Geteuid() == 0 {
		require.NoError(t, os.WriteFile(ballast, make([]byte, 512<<10), 0o600))
	}
	j := open(t, Options{Dir: dir, SegmentBytes: 128 << 10, MaxBytes: 64 << 20})
	if os.Geteuid() != 0 {
		limited(t) // who may not mount has the size of a file limited: making a segment fails in the same place
	}
	fill := func() (appended int) {
		for quiet := 0; quiet < 300; {
			if _, ok := j.Append(click(1)); ok {
				appended++
				quiet = 0
			} else {
				quiet++
				time.Sleep(time.Millisecond)
			}
		}
		return appended
	}
	n := fill()
	require.Positive(t, n)
	require.Positive(t, j.Stats().Dropped)
	require.Positive(t, j.Stats().Failures)
	if os.Geteuid() == 0 {
		require.NoError(t, os.Remove(ballast))
		more := 0
		require.Eventually(t, func() bool { more += fill(); return more > 100 }, time.Minute, 10*time.Millisecond,
			"when there is room again, appending goes on by itself")
		n += more
	}
	r := j.Live().Reader()
	got, err := drain(t, r)
	require.ErrorIs(t, err, ErrNothing)
	require.Len(t, got, n)
	r.Close()
	m, err := j.Live().Mark()
	require.NoError(t, err)
	require.Equal(t, j.Stats().Dropped, m.Dropped.Count)
}

// limited bounds the size of a file for this process while the test runs.
func limited(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(unix.SIGXFSZ) })
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100 << 10, Max: before.Max}))
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_FSIZE, &before) })
}

// A file that is cut while it is mapped raises a SIGBUS, as a bad sector does. It must cost the events, not the process.
func TestASegmentThatIsCutUnderTheJournal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, SegmentBytes: 64 << 10, MaxBytes: 1 << 20, SyncInterval: -1})
	require.Eventually(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return len(j.live.ready) == ahead }, time.Minute, time.Millisecond)
	for i := 1; i <= 100; i++ {
		_, ok := j.Append(click(i))
		require.True(t, ok)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(segments[0], recordsStart+4096)) // some of the 100 are in the page that stays
	_, ok := j.Append(click(101))
	for i := 102; !ok && i < 2000; i++ {
		_, ok = j.Append(click(i)) // one is dropped for each page that is gone, or the next segment is taken at once
	}
	require.True(t, ok, "appending goes on in another segment")
	last := j.Live().Last()
	r := j.Live().Reader()
	got, err := drain(t, r)
	require.ErrorIs(t, err, ErrNothing)
	r.Close()
	m, err := j.Live().Mark()
	require.NoError(t, err)
	require.Positive(t, m.Dropped.Count)
	require.Len(t, m.Unreadable, 1)
	require.Greater(t, len(got), 20)
	require.Contains(t, got, last)
	lost := m.Unreadable[0].Last - m.Unreadable[0].First + 1
	require.Equal(t, last, uint64(len(got))+lost, "what cannot be read is reported, exactly")
}

func TestAFileThatIsNotOursIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("hello"), 0o600))
	j := open(t, Options{Dir: dir})
	require.NoError(t, j.Close())
	b, err := os.ReadFile(filepath.Join(dir, "notes.txt"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

func TestADirectoryThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(Options{Dir: filepath.Join(file, "journal")})
	require.ErrorContains(t, err, "make journal directory")
	require.False(t, errors.Is(err, io.EOF))
	require.NotContains(t, strings.TrimSpace(err.Error()), "\n", "errors are one line")
}
