package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func starter(t *testing.T) *Starter {
	s, err := NewStarter(filepath.Join(t.TempDir(), "logs"))
	require.NoError(t, err)
	return s
}

func alive(id int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(id) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestAKilledProcessTakesItsChildrenAlong(t *testing.T) {
	p, err := starter(t).Start(t.Context(), Spec{Name: "parent", Path: "/bin/sh", Args: []string{"-c", "sleep 60 & echo ready $!; wait"}, Ready: "ready "})
	require.NoError(t, err)
	child, err := strconv.Atoi(p.Line())
	require.NoError(t, err)
	require.True(t, alive(child))
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.NoError(t, p.Signal(syscall.SIGCONT))
	require.True(t, p.Running())
	p.Kill()
	require.False(t, p.Running())
	require.Eventually(t, func() bool { return !alive(child) }, 2*time.Second, time.Millisecond)

	require.NoError(t, p.Again(t.Context(), []string{"-c", "echo ready again; cat"}))
	require.Equal(t, "again", p.Line())
	require.ErrorContains(t, p.Again(t.Context(), nil), "still runs")
	p.Kill()
}

func TestStopSaysHowItEnded(t *testing.T) {
	s := starter(t)
	p, err := s.Start(t.Context(), Spec{Name: "polite", Path: "/bin/sh", Args: []string{"-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done"}, Ready: "ready"})
	require.NoError(t, err)
	require.NoError(t, p.Stop(5*time.Second))
	p, err = s.Start(t.Context(), Spec{Name: "stubborn", Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"}, Ready: "ready"})
	require.NoError(t, err)
	require.ErrorContains(t, p.Stop(50*time.Millisecond), "still ran")
	require.False(t, p.Running())
}

func TestAFailedStartSaysWhatTheProgramSaid(t *testing.T) {
	s := starter(t)
	_, err := s.Start(t.Context(), Spec{Name: "broken", Path: "/bin/sh", Args: []string{"-c", "echo no such disk >&2; exit 1"}, Ready: "ready"})
	require.ErrorContains(t, err, "no such disk")
	_, err = s.Start(t.Context(), Spec{Name: "slow", Path: "/bin/sh", Args: []string{"-c", "sleep 60"}, Ready: "ready", Patience: 50 * time.Millisecond})
	require.ErrorContains(t, err, "not ready after")
}
