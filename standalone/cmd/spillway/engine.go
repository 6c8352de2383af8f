package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spillway.dev/standalone/clickhouse"
	"spillway.dev/standalone/datadir"
	"spillway.dev/standalone/engines"
	"spillway.dev/standalone/kafka"
	"spillway.dev/standalone/libchdb"
	"spillway.dev/standalone/port"
	"spillway.dev/standalone/postgres"
)

// engineCommands run one embedded engine each, in the foreground: one line "ready URL" on standard output once it serves, its
// messages on standard error.
type engineCommands struct {
	ClickHouse clickHouseCommand `cmd:"" name:"clickhouse" help:"ClickHouse over HTTP."`
	Postgres   postgresCommand   `cmd:"" name:"postgres" help:"PostgreSQL."`
	Kafka      kafkaCommand      `cmd:"" name:"kafka" help:"A Kafka broker."`
}

// engineFlags are common to the engines.
type engineFlags struct {
	Data       string `required:"" placeholder:"DIR" help:"The engine's data directory."`
	WithParent bool   `help:"End when standard input ends, that is with the parent process."`
	ThrowAway  bool   `help:"For tests: remove the data directory at the end, and do not wait for the disk."`
}

// lockPatience is how long an engine waits for a predecessor on its directory that is on its way out.
const lockPatience = 15 * time.Second

// open takes the directory and returns a context that also ends with the parent.
func (f engineFlags) open(ctx context.Context) (context.Context, *datadir.Dir, error) {
	if f.WithParent {
		parent, err := ownStdin()
		if err != nil {
			return ctx, nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, parent)
			cancel()
		}()
	}
	dir, err := datadir.Open(ctx, f.Data, lockPatience)
	return ctx, dir, err
}

// ownStdin takes standard input for this process alone: libraries in it, and their children, find an empty one.
func ownStdin() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(syscall.Stdin), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep standard input, whose end says that the parent has ended: %w", err)
	}
	if err := libchdb.EmptyStdin(); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "parent"), nil
}

// close gives the directory back, or removes it: again and again for a moment, since an engine that could not be stopped in time
// still writes.
func (f engineFlags) close(dir *datadir.Dir) {
	if f.ThrowAway {
		for range 20 {
			if err := os.RemoveAll(dir.Path); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	_ = dir.Close()
}

func ready(url string) error {
	if _, err := fmt.Println("ready", url); err != nil {
		return fmt.Errorf("tell the parent that the engine is ready: %w", err)
	}
	return nil
}

func engineLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type clickHouseCommand struct {
	engineFlags
	Listen   string `aliases:"clickhouse-listen" env:"SPILLWAY_CLICKHOUSE_LISTEN" default:"127.0.0.1:18123" help:"Address to serve. Port 0: any free one."`
	Database string `default:"spillway" help:"Database to create."`
}

func (c *clickHouseCommand) Run(ctx context.Context) error {
	files, err := engines.Find("")
	if err != nil {
		return err
	}
	ctx, dir, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer c.close(dir)
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return port.Cure{What: "ClickHouse", Flag: "--clickhouse-listen", Env: "SPILLWAY_CLICKHOUSE_LISTEN"}.Explain(c.Listen, err)
	}
	log := engineLog()
	engine, err := clickhouse.Open(clickhouse.Config{Library: files.LibCHDB, Data: dir.Path, Database: c.Database}, log)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: engine.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := ready("http://" + listener.Addr().String() + "/" + c.Database); err != nil {
		return err
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve ClickHouse: %w", err)
	case <-ctx.Done():
	}
	// Statements that run get a moment to end; data is safe however this process ends.
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		log.Warn("statements were still running at the end", "error", err)
		return nil
	}
	closed := make(chan struct{})
	go func() { engine.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
	}
	return nil
}

type postgresCommand struct {
	engineFlags
	Listen   string `aliases:"postgres-listen" env:"SPILLWAY_POSTGRES_LISTEN" default:"127.0.0.1:15432" help:"Address to serve. Port 0: any free one."`
	Database string `default:"spillway" help:"Database to create, and the role that owns it."`
	User     string `env:"SPILLWAY_POSTGRES_USER" help:"User to run the server as, if this is root. Default: the cluster's owner, else postgres, else nobody."`
}

func (c *postgresCommand) Run(ctx context.Context) error {
	files, err := engines.Find("")
	if err != nil {
		return err
	}
	ctx, dir, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer c.close(dir)
	server, err := postgres.Start(ctx, postgres.Config{
		Programs: files.Postgres, Data: dir.Path, Listen: c.Listen, Database: c.Database, User: c.User, Unsafe: c.ThrowAway,
	}, engineLog())
	if err != nil {
		return err
	}
	defer server.Stop(context.Background())
	if err := ready(server.URL()); err != nil {
		return err
	}
	select {
	case <-server.Done():
		return fmt.Errorf("PostgreSQL ended: %s", server.Reason())
	case <-ctx.Done():
		return nil
	}
}

type kafkaCommand struct {
	engineFlags
	Listen         string        `aliases:"kafka-listen" env:"SPILLWAY_KAFKA_LISTEN" default:"127.0.0.1:19092" help:"Address to serve. Port 0: any free one."`
	Topic          string        `default:"spillway.events" env:"SPILLWAY_TOPIC" help:"Topic to create."`
	Partitions     int           `default:"4" env:"SPILLWAY_KAFKA_PARTITIONS" help:"Partitions of a topic that is created."`
	Retention      time.Duration `default:"168h" env:"SPILLWAY_KAFKA_RETENTION" help:"For how long records are kept."`
	RetentionBytes int64         `default:"1073741824" env:"SPILLWAY_KAFKA_RETENTION_BYTES" help:"Bytes kept of each partition."`
	Sync           bool          `env:"SPILLWAY_KAFKA_SYNC" help:"Write every batch through to the disk."`
}

func (c *kafkaCommand) Run(ctx context.Context) error {
	ctx, dir, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer c.close(dir)
	broker, err := kafka.Start(ctx, kafka.Config{
		Data: dir.Path, Listen: c.Listen, Topic: c.Topic, Partitions: c.Partitions,
		Retention: c.Retention, RetentionBytes: c.RetentionBytes, Sync: c.Sync, AutoCreate: c.ThrowAway,
	}, engineLog())
	if err != nil {
		return err
	}
	defer broker.Stop()
	if err := ready(broker.Addr()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
