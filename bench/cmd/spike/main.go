// Command spike replays a spike of clicks through Spillway on paper and prints what becomes of it, second by second. See package spike.
package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/spike"
)

type flags struct {
	Before      float64       `default:"20000" help:"Clicks a second before the spike."`
	Peak        float64       `default:"1000000" help:"Clicks a second at its peak."`
	Lead        time.Duration `default:"5s" help:"Time before it."`
	Rise        time.Duration `default:"3s" help:"Time until its peak."`
	Hold        time.Duration `default:"20s" help:"Time at its peak."`
	Fall        time.Duration `default:"3s" help:"Time until it is over."`
	After       time.Duration `default:"20s" help:"Time after it."`
	Processors  int           `default:"24" help:"Processors of all redirectors."`
	Redirect    time.Duration `default:"15us" help:"Time of a processor for a redirect."`
	Exponential bool          `help:"Let these times vary as much as arrivals do."`
	Linger      time.Duration `default:"25ms" help:"Time of a click in its batch and in Kafka."`
	Partitions  int           `default:"64" help:"Partitions of the topic, each with an owner."`
	Insert      time.Duration `default:"30ms" help:"Time of an insert besides its rows."`
	Row         time.Duration `default:"8us" help:"Time of each row of an insert."`
	Rows        int           `default:"400000" help:"Most rows of an insert."`
	Pause       time.Duration `default:"500ms" help:"Longest pause between two inserts of a partition."`
	Workers     int           `default:"32" help:"Processors of all ClickHouse shards that insert."`
	Seed        uint64        `default:"1" help:"The same seed gives the same replay."`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("spike"), kong.Description("Replays a spike through measured service times."))
	if err := run(&f); err != nil {
		fmt.Fprintln(os.Stderr, "spike:", err)
		os.Exit(1)
	}
}

func run(f *flags) error {
	r, err := spike.Replay(
		spike.Shape{Before: f.Before, Peak: f.Peak, Lead: f.Lead, Rise: f.Rise, Hold: f.Hold, Fall: f.Fall, After: f.After},
		spike.Platform{Processors: f.Processors, Redirect: f.Redirect, Exponential: f.Exponential, Linger: f.Linger, Partitions: f.Partitions,
			Insert: f.Insert, Row: f.Row, Rows: f.Rows, Pause: f.Pause, Workers: f.Workers}, f.Seed)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "second\tclicks/s\twaiting for an answer\tanswer p99\tanswered, not visible\tfreshness p99\t")
	for _, m := range r.Moments {
		fmt.Fprintf(w, "%.0f\t%s\t%s\t%s\t%s\t%s\t\n", m.At.Seconds(), measure.Number(m.Rate), measure.Number(m.Waiting), m.Answer.Round(time.Microsecond),
			measure.Number(m.Backlog), m.Freshness.Round(time.Millisecond))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the replay: %w", err)
	}
	fmt.Printf("at the peak redirectors are busy %.0f %%, owners %.0f %%, ClickHouse %.0f %%; answer p99 %s, freshness p99 %s, worst %s\n",
		100*r.RedirectorLoad, 100*r.OwnerLoad, 100*r.WorkerLoad, spike.P(r.Waits, 0.99).Round(time.Microsecond), spike.P(r.Fresh, 0.99).Round(time.Millisecond),
		spike.P(r.Fresh, 1).Round(time.Millisecond))
	return nil
}
