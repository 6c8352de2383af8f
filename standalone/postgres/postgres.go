// Package postgres runs a private PostgreSQL server on a directory: made on the first start, on one loopback port, stopped with
// its parent.
//
// Who can reach the port is trusted: it is bound to 127.0.0.1 only, like the embedded Kafka's and ClickHouse's, and the
// standalone is one user's. A deployment that is more than that sets DATABASE_URL.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"spillway.dev/standalone/port"
	"spillway.dev/standalone/supervise"
)

// Config says where the server's programs and data are.
type Config struct {
	// Programs is the directory with PostgreSQL's bin, lib and share.
	Programs string
	// Data is the directory for the cluster. It belongs to one process, which must hold it.
	Data string
	// Listen is the address to serve, 127.0.0.1:0 for any free port.
	Listen string
	// Database is created at the first start, and the role of the same name that owns it.
	Database string
	// User runs the server when this process is root, which PostgreSQL refuses to be. Empty: the owner of the cluster, else
	// postgres, else nobody.
	User string
	// Unsafe does not wait for the disk, only for the kernel: for data that may be lost with the machine.
	Unsafe bool
}

// Server is a running PostgreSQL.
type Server struct {
	child *supervise.Child
	url   string
}

// settings fit a machine that runs everything else too; the rest are PostgreSQL's own defaults. Commits wait for the disk.
var settings = []string{
	"max_connections=100", "shared_buffers=64MB", "maintenance_work_mem=32MB", "work_mem=4MB",
	"wal_buffers=4MB", "min_wal_size=64MB", "max_wal_size=512MB", "wal_level=replica", "max_wal_senders=0",
	"autovacuum_max_workers=2", "max_worker_processes=4", "max_parallel_workers=2", "jit=off", "recovery_init_sync_method=syncfs",
	"timezone=UTC", "log_timezone=UTC", "log_min_messages=warning", "log_line_prefix=%m [%p] ", "logging_collector=off",
	"listen_addresses=127.0.0.1",
}

// Start makes the cluster if need be, starts the server and waits until it answers. A port that is taken, another major version's
// cluster, a directory out of reach are errors of one line.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's address %q is not HOST:PORT: %w", cfg.Listen, err)
	}
	if host != "127.0.0.1" && host != "localhost" {
		return nil, fmt.Errorf("the embedded PostgreSQL has no passwords and serves 127.0.0.1 only, not %s: set DATABASE_URL to use another server", host)
	}
	a, err := cfg.account()
	if err != nil {
		return nil, err
	}
	c := &cluster{cfg: cfg, account: a, dir: filepath.Join(cfg.Data, "cluster"), log: log}
	if err := c.reachable(); err != nil {
		return nil, err
	}
	if err := c.make(ctx); err != nil {
		return nil, err
	}
	return c.start(ctx, port)
}

// URL is the address of the database, postgres://….
func (s *Server) URL() string { return s.url }

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.child.Done() }

// Reason says why it ended.
func (s *Server) Reason() string { return s.child.Reason() }

// Stop disconnects clients, writes a checkpoint and ends the server; after the bound it is stopped without.
func (s *Server) Stop(ctx context.Context) {
	s.child.Signal(syscall.SIGINT)
	select {
	case <-s.child.Done():
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
	}
	// SIGQUIT lets the postmaster take its processes along; the next start recovers from the log.
	s.child.Stop(context.Background(), syscall.SIGQUIT, 5*time.Second)
}

type cluster struct {
	cfg     Config
	account account
	dir     string
	log     *slog.Logger
}

func (c *cluster) program(name string) string { return filepath.Join(c.cfg.Programs, "bin", name) }

// environment keeps the machine's PG… variables away from a private server.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "LANG") {
			env = append(env, v)
		}
	}
	return append(env, "LC_ALL=C")
}

// make runs initdb on the first start. It works beside and renames, so that a start that was killed leaves nothing half made.
func (c *cluster) make(ctx context.Context) error {
	if version, err := os.ReadFile(filepath.Join(c.dir, "PG_VERSION")); err == nil {
		return c.sameMajor(ctx, strings.TrimSpace(string(version)))
	}
	fresh := c.dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("make PostgreSQL's cluster: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make PostgreSQL's cluster: %w", err)
	}
	if err := c.account.own(fresh); err != nil {
		return fmt.Errorf("make PostgreSQL's cluster: %w", err)
	}
	child, err := supervise.Start(supervise.Command{
		Path: c.program("initdb"),
		Args: []string{"--pgdata", fresh, "--username", c.cfg.Database, "--auth=trust", "--encoding=UTF8",
			"--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--data-checksums", "--no-instructions", "--no-sync"},
		Env: environment(), Dir: "/", Credential: c.account.credential,
	})
	if err != nil {
		return fmt.Errorf("make PostgreSQL's cluster: %w", err)
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		child.Stop(context.Background(), syscall.SIGTERM, time.Second)
		return ctx.Err()
	}
	if child.Err() != nil {
		return fmt.Errorf("make PostgreSQL's cluster: initdb: %s", child.Reason())
	}
	if !c.cfg.Unsafe {
		syscall.Sync()
	}
	if err := os.Rename(fresh, c.dir); err != nil {
		return fmt.Errorf("make PostgreSQL's cluster: %w", err)
	}
	return nil
}

