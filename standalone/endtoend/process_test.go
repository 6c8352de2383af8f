// Package endtoend runs bin/spillway as anyone would and looks at it from outside: over HTTP, over the engines' own protocols,
// by its exit status, and by what it leaves running.
package endtoend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long anything may take here before a test says that it will never happen. Machines are slow sometimes, and
// how fast things are is measured elsewhere.
const patience = 60 * time.Second

type standalone struct {
	t       *testing.T
	data    string
	ports   map[string]int
	command *exec.Cmd
	exited  chan struct{}
	output  *lockedBuffer
	token   string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func binary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("SPILLWAY_BIN"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../bin/spillway")
	require.NoError(t, err)
	require.FileExists(t, path, "run make build first")
	return path
}

// environment is this process's without what would point Spillway at engines elsewhere.
func environment(extra ...string) []string {
	var all []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "SPILLWAY_") && name != "SPILLWAY_ENGINES" || name == "KAFKA_BROKERS" || name == "CLICKHOUSE_URL" || name == "DATABASE_URL" {
			continue
		}
		all = append(all, v)
	}
	return append(all, extra...)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newStandalone chooses ports and a data directory; start starts it, as often as a test likes.
func newStandalone(t *testing.T) *standalone {
	t.Helper()
	temporary := t.TempDir()
	// Under root PostgreSQL runs as another user, who must be able to pass through.
	require.NoError(t, os.Chmod(filepath.Dir(temporary), 0o755))
	s := &standalone{t: t, data: filepath.Join(temporary, "data"), ports: map[string]int{}}
	for _, name := range []string{"VISITORS", "API", "ADMIN", "KAFKA", "CLICKHOUSE", "POSTGRES"} {
		s.ports[name] = freePort(t)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && s.output != nil {
			t.Logf("the standalone's output:\n%s", s.output.String())
		}
	})
	return s
}

func (s *standalone) environment() []string {
	extra := []string{"SPILLWAY_DATA=" + s.data}
	for name, port := range s.ports {
		extra = append(extra, fmt.Sprintf("SPILLWAY_%s_LISTEN=127.0.0.1:%d", name, port))
	}
	return environment(extra...)
}

func (s *standalone) start() {
	s.t.Helper()
	s.output = &lockedBuffer{}
	s.command = exec.Command(binary(s.t), "run")
	s.command.Env = s.environment()
	s.command.Stdout, s.command.Stderr = s.output, s.output
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(s.t, s.command.Start())
	s.exited = make(chan struct{})
	go func(c *exec.Cmd, exited chan struct{}) { _ = c.Wait(); close(exited) }(s.command, s.exited)
	s.eventually("the standalone is ready", func() error {
		select {
		case <-s.exited:
			s.t.Fatalf("the standalone ended:\n%s", s.output.String())
		default:
		}
		response, err := http.Get(s.url("ADMIN", "/readyz"))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})
	token, err := os.ReadFile(filepath.Join(s.data, "admin-token"))
	require.NoError(s.t, err)
	s.token = strings.TrimSpace(string(token))
}

// kill ends the main process as kill -9 does; its children must follow by themselves.
func (s *standalone) kill() {
	if s.command == nil || s.command.Process == nil {
		return
	}
	_ = s.command.Process.Kill()
	<-s.exited
}

// interrupt is what Ctrl-C does; it returns the exit status.
func (s *standalone) interrupt() int {
	s.t.Helper()
	require.NoError(s.t, s.command.Process.Signal(syscall.SIGINT))
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatalf("still running after Ctrl-C:\n%s", s.output.String())
	}
	return s.command.ProcessState.ExitCode()
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
			if parents[at] == s.command.Process.Pid {
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

func (s *standalone) url(name, path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", s.ports[name], path)
}

func (s *standalone) eventually(what string, try func() error) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// api sends a request with the admin's token and decodes the answer.
func (s *standalone) api(method, path string, body, answer any, status int) {
	s.t.Helper()
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		require.NoError(s.t, err)
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, s.url("API", path), reader)
	require.NoError(s.t, err)
	request.Header.Set("Authorization", "Bearer "+s.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, status, response.StatusCode, "%s %s: %s", method, path, text)
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

// visitor is a client that does not follow redirects.
var visitor = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 16},
	Timeout:       10 * time.Second,
}

func (s *standalone) visit(path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url("VISITORS", path), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", browser)
	response, err := visitor.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response, err
}
