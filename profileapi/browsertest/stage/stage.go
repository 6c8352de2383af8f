// Package stage runs everything as anyone would, `spillway run`, for a browser to look at: on ports and in a directory of its own.
package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long the start, or anything that is waited for, may take. Machines are slow sometimes.
const patience = 90 * time.Second

// Stage is a running Spillway.
type Stage struct {
	Visitors, API string // base URLs
	Token         string // of the operator
	ClickHouse    string // base URL of the engine's HTTP interface, with its database

	command *exec.Cmd
	exited  chan struct{}
	output  *output
	dir     string
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Start starts program (bin/spillway) in a directory of its own, and waits until it serves. variables are added to its environment.
func Start(program string, variables ...string) (s *Stage, err error) {
	// A port that was free when it was chosen may be somebody else's a moment later.
	for range 5 {
		if s, err = start(program, variables); err == nil || !strings.Contains(err.Error(), "is taken") {
			break
		}
	}
	return s, err
}

func start(program string, variables []string) (*Stage, error) {
	dir, err := os.MkdirTemp("", "spillway-stage-")
	if err != nil {
		return nil, err
	}
	// PostgreSQL runs as another user where this is root, and has to get there.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	ports := map[string]int{}
	var held []net.Listener
	for _, name := range []string{"VISITORS", "API", "ADMIN", "KAFKA", "CLICKHOUSE", "POSTGRES"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		ports[name] = l.Addr().(*net.TCPAddr).Port
		held = append(held, l)
	}
	for _, l := range held {
		l.Close() // after all are chosen, so that they differ
	}
	env := []string{"SPILLWAY_DATA=" + filepath.Join(dir, "data")}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "SPILLWAY_") && name != "SPILLWAY_ENGINES" || name == "KAFKA_BROKERS" || name == "CLICKHOUSE_URL" || name == "DATABASE_URL" {
			continue
		}
		env = append(env, v)
	}
	for name, port := range ports {
		env = append(env, fmt.Sprintf("SPILLWAY_%s_LISTEN=127.0.0.1:%d", name, port))
	}
	s := &Stage{
		Visitors: fmt.Sprintf("http://127.0.0.1:%d", ports["VISITORS"]), API: fmt.Sprintf("http://127.0.0.1:%d", ports["API"]),
		ClickHouse: fmt.Sprintf("http://127.0.0.1:%d/?database=spillway", ports["CLICKHOUSE"]), output: &output{}, exited: make(chan struct{}), dir: dir,
	}
	env = append(env, "SPILLWAY_PUBLIC_URL="+s.Visitors)
	s.command = exec.Command(program, "run")
	s.command.Env = append(env, variables...)
	s.command.Stdout, s.command.Stderr = s.output, s.output
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return s, s.start(fmt.Sprintf("http://127.0.0.1:%d/readyz", ports["ADMIN"]), filepath.Join(dir, "data", "admin-token"))
}

func (s *Stage) start(ready, token string) error {
	if err := s.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w: run 'make build' first", s.command.Path, err)
	}
	go func() { _ = s.command.Wait(); close(s.exited) }()
	var ended error
	err := Eventually(func() error {
		select {
		case <-s.exited:
			ended = errors.New("spillway ended: " + s.output.String())
			return nil
		default:
		}
		answer, err := http.Get(ready)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", answer.Status)
		}
		return nil
	})
	if ended != nil {
		_ = os.RemoveAll(s.dir)
		return ended
	}
	if err == nil {
		var b []byte
		if b, err = os.ReadFile(token); err == nil {
			s.Token = strings.TrimSpace(string(b))
			return nil
		}
	}
	s.Stop()
	return err
}

// Stop ends everything, as Ctrl-C does, and takes it away.
func (s *Stage) Stop() {
	defer os.RemoveAll(s.dir)
	_ = s.command.Process.Signal(syscall.SIGINT)
	select {
	case <-s.exited:
	case <-time.After(40 * time.Second):
		_ = s.command.Process.Kill()
		<-s.exited
	}
}

// Output is what the program has written.
func (s *Stage) Output() string { return s.output.String() }

// Eventually calls try until it returns nil, for as long as patience lasts.
func Eventually(try func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Call makes a request of the API with the operator's token and decodes its answer.
func (s *Stage) Call(method, path string, body, answer any) error {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, s.API+path, reader)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+s.Token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, b)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// Visit makes a visitor's request, as a browser with that user agent, referrer and address.
func (s *Stage) Visit(path, agent, referrer, address string) error {
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.Visitors+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Accept-Language", "en-GB,en;q=0.9")
	if referrer != "" {
		request.Header.Set("Referer", referrer)
	}
	if address != "" {
		request.Header.Set("X-Forwarded-For", address)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode >= 400 {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return err
}

// Query runs a statement on ClickHouse.
func (s *Stage) Query(statement string) error {
	response, err := http.Post(s.ClickHouse, "text/plain", strings.NewReader(statement))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if b, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, b)
	}
	return nil
}
