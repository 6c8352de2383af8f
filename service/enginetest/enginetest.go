// Package enginetest gives tests the real engines: it runs `bin/spillway engine …` (`make build`) on temporary directories.
//
// Each engine is started at most once in a test process, on first use, and ends with it: the engine's standard input is a pipe
// whose other end the test process holds, so not even a killed or timed-out test leaves one behind. The engine removes its
// directory when it ends. Databases are fresh for every call; Kafka's topics are shared, so tests choose unique names (Topic).
package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"spillway.dev/service/spillwaytest"
)

// startPatience bounds how long an engine may take to serve. Machines that run many tests at once are slow.
const startPatience = 90 * time.Second

// engine is one engine of this test process.
type engine struct {
	kind string
	once sync.Once
	url  string
	err  error
	// stdin keeps the engine alive: collected, it would be closed and the engine would end.
	stdin io.Closer
}

// There is one test process and one engine of a kind in it, so these are the package's own.
var (
	clickHouse = &engine{kind: "clickhouse"}
	postgres   = &engine{kind: "postgres"}
	kafka      = &engine{kind: "kafka"}
)

// ClickHouse returns the URL of a new, empty database, http://HOST:PORT/DATABASE.
func ClickHouse(t testing.TB) string {
	t.Helper()
	base, err := url.Parse(clickHouse.start(t))
	if err != nil {
		t.Fatalf("enginetest: ClickHouse's address: %v", err)
	}
	name := Name()
	base.Path = "/"
	response, err := http.Post(base.String(), "text/plain", strings.NewReader("CREATE DATABASE "+name))
	if err != nil {
		t.Fatalf("enginetest: make a ClickHouse database: %v", err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Fatalf("enginetest: make a ClickHouse database: %s", body)
	}
	base.Path = "/" + name
	return base.String()
}

// Postgres returns the URL of a new, empty database, postgres://USER@HOST:PORT/DATABASE.
func Postgres(t testing.TB) string {
	t.Helper()
	address := postgres.start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Fatalf("enginetest: open PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	name := Name()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("enginetest: make a PostgreSQL database: %v", err)
	}
	base, err := url.Parse(address)
	if err != nil {
		t.Fatalf("enginetest: PostgreSQL's address: %v", err)
	}
	base.Path = "/" + name
	return base.String()
}

// Kafka returns the addresses of a broker that all of the process's tests share.
func Kafka(t testing.TB) []string {
	t.Helper()
	return strings.Split(kafka.start(t), ",")
}

// Name returns a name that no other test has: for a topic, a group, a database.
func Name() string { return "test_" + strings.ToLower(rand.Text()[:12]) }

// start starts the engine on first use and returns its address.
func (e *engine) start(t testing.TB) string {
	t.Helper()
	e.once.Do(func() { e.url, e.err = e.run() })
	if e.err != nil {
		t.Fatalf("enginetest: %s: %v", e.kind, e.err)
	}
	return e.url
}

func (e *engine) run() (address string, err error) {
	program, err := spillwaytest.Program()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "spillway-"+e.kind+"-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	cmd := exec.Command(program, "engine", e.kind, "--data", dir, "--listen", "127.0.0.1:0", "--with-parent", "--throw-away")
	// Ctrl-C reaches the tests only; the engine follows when they end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr := &tail{}
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", program, err)
	}
	e.stdin = stdin
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		address, ok := strings.CutPrefix(line, "ready ")
		if ok {
			return address, nil
		}
		_ = stdin.Close()
		return "", fmt.Errorf("the engine ended before it was ready: %w: %s", errors.Join(cmd.Wait()), stderr)
	case <-time.After(startPatience):
		_ = cmd.Process.Kill()
		return "", fmt.Errorf("the engine is not ready after %v: %s", startPatience, stderr)
	}
}

// tail keeps the end of what an engine says on standard error.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if excess := w.buf.Len() - 4096; excess > 0 {
		w.buf.Next(excess)
	}
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(w.buf.String())
}
