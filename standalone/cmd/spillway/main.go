// Command spillway is everything in one binary: the standalone, each service alone, and the tools that go with them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "unversioned"

// commandLine is what the binary understands. `spillway help` prints it, `spillway help COMMAND` what a command understands.
type commandLine struct {
	Run        runCommand        `cmd:"" help:"Start everything in one process tree, on embedded engines where no address is given."`
	Redirector redirectorCommand `cmd:"" set:"admin=127.0.0.1:9091" help:"The visitors' service alone: redirects, profile pages, journal, shipper."`
	Ingest     ingestCommand     `cmd:"" set:"admin=127.0.0.1:9092" help:"The service that brings events from Kafka into ClickHouse."`
	Rollup     rollupCommand     `cmd:"" set:"admin=127.0.0.1:9093" help:"The service that closes days and sets lifetime counters."`
	ProfileAPI profileAPICommand `cmd:"" name:"profileapi" set:"admin=127.0.0.1:9094" help:"The creators' service: API, insights, dashboard."`
	Audit      auditCommand      `cmd:"" help:"Prove from the data alone that every answered view and click is counted once."`
	Export     exportCommand     `cmd:"" help:"Write events and closed days as Parquet files, each event once."`
	Rules      rulesCommands     `cmd:"" help:"Check a file of rules about who is a person, try it on the past, and apply it to the past."`
	Replay     replayCommand     `cmd:"" help:"Send a web server's access log through the visitor's path and check that the numbers add up."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
	Engine     engineCommands    `cmd:"" hidden:"" help:"Run one embedded engine in the foreground."`
}

type versionCommand struct{}

func (versionCommand) Run() error {
	_, err := fmt.Println("spillway", version)
	return err
}

func main() { os.Exit(run()) }

// run exits with 0 on success, 2 if the command line is wrong, 1 otherwise; what is wrong is one line on standard error.
func run() int {
	// A client that goes away while it is written to is an error of that write, not the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var line commandLine
	parser, err := kong.New(&line,
		kong.Name("spillway"),
		kong.Description("Counts every view and click of a link-in-bio platform once, exactly once."),
		kong.UsageOnError(),
		kong.ValueFormatter(explain),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return complain(err, 1)
	}
	arguments := os.Args[1:]
	if len(arguments) > 0 && arguments[0] == "help" {
		arguments = append(arguments[1:], "--help")
	}
	command, err := parser.Parse(arguments)
	if err != nil {
		return complain(fmt.Errorf("%w; see 'spillway --help'", err), 2)
	}
	if err := command.Run(); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return 0
		}
		return complain(err, 1)
	}
	return 0
}

// explain is a setting's help with its variable, and with its default where a placeholder stands in its place.
func explain(v *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(v)
	if v.Tag.PlaceHolder == "" || v.Default == "" || len(v.Tag.Envs) == 0 {
		return help
	}
	return strings.Replace(help, "($", "(default: "+v.Default+", $", 1)
}

func complain(err error, status int) int {
	fmt.Fprintln(os.Stderr, "spillway:", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", " "))
	return status
}