func (c *cluster) sameMajor(ctx context.Context, found string) error {
	out, err := exec.CommandContext(ctx, c.program("postgres"), "--version").Output()
	if err != nil {
		return fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	fields := strings.Fields(string(out))
	version := fields[len(fields)-1]
	if major, _, _ := strings.Cut(version, "."); major != found {
		return fmt.Errorf("%s was made by PostgreSQL %s, this is %s: dump it with version %s and restore it, or choose another data directory with --data or SPILLWAY_DATA", c.dir, found, version, found)
	}
	return nil
}

// socketLimit is how long the path of a Unix socket may be (sockaddr_un).
const socketLimit = 100

func (c *cluster) start(ctx context.Context, port string) (*Server, error) {
	sockets := filepath.Join(c.cfg.Data, "socket")
	if len(sockets)+len("/.s.PGSQL.00000.lock") > socketLimit {
		c.log.Warn("PostgreSQL serves no Unix socket: the data directory's path is too long for one", "path", sockets)
		sockets = ""
	} else if err := errors.Join(os.MkdirAll(sockets, 0o711), c.account.own(sockets)); err != nil {
		return nil, fmt.Errorf("make PostgreSQL's socket directory: %w", err)
	}
	c.forget()
	deadline := time.Now().Add(60 * time.Second)
	for attempt := 0; ; attempt++ {
		chosen, err := choose(port)
		if err != nil {
			return nil, err
		}
		args := []string{"-D", c.dir, "-p", chosen, "-c", "unix_socket_directories=" + sockets}
		for _, s := range settings {
			args = append(args, "-c", s)
		}
		if c.cfg.Unsafe {
			args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
		}
		child, err := supervise.Start(supervise.Command{
			Path: c.program("postgres"), Args: args, Env: environment(), Dir: "/", Credential: c.account.credential,
			// Killed outright, the postmaster would leave its processes behind for a moment.
			DeathSignal: syscall.SIGQUIT,
			Errors:      c.say,
		})
		if err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
		s := &Server{child: child, url: fmt.Sprintf("postgres://%s@127.0.0.1:%s/%s", c.cfg.Database, chosen, c.cfg.Database)}
		err = c.await(ctx, s, chosen, deadline)
		if err == nil {
			return s, nil
		}
		s.Stop(ctx)
		if attempt < 20 && c.again(ctx, child, port) && time.Now().Before(deadline) {
			continue
		}
		return nil, err
	}
}

// routine are the FATAL messages that only end one connection, and say so to whoever had it: it came too early, or the server stops.
var routine = []string{"is starting up", "is shutting down", "not yet accepting connections", "terminating connection due to administrator command"}

// say hands on what the server writes to its log. What concerns one client's statement is that client's.
func (c *cluster) say(line string) {
	level := slog.LevelDebug
	if strings.Contains(line, " PANIC: ") || strings.Contains(line, " WARNING: ") ||
		strings.Contains(line, " FATAL: ") && !slices.ContainsFunc(routine, func(r string) bool { return strings.Contains(line, r) }) {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, line)
}

// again says whether another attempt may succeed: a port chosen by the kernel was taken meanwhile, or an older server on this
// directory, whose parent was killed, is still on its way out.
func (c *cluster) again(ctx context.Context, child *supervise.Child, port string) bool {
	text := strings.Join(child.LastLines(), "\n")
	inUse := strings.Contains(text, "Address already in use") && port == "0"
	leaving := strings.Contains(text, "is already in use") || strings.Contains(text, "already exists") || strings.Contains(text, "still in use")
	if !inUse && !leaving {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(250 * time.Millisecond):
		return true
	}
}

// await waits until the server answers, and makes the database if need be.
func (c *cluster) await(ctx context.Context, s *Server, port string, deadline time.Time) error {
	admin := fmt.Sprintf("postgres://%s@127.0.0.1:%s/postgres?connect_timeout=2&sslmode=disable", c.cfg.Database, port)
	for {
		err := c.database(ctx, admin)
		if err == nil {
			return nil
		}
		select {
		case <-s.Done():
			for _, line := range s.child.LastLines() {
				if strings.Contains(line, "Address already in use") {
					return cure.Explain("127.0.0.1:"+port, syscall.EADDRINUSE)
				}
			}
			return fmt.Errorf("PostgreSQL did not start: %s", s.Reason())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not answer on port %s: %w", port, err)
		}
	}
}

func (c *cluster) database(ctx context.Context, admin string) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", c.cfg.Database).Scan(&there); err != nil {
		return err
	}
	if there {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{c.cfg.Database}.Sanitize())
	return err
}

// forget removes a postmaster.pid whose process is none of this cluster's: after a reboot or in a new container the number may be
// another process's, and PostgreSQL would take that for a running server. The directory is ours alone, so no server runs here.
func (c *cluster) forget() {
	file := filepath.Join(c.dir, "postmaster.pid")
	content, err := os.ReadFile(file)
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !strings.Contains(string(line), c.dir) {
		c.log.Info("removing a postmaster.pid that another process's number keeps alive", "pid", pid)
		_ = os.Remove(file)
	}
}

var cure = port.Cure{What: "PostgreSQL", Flag: "--postgres-listen", Env: "SPILLWAY_POSTGRES_LISTEN"}

// choose picks a free port for "0", and says who may have a fixed one.
func choose(number string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+number)
	if err != nil {
		return "", cure.Explain("127.0.0.1:"+number, err)
	}
	defer listener.Close()
	_, chosen, err := net.SplitHostPort(listener.Addr().String())
	return chosen, err
}
