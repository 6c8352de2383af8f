package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"spillway.dev/bench/replay"
	"spillway.dev/rollup/export"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/lifecycle"
	"spillway.dev/service/logging"
	"spillway.dev/standalone"
)

// toolFlags are common to the commands that look at what services wrote.
type toolFlags struct {
	Data    string            `name:"data" env:"SPILLWAY_DATA" default:"./data" help:"Data directory of a running standalone, which tells where its engines are. Addresses that are given count."`
	Engines engines.Addresses `embed:"" group:"Engines elsewhere:"`
	Logging logging.Config    `embed:"" group:"Log:"`
}

// open returns the log, and where the engines are.
func (f toolFlags) open() (*slog.Logger, engines.Addresses, error) {
	log, err := toolLog(f.Logging)
	if err != nil {
		return nil, engines.Addresses{}, err
	}
	where, err := standalone.Find(f.Data, f.Engines)
	switch {
	case err != nil:
	case where.ClickHouse == "":
		err = fmt.Errorf("no standalone has run in %s: start one with 'spillway run', name its directory with --data, or say with CLICKHOUSE_URL and DATABASE_URL where the engines are", f.Data)
	case f.Engines.ClickHouse == "" && refused(where.ClickHouse):
		err = fmt.Errorf("the standalone of %s does not run: start it with 'spillway run --data %s', or say with CLICKHOUSE_URL and DATABASE_URL where the engines are", f.Data, f.Data)
	}
	return log, where, err
}

// refused says whether it is certain that nobody listens at a URL, as where a standalone has ended. Whatever else is wrong with it, whoever
// uses it says.
func refused(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	conn, err := net.DialTimeout("tcp", u.Host, 2*time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// toolLog is a log for a command that prints its result: only what needs attention.
func toolLog(c logging.Config) (*slog.Logger, error) { return logging.New(os.Stderr, quiet(c)) }

// exportCommand writes events and closed days as Parquet files.
type exportCommand struct {
	toolFlags
	Config export.Config `embed:""`
	Admin  string        `name:"admin-listen" env:"SPILLWAY_EXPORT_LISTEN" placeholder:"HOST:PORT" help:"Where metrics and health are served while --every goes on. Empty: nowhere."`
}

func (c *exportCommand) Run(ctx context.Context) error {
	log, where, err := c.open()
	if err != nil {
		return err
	}
	if c.Config.Every > 0 { // a service, which says what it does
		if log, err = logging.New(os.Stderr, c.Logging); err != nil {
			return err
		}
	}
	if os.Getenv("GOGC") == "" {
		// Its blocks are large and live briefly: collecting them early costs 8 % of the processor and saves 15 % of the memory (decision 17).
		debug.SetGCPercent(50)
	}
	registry := admin.NewRegistry()
	e, err := export.New(ctx, c.Config, where, log, registry, os.Stderr)
	if err != nil {
		return err
	}
	if c.Config.Every == 0 || c.Admin == "" {
		return e.Run(ctx)
	}
	operators, err := admin.Listen(c.Admin, registry, &admin.Health{}, log)
	if err != nil {
		e.Close()
		return err
	}
	log.Info("serving metrics and health", "address", operators.Address())
	return lifecycle.Run(ctx, log, lifecycle.Part{Name: "export", Run: e.Run, Grace: 25 * time.Second}, lifecycle.Part{Name: "metrics", Run: operators.Run})
}

// replayCommand sends a web server's access log through the visitor's path.
type replayCommand struct {
	Config  replay.Config  `embed:""`
	Logging logging.Config `embed:"" group:"Log:"`
}

func (c *replayCommand) Run(ctx context.Context) error {
	log, err := toolLog(c.Logging)
	if err != nil {
		return err
	}
	r, err := replay.New(c.Config, os.Stdout, log)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}
