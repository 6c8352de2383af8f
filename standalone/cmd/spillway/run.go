package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spillway.dev/service/logging"
	"spillway.dev/standalone"
)

// runCommand is the standalone: everything in one process tree.
type runCommand struct {
	standalone.Config `embed:""`
	Logging           logging.Config `embed:"" group:"Operators:"`
}

func (c *runCommand) Run(ctx context.Context) error {
	log, err := logging.New(os.Stderr, quiet(c.Logging))
	if err != nil {
		return err
	}
	terminal := isTerminal(os.Stdout)
	if terminal {
		fmt.Println("Spillway is starting …")
	}
	c.Started = func(s standalone.Summary) { fmt.Print(summary(s, terminal, c.auditCommand())) }
	if err := standalone.Run(ctx, c.Config, log); err != nil {
		return err
	}
	if terminal {
		fmt.Println("\nStopped. `make run` goes on where this ended.")
	}
	return nil
}

// quiet leaves the terminal to the summary and to what needs attention, unless somebody asked for more.
func quiet(c logging.Config) logging.Config {
	if os.Getenv("SPILLWAY_LOG_LEVEL") == "" && c.Level == slog.LevelInfo {
		c.Level = slog.LevelWarn
	}
	return c
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
}

// auditCommand is what to type beside this process to have its counts checked.
func (c *runCommand) auditCommand() string {
	command := os.Args[0] + " audit"
	if data := c.Tree.Data; filepath.Clean(data) != "data" {
		command += " --data " + data
	}
	return command
}

// summary is what to open, and how to look inside. audit is how to have it checked.
func summary(s standalone.Summary, colour bool, audit string) string {
	bold, dim, plain := "\033[1m", "\033[2m", "\033[0m"
	if !colour {
		bold, dim, plain = "", "", ""
	}
	var b strings.Builder
	row := func(name, value, note string) {
		if note != "" {
			note = "  " + dim + note + plain
		}
		fmt.Fprintf(&b, "  %-11s %s%s\n", name, value, note)
	}
	fmt.Fprintf(&b, "\n  %sSpillway is up%s %s%s%s\n\n", bold, plain, dim, s.Took.Round(100*time.Millisecond), plain)
	if s.Demo != "" {
		row("Page", bold+s.Visitors+"/demo"+plain, "what a visitor sees")
		row("Click", s.Visitors+"/l/"+s.Demo, "a tracked redirect")
	} else {
		row("Visitors", s.Visitors, "")
	}
	row("Dashboard", bold+s.API+"/"+plain, "the creator's numbers, live")
	row("API", s.API+"/v1", "described in /openapi.json")
	row("Token", s.Token, "kept in "+s.Data+"/"+standalone.TokenFile)
	row("Metrics", s.Admin+"/metrics", "also /livez, /readyz, /debug/pprof/")
	b.WriteString("\n")
	is := map[string]bool{}
	for _, name := range s.Embedded {
		is[name] = true
	}
	where := func(name string) string {
		if is[name] {
			return "embedded"
		}
		return "elsewhere"
	}
	row("Kafka", strings.Join(s.Engines.Kafka, ","), where("Kafka"))
	row("ClickHouse", s.Engines.ClickHouse, where("ClickHouse"))
	row("PostgreSQL", s.Engines.Database, where("PostgreSQL"))
	row("Data", s.Data, "")
	fmt.Fprintf(&b, "\n  %sCheck every count: %s · Stop: Ctrl-C%s\n\n", dim, audit, plain)
	return b.String()
}
