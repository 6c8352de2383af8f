// Package versus measures Spillway against what others have built for the same work, and against itself: one experiment a question,
// one table an experiment. Both sides of a ratio are measured in the same run, in turn, for several rounds.
package versus

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/stand"
)

// Bench is what all experiments need.
type Bench struct {
	// Binary is bin/spillway.
	Binary string
	// Before is another bin/spillway, of an earlier commit, say, whose redirector is measured beside the other, in turn. Empty: none.
	Before string
	// Profiles is a directory for a CPU profile of the redirector at work, one for each experiment that keeps it busy. Empty: none are taken.
	Profiles string
	// Dir is where stands are made; empty: the system's directory for temporary files.
	Dir string
	// Quick makes every experiment short: it shows that they work, its figures mean little.
	Quick bool
	// Events of the table that insights are asked of; zero: 2 million, or 200 000 with Quick.
	Events int
	// Say is told what is being done.
	Say func(format string, values ...any)
}

// Experiment answers one question.
type Experiment struct {
	Name string // in --only
	What string
	run  func(*Bench, context.Context) (*Table, error)
	// Apart from the others: it is run only if it is named, since it helps to choose between settings and says nothing about a goal.
	Apart bool
}

// Table is an experiment's answer.
type Table struct {
	Name, Title string
	// How says what was done, in a few sentences.
	How  string
	Rows []Row
	// Notes explain what stands in the rows.
	Notes []string
	Took  time.Duration
}

// Row is one figure against another.
type Row struct {
	What  string
	Ours  string
	Peer  string // what it is measured against, with its figure
	Ratio measure.Series
	// Goal is the bound of the ratio's median: at most if positive, at least if negative. Zero: none.
	Goal float64
}

// Verdict says whether the goal is met.
func (r *Row) Verdict() string {
	m := r.Ratio.Median()
	switch {
	case r.Goal == 0 || m != m:
		return ""
	case r.Goal > 0 && m <= r.Goal || r.Goal < 0 && m >= -r.Goal:
		return "met"
	}
	return "missed"
}

// Bound is the goal as people write it.
func (r *Row) Bound() string {
	switch {
	case r.Goal > 0:
		return fmt.Sprintf("≤ %s ×", measure.Number(r.Goal))
	case r.Goal < 0:
		return fmt.Sprintf("≥ %s ×", measure.Number(-r.Goal))
	}
	return "–"
}

// Experiments are all of them, in the order in which they are run.
func Experiments() []Experiment {
	return []Experiment{
		{Name: "redirect", What: "a recorded redirect against nginx's redirect from a map, CPU a request", run: (*Bench).redirect},
		{Name: "page", What: "a recorded profile page against nginx's file of the same bytes, CPU a request", run: (*Bench).page},
		{Name: "latency", What: "latency of redirects at 20, 50 and 80 % of capacity against nginx", run: (*Bench).latency},
		{Name: "outage", What: "redirects while the broker is away, and catching up afterwards", run: (*Bench).outage},
		{Name: "append", What: "an append to the journal against copying its bytes", run: (*Bench).appends},
		{Name: "viral", What: "one viral link against ten thousand links", run: (*Bench).viral},
		{Name: "memory", What: "memory of a redirector that knows many links against the links' own bytes", run: (*Bench).memory},
		{Name: "ingest", What: "Kafka to ClickHouse against ClickHouse's own Kafka engine and against ready-made blocks", run: (*Bench).ingest},
		{Name: "disk", What: "bytes on disk an event against the gzip'd access log of the same visits", run: (*Bench).disk},
		{Name: "take", What: "taking a partition after a crash, of a small table and of one a hundred times larger", run: (*Bench).take},
		{Name: "freshness", What: "from a click to the creator's numbers under load", run: (*Bench).freshness},
		{Name: "export", What: "events to Parquet against ClickHouse's own writer, and the memory for ten times as many", run: (*Bench).export},
		{Name: "insights", What: "a creator's numbers of a large table against one of a tenth", run: (*Bench).insights},
		{Name: "gc", What: "settings of Go's garbage collector against those that the services come with", run: (*Bench).collector, Apart: true},
	}
}

// Run runs one experiment.
func (b *Bench) Run(ctx context.Context, e Experiment) (*Table, error) {
	if runtime.NumCPU() < 2 {
		return nil, errors.New("measuring needs two processors: one for the server, one for the load")
	}
	began := time.Now()
	t, err := e.run(b, ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	t.Name, t.Took = e.Name, time.Since(began)
	return t, nil
}

func (b *Bench) stand() (*stand.Stand, error) { return stand.New(b.Dir, b.Binary) }

// pick returns the one, or with Quick the other.
func pick[T any](b *Bench, whole, quick T) T {
	if b.Quick {
		return quick
	}
	return whole
}

// The processors: what is measured has one for itself, the load and the engines share the other.
const (
	server = 0
	others = 1
)

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
