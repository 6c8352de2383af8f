package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func good() verdict {
	now := time.Now()
	return verdict{Answered: 10, Stored: 10, Open: 2, Last: now, Audit: audit{Clean: true, CompleteThrough: &now}}
}

// The oracle must be able to say no to each single thing that can be wrong.
func TestTheOracleSaysWhatIsWrong(t *testing.T) {
	require.Empty(t, good().wrong(None))
	early := time.Now().Add(-time.Hour)
	for says, spoil := range map[string]func(*verdict){
		"1 answered visits are not":     func(v *verdict) { v.Stored, v.Lost = 9, 1 },
		"the audit misses 3":            func(v *verdict) { v.Audit.Missing = 3 },
		"4 were dropped":                func(v *verdict) { v.Audit.Dropped = 4 },
		"in the table twice":            func(v *verdict) { v.Doubled = 1 },
		"visits that nobody made":       func(v *verdict) { v.Alien = 1 },
		"the audit finds 1 doubled":     func(v *verdict) { v.Audit.Doubled = 1 },
		"1 numbers in PostgreSQL":       func(v *verdict) { v.Differs = 1 },
		"1 counters that differ":        func(v *verdict) { v.Audit.CountersOff = 1 },
		"did not exit with 0":           func(v *verdict) { v.Audit.Clean = false },
		"complete_through is <nil>":     func(v *verdict) { v.Audit.CompleteThrough = nil },
		"before the last answered visi": func(v *verdict) { v.Audit.CompleteThrough = &early },
	} {
		v := good()
		spoil(&v)
		require.Contains(t, strings.Join(v.wrong(None), "; "), says)
	}
}

// What was destroyed must be named: not fewer than are lost, and not more than can have been.
func TestLossesAreNamed(t *testing.T) {
	lost := func(lost, missing, dropped int) verdict {
		v := good()
		v.Lost, v.Stored = lost, v.Answered-lost
		v.Audit.Missing, v.Audit.Dropped, v.Audit.Clean = missing, dropped, false
		return v
	}
	require.Empty(t, lost(5, 5, 0).wrong(Named))
	require.Empty(t, lost(5, 2, 3).wrong(Named))
	require.Empty(t, lost(5, 7, 0).wrong(Named), "two visits without an answer may have been destroyed too")
	require.NotEmpty(t, lost(5, 8, 0).wrong(Named))
	require.NotEmpty(t, lost(5, 4, 0).wrong(Named))
	require.Empty(t, lost(5, 4, 0).wrong(Unseen))
	require.NotEmpty(t, lost(5, 8, 0).wrong(Unseen))
	require.NotEmpty(t, lost(5, 5, 0).wrong(None))

	v := lost(5, 5, 0)
	v.Doubled = 1
	require.NotEmpty(t, v.wrong(Named), "nothing excuses a double")
}

func TestEveryFaultIsComplete(t *testing.T) {
	names := map[string]bool{}
	for _, f := range everyFault(3*time.Second, 3) {
		require.False(t, names[f.Name], "two faults are called %s", f.Name)
		names[f.Name] = true
		require.NotEmpty(t, f.Does, f.Name)
		require.NotEmpty(t, f.Touches, f.Name)
		require.NotNil(t, f.strike, f.Name)
		require.False(t, f.Random && (f.on != shared || f.Loss != None), "%s leaves a trace, so it cannot strike at random", f.Name)
	}
	for _, one := range []string{
		"kill -9 redirector-1", "zombie ingest", "SIGTERM broker", "broker away", "slow broker", "broker back without its last records",
		"500 after the commit", "insert cut before the commit", "insert cut after the commit", "PostgreSQL's connections killed",
		"disk full under a journal", "torn journal tail, cut", "corrupt journal segment", "missing journal segment",
		"poison and oversized records", "rolling restart", "rebalance storm",
	} {
		require.True(t, names[one], one)
	}
}

func TestTheReportSaysWhatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reliability.md")
	c := &Chaos{config: Config{Report: path, Rate: 400, Seed: 7}, out: &strings.Builder{}, began: time.Now(), random: []string{"1.0 s: broker away for 2.0 s"}}
	c.add(row{section: "Processes", fault: "kill -9 | all", does: "Now.", moment: "begin", expected: "once", observed: "once"})
	c.add(row{section: "Processes", fault: "kill -9 | all", does: "Now.", moment: "end", expected: "once", observed: "twice", wrong: []string{"2 visits are in the table twice"}})
	require.NoError(t, c.report())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "**1 cases as expected, 1 not.**")
	require.Contains(t, string(text), `| **kill -9 \| all**: Now. | begin | once | once | ✓ |`)
	require.Contains(t, string(text), "| ″ | end | ″ | twice | **✗** 2 visits are in the table twice |")
	require.Contains(t, string(text), "broker away for 2.0 s")
	require.NotContains(t, string(text), "before its time")
	c.unfinished = true
	require.NoError(t, c.report())
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "before its time")
}
