package measure

import (
	"math"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestUsedCountsOwnWorkAndChildren(t *testing.T) {
	before, err := Used(os.Getpid())
	require.NoError(t, err)
	child := exec.Command("sh", "-c", "while :; do :; done")
	require.NoError(t, child.Start())
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	require.Eventually(t, func() bool {
		after, err := Used(os.Getpid())
		require.NoError(t, err)
		ofChild, err := Used(child.Process.Pid)
		require.NoError(t, err)
		return ofChild.Total() >= 50*time.Millisecond && after.Minus(before).Total() >= ofChild.Total()/2
	}, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	_, err = Used(child.Process.Pid)
	require.ErrorContains(t, err, "has ended")
}

func TestParseStatOfAnyName(t *testing.T) {
	s, err := parseStat([]byte("7 (a) b) c) S 3 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0"))
	require.NoError(t, err)
	require.Equal(t, stat{parent: 3, cpu: CPU{2500 * time.Millisecond, 500 * time.Millisecond}}, s)
	_, err = parseStat([]byte("7 (x) S 3"))
	require.Error(t, err)
}

func TestResidentGrowsWithMemory(t *testing.T) {
	_, before, err := Resident(os.Getpid())
	require.NoError(t, err)
	b := make([]byte, 64<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	all, after, err := Resident(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, after-before, int64(32<<20))
	require.GreaterOrEqual(t, all, after)
	require.Equal(t, byte(1), b[4096])
}

func TestSeries(t *testing.T) {
	require.InDelta(t, 2, Series{3, 1, 2}.Median(), 0)
	require.InDelta(t, 2.5, Series{4, 1, 2, 3}.Median(), 0)
	require.True(t, math.IsNaN(Series{}.Median()))
	require.Equal(t, Series{0.5, 2}, Series{1, 4}.Over(Series{2, 2, 9}))
	require.Equal(t, "2.00 (1.00–3.00)", Series{3, 1, 2}.String())
	for v, text := range map[float64]string{0: "0", 0.0012: "0.0012", 0.5: "0.50", 12.34: "12.3", 7999: "7999", 123_456: "123 k", 12_345_678: "12.3 M"} {
		require.Equal(t, text, Number(v))
	}
}
