// Package endtoend runs bin/spillway as anyone would and looks at it from outside: over HTTP, over the engines' own protocols,
// by its exit status, and by what it leaves running.
package endtoend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/service/spillwaytest"
)

// standalone is one for a test, which ends with it.
type standalone struct {
	*spillwaytest.Spillway
	t *testing.T
}

// newStandalone chooses ports and a data directory; start starts it, as often as a test likes.
func newStandalone(t *testing.T) *standalone {
	t.Helper()
	temporary := t.TempDir()
	// PostgreSQL's user must be able to pass through the test's directory, too.
	require.NoError(t, os.Chmod(filepath.Dir(temporary), 0o755))
	whole, err := spillwaytest.New(temporary)
	require.NoError(t, err)
	t.Cleanup(func() {
		whole.Kill()
		if t.Failed() {
			t.Logf("the standalone's output:\n%s", whole.Output())
		}
	})
	return &standalone{whole, t}
}

func (s *standalone) start() {
	s.t.Helper()
	require.NoError(s.t, s.Start())
}

// interrupt is what Ctrl-C does; it returns the exit status.
func (s *standalone) interrupt() int {
	s.t.Helper()
	status, err := s.Interrupt()
	require.NoError(s.t, err)
	return status
}

// command is `spillway args…` beside the standalone.
func (s *standalone) command(args ...string) *exec.Cmd {
	s.t.Helper()
	c, err := s.Command(args...)
	require.NoError(s.t, err)
	return c
}

// children are the processes below the main one, by id.
func (s *standalone) children() []int {
	s.t.Helper()
	parents := map[int]int{}
	entries, err := os.ReadDir("/proc")
	require.NoError(s.t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[0] == "Z" {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	var below []int
	for pid := range parents {
		for at := pid; at > 1; at = parents[at] {
			if parents[at] == s.ID() {
				below = append(below, pid)
				break
			}
		}
	}
	return below
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func (s *standalone) eventually(what string, try func() error) {
	s.t.Helper()
	require.NoError(s.t, spillwaytest.Eventually(try), what)
}

// api sends a request with the admin's token and decodes the answer.
func (s *standalone) api(method, path string, body, answer any, status int) {
	s.t.Helper()
	got, text, err := s.Ask(method, path, body)
	require.NoError(s.t, err)
	require.Equal(s.t, status, got, "%s %s: %s", method, path, text)
	if answer != nil {
		require.NoError(s.t, json.Unmarshal(text, answer), "%s", text)
	}
}

type profile struct {
	ID     string `json:"id"`
	Handle string `json:"handle"`
	Title  string `json:"title"`
}

type link struct {
	ID   string `json:"id"`
	Code string `json:"code"`
	URL  string `json:"url"`
	// Tracked is where visitors find it.
	Tracked string `json:"tracked_url"`
}

type insights struct {
	Lifetime struct {
		Views          int64    `json:"views"`
		Clicks         int64    `json:"clicks"`
		CTR            *float64 `json:"ctr"`
		UniqueVisitors int64    `json:"unique_visitors"`
	} `json:"lifetime"`
	CompleteThrough *time.Time `json:"complete_through"`
	Links           []struct {
		ID     string `json:"id"`
		Clicks int64  `json:"clicks"`
	} `json:"links"`
	Series []struct {
		Time   time.Time `json:"time"`
		Views  int64     `json:"views"`
		Clicks int64     `json:"clicks"`
	} `json:"series"`
}

func (s *standalone) insights(p profile) insights {
	s.t.Helper()
	var i insights
	s.api("GET", "/v1/profiles/"+p.ID+"/insights", nil, &i, http.StatusOK)
	return i
}

const browser = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"

func (s *standalone) visit(method, path string) (*spillwaytest.Answer, error) {
	return s.Visit(method, path, http.Header{"User-Agent": {browser}})
}
