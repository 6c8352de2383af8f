// Package spillwaytest runs bin/spillway (`make build`) as anyone would, for tests and for programs that look at the whole from outside:
// in a directory and on ports of its own, away from the engines of whoever works on this machine.
package spillwaytest

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

// Patience is how long the start, or anything that is waited for, may take before it is said that it will never happen. Machines are
// slow sometimes, and how fast things are is measured elsewhere.
const Patience = 90 * time.Second

// Program finds bin/spillway: SPILLWAY_BIN, or that of the repository around the working directory.
func Program() (string, error) {
	if path := os.Getenv("SPILLWAY_BIN"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("SPILLWAY_BIN names %s, which is not there: run 'make build'", path)
		}
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("look for bin/spillway: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			path := filepath.Join(dir, "bin", "spillway")
			if _, err := os.Stat(path); err != nil {
				return "", fmt.Errorf("%s is not there: run 'make build'", path)
			}
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.work above the working directory: run this inside the repository, or set SPILLWAY_BIN")
		}
		dir = filepath.Dir(dir)
	}
}

// Environment is this process's without what would point Spillway at engines elsewhere, and with more.
func Environment(more ...string) []string {
	var all []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "SPILLWAY_") && name != "SPILLWAY_ENGINES" || name == "KAFKA_BROKERS" || name == "CLICKHOUSE_URL" || name == "DATABASE_URL" {
			continue
		}
		all = append(all, v)
	}
	return append(all, more...)
}

// Output keeps what a program writes. Several goroutines may use it.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// The listeners of a standalone, as its SPILLWAY_…_LISTEN variables name them.
const (
	Visitors   = "VISITORS"
	API        = "API"
	Admin      = "ADMIN"
	Kafka      = "KAFKA"
	ClickHouse = "CLICKHOUSE"
	Postgres   = "POSTGRES"
)

// Spillway is a standalone, which may be started, ended and started again. Several goroutines may make requests of it at once.
type Spillway struct {
	// Data is its data directory. It need not exist.
	Data string
	// Ports are its listeners' on 127.0.0.1.
	Ports map[string]int
	// More are variables beside those that this makes; the last of the same name wins.
	More []string
	// Token is the operator's, known once it has been started.
	Token string

	command *exec.Cmd
	exited  chan struct{}
	output  *Output
	visitor *http.Client
}

// New chooses ports for a standalone whose data directory is below dir. Where this is root, PostgreSQL runs as another user, who is let
// through dir.
func New(dir string) (*Spillway, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open the directory to PostgreSQL: %w", err)
	}
	s := &Spillway{Data: filepath.Join(dir, "data"), Ports: map[string]int{}, output: &Output{}, visitor: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: 16},
		Timeout:       10 * time.Second,
	}}
	for _, name := range []string{Visitors, API, Admin, Kafka, ClickHouse, Postgres} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("choose a port: %w", err)
		}
		defer l.Close() // after all are chosen, so that they differ
		s.Ports[name] = l.Addr().(*net.TCPAddr).Port
	}
	return s, nil
}

// URL is the address of a path at a listener.
func (s *Spillway) URL(listener, path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", s.Ports[listener], path)
}

// Command is `spillway args…` for this standalone, not yet started.
func (s *Spillway) Command(args ...string) (*exec.Cmd, error) {
	program, err := Program()
	if err != nil {
		return nil, err
	}
	own := []string{"SPILLWAY_DATA=" + s.Data}
	for name, port := range s.Ports {
		own = append(own, fmt.Sprintf("SPILLWAY_%s_LISTEN=127.0.0.1:%d", name, port))
	}
	c := exec.Command(program, args...)
	c.Env = append(Environment(own...), s.More...)
	return c, nil
}

// Start starts it, as often as it has ended, and waits until it is ready. What an error leaves behind, Kill ends.
func (s *Spillway) Start() error {
	c, err := s.Command("run")
	if err != nil {
		return err
	}
	s.output = &Output{}
	c.Stdout, c.Stderr = s.output, s.output
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches only whoever has started this
	if err := c.Start(); err != nil {
		return fmt.Errorf("start spillway: %w", err)
	}
	exited := make(chan struct{})
	s.command, s.exited = c, exited
	go func() { _ = c.Wait(); close(exited) }()
	var ended error
	err = Eventually(func() error {
		select {
		case <-exited:
			ended = errors.New("spillway ended: " + s.output.String())
			return nil
		default:
		}
		answer, err := http.Get(s.URL(Admin, "/readyz"))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", text)
		}
		return nil
	})
	if err = errors.Join(ended, err); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.Data, "admin-token"))
	if err != nil {
		return fmt.Errorf("read the operator's token: %w", err)
	}
	s.Token = strings.TrimSpace(string(token))
	return nil
}

// Output is what it has written since it was started last, on standard output and standard error.
func (s *Spillway) Output() string { return s.output.String() }

// ID is its main process's.
func (s *Spillway) ID() int { return s.command.Process.Pid }

// Kill ends the main process as kill -9 does; its children must follow by themselves. Nothing happens if it does not run.
func (s *Spillway) Kill() {
	if s.command != nil {
		_ = s.command.Process.Kill()
		<-s.exited
	}
}

// Interrupt is what Ctrl-C does; it returns the exit status. What does not end is killed, which is an error.
func (s *Spillway) Interrupt() (int, error) {
	if err := s.command.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, fmt.Errorf("interrupt spillway: %w", err)
	}
	select {
	case <-s.exited:
		return s.command.ProcessState.ExitCode(), nil
	case <-time.After(Patience):
		s.Kill()
		return 0, fmt.Errorf("spillway still ran %s after Ctrl-C: %s", Patience, s.Output())
	}
}

// Eventually calls try until it returns nil, for as long as Patience lasts, and returns what it said last.
func Eventually(try func() error) error {
	deadline := time.Now().Add(Patience)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Ask makes a request of the API with the operator's token, and returns the answer's status and text. body nil: there is none.
func (s *Spillway) Ask(method, path string, body any) (status int, text []byte, err error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, s.URL(API, path), reader)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+s.Token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

// Call asks the API and decodes its answer into answer, if that is not nil. A refusal is an error.
func (s *Spillway) Call(method, path string, body, answer any) error {
	status, text, err := s.Ask(method, path, body)
	switch {
	case err != nil:
		return err
	case status >= 300:
		return fmt.Errorf("%s %s: %d: %s", method, path, status, text)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: %w: %s", method, path, err, text)
	}
	return nil
}

// Answer is what a visitor got.
type Answer struct {
	Status int
	Header http.Header
}

// Visit makes a visitor's request with these header fields. Redirects are not followed.
func (s *Spillway) Visit(method, path string, header http.Header) (*Answer, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, s.URL(Visitors, path), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	answer, err := s.visitor.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return nil, err
	}
	return &Answer{answer.StatusCode, answer.Header}, nil
}
