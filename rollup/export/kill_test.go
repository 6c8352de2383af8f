package export

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// program is bin/spillway, as `make build` makes it.
func program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SPILLWAY_BIN")
	if path == "" {
		var err error
		path, err = filepath.Abs("../../bin/spillway")
		require.NoError(t, err)
	}
	require.FileExists(t, path, "run 'make build'")
	return path
}

// command is `spillway export` to a place, as a process of its own that ends with the test.
func (f *tables) command(t testing.TB, to string, arguments ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(program(t), append([]string{"export", "--data", t.TempDir(), "--to", to}, arguments...)...)
	c.Env = append(os.Environ(), "CLICKHOUSE_URL="+f.addresses.ClickHouse)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// The program itself is killed with SIGKILL at random moments, while events come, holes fill and days are closed. Then one run that is left
// alone publishes what one publishes that was never disturbed, and nothing that a dead run left is listed or stays.
func TestProgramKilledAtRandomMoments(t *testing.T) {
	const kills = 10
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	f := newTables(t)
	root := t.TempDir()
	next := uint64(1)
	var holes [][2]uint64
	grow := func() {
		for partition := range uint32(3) {
			f.insert(streamA, partition, next, next+299, day0)
		}
		holes = append(holes, [2]uint64{next, next + uint64(random.IntN(100))})
		f.insert(streamB, 1, holes[len(holes)-1][1]+1, next+299, day0)
		if random.IntN(2) == 0 {
			i := random.IntN(len(holes))
			f.insert(streamB, 1, holes[i][0], holes[i][1], day0)
			holes = slices.Delete(holes, i, i+1)
		}
		f.exec(fmt.Sprintf("INSERT INTO closed_days VALUES ('2025-11-18', 60, '2025-11-20 01:02:03' + INTERVAL %d SECOND)", next))
		next += 300
	}
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number, '', '', 'view', 'person', 0, 'page', toDateTime('2025-11-18 00:15:00', 'UTC'), 2, 0 FROM numbers(30)")
	small := []string{"--cut-events", "750", "--hold", "0"}
	run := func(to string, arguments ...string) time.Duration {
		t.Helper()
		began := time.Now()
		output, err := f.command(t, to, arguments...).CombinedOutput()
		require.NoError(t, err, "%s", output)
		return time.Since(began)
	}
	grow()
	usual := run(t.TempDir(), small...) // what one run over one helping takes, on this machine and now

	struck := 0
	for range kills {
		grow()
		c := f.command(t, root, small...)
		var output bytes.Buffer
		c.Stdout, c.Stderr = &output, &output
		require.NoError(t, c.Start())
		time.Sleep(time.Duration(random.Int64N(int64(usual))))
		require.NoError(t, c.Process.Kill())
		if err := c.Wait(); err != nil {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.True(t, exit.Sys().(syscall.WaitStatus).Signaled(), "it ended by itself: %v: %s", err, output.String())
			struck++
		}
	}
	require.Greater(t, struck, kills/4, "kills that met a run")
	grow()
	for _, h := range holes {
		f.insert(streamB, 1, h[0], h[1], day0)
	}
	run(root, small...)

	calm := t.TempDir()
	run(calm)
	rows := publishedRows(t, openStore(t, root), "events")
	sameRows(t, f.wantEvents(""), rows)
	sameRows(t, publishedRows(t, openStore(t, calm), "events"), rows)
	onlyListed(t, openStore(t, root))
	newest := func(place string) (version string) {
		for _, m := range published(t, openStore(t, place)) {
			for _, d := range m.Days {
				version = d.ClosedAt.String()
			}
		}
		return version
	}
	require.Equal(t, newest(calm), newest(root), "the newest version of the day was published")
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.Zero(t, report.Unpublished)
	require.Zero(t, report.Unlisted)
	t.Logf("%d of %d kills met a run of some %s; %d events in %d cuts", struck, kills, usual.Round(time.Millisecond), len(rows), report.Cuts)
}
