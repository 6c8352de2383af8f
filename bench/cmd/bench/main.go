// Command bench measures Spillway against its peers and writes what it found to docs/performance.md. See package versus.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/peer"
	"spillway.dev/bench/versus"
)

type flags struct {
	Only    []string `sep:"," placeholder:"NAME,..." help:"Experiments to run. None: all but those that the list calls apart."`
	List    bool     `help:"Print the experiments and end."`
	Quick   bool     `help:"Make everything short, to see that it works."`
	Events  int      `help:"Events of the large table that insights are asked of. 0: 2 million. With 10 million it takes three minutes on two processors, with 100 million a quarter of an hour."`
	Before  string   `type:"path" placeholder:"FILE" help:"Another bin/spillway, of an earlier commit, whose redirector is measured beside it."`
	Profile string   `type:"path" placeholder:"DIR" help:"Directory for CPU profiles of the redirector at work."`
	Binary  string   `env:"SPILLWAY_BIN" default:"bin/spillway" type:"path" help:"The program that is measured."`
	Scratch string   `type:"path" placeholder:"DIR" help:"Where data is kept meanwhile. Default: the system's directory for temporary files."`
	Out     string   `type:"path" placeholder:"FILE" help:"File to write the tables to, as docs/performance.md. Default: none."`
}

func main() {
	if bare, err := peer.ServeBare(os.Args[1:]); bare { // this program as one of its own peers
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	var f flags
	kong.Parse(&f, kong.Name("bench"), kong.Description("Measures Spillway against its peers."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(1)
	}
}

func run(ctx context.Context, f *flags) error {
	chosen, err := choose(f.Only)
	if err != nil {
		return err
	}
	if f.List {
		for _, e := range versus.Experiments() {
			apart := ""
			if e.Apart {
				apart = " (apart: only if it is named)"
			}
			fmt.Printf("%-10s %s%s\n", e.Name, e.What, apart)
		}
		return nil
	}
	began := time.Now()
	bench := &versus.Bench{Binary: f.Binary, Before: f.Before, Profiles: f.Profile, Dir: f.Scratch, Quick: f.Quick, Events: f.Events, Say: func(format string, values ...any) {
		fmt.Printf("  %5.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, values...))
	}}
	machine, load := measure.Machine(), measure.Load()
	fmt.Println(machine)
	var tables []*versus.Table
	var failed []error
	for _, e := range chosen {
		fmt.Printf("%s: %s\n", e.Name, e.What)
		table, err := bench.Run(ctx, e)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// What can be measured is, and what cannot is told at the end.
			failed = append(failed, err)
			if errors.Is(err, peer.ErrNoNginx) {
				fmt.Println("  left out:", err)
			}
			continue
		}
		if err := table.Print(os.Stdout); err != nil {
			return err
		}
		fmt.Println()
		tables = append(tables, table)
		// After each, so that a run that is ended before its time leaves what it measured.
		if f.Out != "" {
			if err := os.WriteFile(f.Out, []byte(versus.Markdown(tables, machine, load, f.Quick)), 0o644); err != nil {
				return fmt.Errorf("write the tables: %w", err)
			}
		}
	}
	if f.Out != "" && len(tables) > 0 {
		fmt.Println("written to", filepath.Base(f.Out))
	}
	for _, m := range versus.Missed(tables) {
		fmt.Println("missed:", m)
	}
	fmt.Printf("%s\n", time.Since(began).Round(time.Second))
	return errors.Join(failed...)
}

func choose(names []string) ([]versus.Experiment, error) {
	all := versus.Experiments()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(e versus.Experiment) bool { return e.Apart }), nil
	}
	var chosen []versus.Experiment
	for _, name := range names {
		at := slices.IndexFunc(all, func(e versus.Experiment) bool { return e.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("no experiment is called %q: see bench --list", name)
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}
