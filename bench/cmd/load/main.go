// Command load sends an open-loop load to redirectors and prints how they answered. See package load for what that means.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"spillway.dev/bench/creator"
	"spillway.dev/bench/load"
)

type flags struct {
	Targets     []string      `name:"target" default:"127.0.0.1:8080" sep:"," help:"Redirectors, HOST:PORT,..."`
	Elsewhere   bool          `name:"elsewhere" help:"Allow targets that are not on this machine."`
	API         string        `name:"api-url" env:"SPILLWAY_API_URL" default:"http://127.0.0.1:8081" help:"Where creators are served."`
	Token       string        `name:"token" env:"SPILLWAY_TOKEN" help:"Bearer token of the API. Default: the standalone's own, from its data directory."`
	Data        string        `name:"data" env:"SPILLWAY_DATA" default:"./data" help:"Data directory of the standalone, for its token."`
	Handle      string        `name:"handle" default:"load" help:"Handle of the profile that is visited; made if it is not there."`
	Links       int           `name:"links" default:"100" help:"Number of links that are clicked, at most 500."`
	Rate        float64       `name:"rate" default:"1000" help:"Visitors a second."`
	Duration    time.Duration `name:"duration" default:"10s" help:"How long they keep coming."`
	Even        bool          `name:"even" help:"They come at equal distances instead of independently of each other."`
	Connections int           `name:"connections" default:"64" help:"Requests that can be under way at once."`
	Views       float64       `name:"views" default:"0.2" help:"Share of visitors who open the page; the others click a link."`
	Heads       float64       `name:"heads" default:"0.01" help:"Share of clicks that are HEAD requests."`
	Prefetches  float64       `name:"prefetches" default:"0.01" help:"Share of clicks that are prefetches."`
	Zipf        float64       `name:"zipf" default:"1.1" help:"Exponent of the links' popularity."`
	Timeout     time.Duration `name:"timeout" default:"5s" help:"How long an attempt may take."`
	Slow        time.Duration `name:"slow" default:"100ms" help:"What counts as a slow answer."`
	Ledger      string        `name:"ledger" help:"File for a line of every attempt, marked so that it can be found in ClickHouse (utm_content)."`
	Run         string        `name:"run" help:"Beginning of the markers. Default: load and the time."`
	Seed        uint64        `name:"seed" default:"1" help:"The same seed brings the same visitors."`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("load"), kong.Description("Open-loop load on redirectors, corrected for coordinated omission."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &f); err != nil {
		fmt.Fprintln(os.Stderr, "load:", strings.TrimPrefix(err.Error(), "load: "))
		os.Exit(1)
	}
}

func run(ctx context.Context, f *flags) (err error) {
	config := load.Config{
		Targets: f.Targets, Elsewhere: f.Elsewhere, Handle: f.Handle, Rate: f.Rate, Duration: f.Duration, Even: f.Even, Connections: f.Connections,
		Views: f.Views, Heads: f.Heads, Prefetches: f.Prefetches, Zipf: f.Zipf, Timeout: f.Timeout, Slow: f.Slow, Seed: f.Seed,
	}
	if f.Token == "" {
		if f.Token, err = creator.Token(f.Data); err != nil {
			return err
		}
	}
	api, err := creator.New(f.API, f.Token)
	if err != nil {
		return err
	}
	_, links, err := api.Numbered(ctx, f.Handle, f.Links)
	if err != nil {
		return err
	}
	for _, l := range links {
		config.Links = append(config.Links, load.Link{ID: l.ID, Code: l.Code})
	}
	var l *load.Load
	if f.Ledger == "" {
		l, err = load.New(config, nil)
	} else {
		file, err := os.Create(f.Ledger)
		if err != nil {
			return fmt.Errorf("make ledger: %w", err)
		}
		out := bufio.NewWriterSize(file, 1<<20)
		defer func() {
			if flushed := out.Flush(); err == nil && flushed != nil {
				err = fmt.Errorf("write ledger: %w", flushed)
			}
			if closed := file.Close(); err == nil && closed != nil {
				err = fmt.Errorf("write ledger: %w", closed)
			}
		}()
		if config.Run = f.Run; config.Run == "" {
			config.Run = "load" + time.Now().UTC().Format("20060102T150405")
		}
		if l, err = load.New(config, out); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	result, err := l.Run(ctx)
	if err != nil {
		return err
	}
	if err := print(f, result); err != nil {
		return err
	}
	if result.Refused+result.Unanswered > 0 {
		return fmt.Errorf("%d visitors were refused and %d got no answer", result.Refused, result.Unanswered)
	}
	return nil
}

func print(f *flags, r *load.Result) error {
	fmt.Printf("%d visitors in %.1f s (%.0f/s): %d answered, %d of them after more than %s; %d refused, %d without an answer; %d attempts repeated\n",
		r.Visitors, r.Took.Seconds(), float64(r.Visitors)/r.Took.Seconds(), r.Answered, r.Slow, f.Slow, r.Refused, r.Unanswered, r.Retried)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "milliseconds\tp50\tp90\tp99\tp99.9\tmax\t")
	ms := func(us int64) string { return fmt.Sprintf("%.2f", float64(us)/1000) }
	fmt.Fprintf(w, "from arrival\t%s\t%s\t%s\t%s\t%s\t\n", ms(r.Waits.ValueAtQuantile(50)), ms(r.Waits.ValueAtQuantile(90)),
		ms(r.Waits.ValueAtQuantile(99)), ms(r.Waits.ValueAtQuantile(99.9)), ms(r.Waits.Max()))
	fmt.Fprintf(w, "from sending\t%s\t%s\t%s\t%s\t%s\t\n", ms(r.Service.ValueAtQuantile(50)), ms(r.Service.ValueAtQuantile(90)),
		ms(r.Service.ValueAtQuantile(99)), ms(r.Service.ValueAtQuantile(99.9)), ms(r.Service.Max()))
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	fmt.Printf("the generator handed arrivals out at most %s late\n", r.Late.Round(10*time.Microsecond))
	return nil
}
