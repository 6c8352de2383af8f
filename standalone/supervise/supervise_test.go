package supervise_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/standalone/supervise"
)

// The test binary is the child, too: what it does is in this variable.
const role = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "serve": // ready, until its input ends
		fmt.Println("ready 127.0.0.1:1")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "die":
		fmt.Println("ready 127.0.0.1:1")
		fmt.Fprintln(os.Stderr, "spillway: the disk is on fire: call somebody")
		os.Exit(1)
	case "refuse":
		fmt.Fprintln(os.Stderr, "spillway: port 1 is taken: choose another")
		os.Exit(1)
	case "deaf": // ready, deaf to SIGTERM, and to the end of its input
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready 127.0.0.1:1")
		time.Sleep(time.Minute)
	case "parent": // starts a deaf child, says its number, and waits to be killed
		child, err := supervise.Start(command("deaf"))
		if err != nil {
			panic(err)
		}
		fmt.Println(child.Pid())
		time.Sleep(time.Minute)
	}
}

func command(what string) supervise.Command {
	return supervise.Command{Path: os.Args[0], Env: append(os.Environ(), role+"="+what)}
}

func spec(what string) supervise.Spec {
	return supervise.Spec{Name: "child", Command: func(string) supervise.Command { return command(what) }, StopPatience: 300 * time.Millisecond}
}

var quiet = slog.New(slog.DiscardHandler)

func alive(pid int) bool {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(status), ") Z ")
}

func TestAChildThatIsKilledIsStartedAgain(t *testing.T) {
	var restarts atomic.Int32
	s := spec("serve")
	s.Restarted = func() { restarts.Add(1) }
	keeper, err := supervise.Keep(t.Context(), s, quiet)
	require.NoError(t, err)
	first := keeper.Pid()
	require.Equal(t, "127.0.0.1:1", keeper.Address())
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	require.Eventually(t, func() bool { return restarts.Load() == 1 && keeper.Pid() != first && alive(keeper.Pid()) }, time.Minute, 10*time.Millisecond)
	second := keeper.Pid()
	keeper.Stop(context.Background())
	require.False(t, alive(second))
	_, failed := <-keeper.Failed()
	require.False(t, failed, "a child that was stopped has not failed")
}

func TestAChildThatKeepsDyingIsGivenUpWithItsReason(t *testing.T) {
	s := spec("die")
	s.Quicks = 3
	keeper, err := supervise.Keep(t.Context(), s, quiet)
	require.NoError(t, err)
	select {
	case err := <-keeper.Failed():
		require.ErrorContains(t, err, "child died 3 times in a row")
		require.ErrorContains(t, err, "the disk is on fire: call somebody")
	case <-time.After(20 * time.Second):
		t.Fatal("the child is not given up")
	}
	keeper.Stop(context.Background())
}

func TestAFirstStartThatFailsSaysWhyInTheChildsWords(t *testing.T) {
	_, err := supervise.Keep(t.Context(), spec("refuse"), quiet)
	require.EqualError(t, err, "child did not start: port 1 is taken: choose another")
}

func TestADeafChildIsKilledWhenPatienceEnds(t *testing.T) {
	keeper, err := supervise.Keep(t.Context(), spec("deaf"), quiet)
	require.NoError(t, err)
	pid := keeper.Pid()
	began := time.Now()
	keeper.Stop(context.Background())
	require.False(t, alive(pid))
	require.Less(t, time.Since(began), 10*time.Second)
}

// A child that listens to nothing must still not outlive a parent that was killed.
func TestNoChildOutlivesAParentThatWasKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), role+"=parent")
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.True(t, alive(child))
	group, err := syscall.Getpgid(child)
	require.NoError(t, err)
	require.Equal(t, child, group, "the child is in a process group of its own: Ctrl-C reaches the parent only")
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	require.Eventually(t, func() bool { return !alive(child) }, time.Minute, 10*time.Millisecond)
}
