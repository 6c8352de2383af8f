// Package chaos breaks a whole Spillway in every way that it can think of, under load, and checks that each answered visit was counted
// once. See package cluster for what runs, wire and process for how things break.
//
// A case is one fault at one moment of one load. The load generator keeps a ledger of every attempt, and each attempt carries a marker
// that ends in ClickHouse; the oracle compares the two, asks PostgreSQL, and asks `spillway audit`, which knows nothing of the ledger.
// Where a fault destroys data by its nature, the audit must name as many events as the ledger misses. Negative controls spoil the
// data or the ledger, to show that the oracle can say no.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway.dev/bench/kafka"
	"spillway.dev/bench/process"
)

// Config says how much is broken, and where.
type Config struct {
	Binary string        `name:"binary" env:"SPILLWAY_BIN" default:"bin/spillway" help:"The spillway under test."`
	Dir    string        `name:"dir" help:"Directory for data and logs, made new. Default: a temporary one, which is kept if something fails."`
	Report string        `name:"report" help:"File for the table of what was found. Empty: none is written."`
	Short  bool          `name:"short" help:"Only the most telling faults, each at one moment: about a minute and a half."`
	Only   []string      `name:"only" sep:"," help:"Only faults whose names hold one of these."`
	Moment string        `name:"moment" enum:"begin,middle,end,all" default:"all" help:"Only at this moment of the load."`
	Random time.Duration `name:"random" default:"2m" help:"How long faults strike at random at the end. Zero: not at all. Not in the short run."`
	Rate   float64       `name:"rate" default:"400" help:"Visitors a second."`
	Seed   uint64        `name:"seed" default:"1" help:"The same seed brings the same visitors and the same random faults."`
	// Kafka is the number of nodes of an Apache Kafka that is used in place of the embedded broker: 1 or 3; zero means the embedded one.
	Kafka int    `name:"kafka" enum:"0,1,3" default:"0" help:"Nodes of an Apache Kafka to use in place of the embedded broker: 1 or 3."`
	Lanes int    `name:"lanes" default:"2" help:"Clusters that are broken at the same time."`
	Jars  string `name:"kafka-jars" default:"bench/kafka/jars" help:"Where Apache Kafka's jars are, or are fetched to with Maven."`
}

// ErrFailed is wrapped by what Run returns when a case did not end as expected.
var ErrFailed = errors.New("not everything was as expected")

// Chaos is one run. Make it with New.
type Chaos struct {
	config Config
	out    io.Writer
	log    *slog.Logger
	began  time.Time
	// unfinished says that not every section came to its end; set when all have stopped.
	unfinished bool

	mu     sync.Mutex
	rows   []row    // guarded by mu
	random []string // guarded by mu; what struck in the random part, and when
	passed int      // guarded by mu
	failed int      // guarded by mu
}

// section is a part of the table, with a cluster of its own.
type section struct {
	name   string
	on     ground
	faults []Fault
	random bool // faults strike at random at its end
	spoilt bool // the negative controls are part of it
}

// row is one line of the table.
type row struct {
	section  string
	fault    string
	does     string
	moment   string
	expected string
	observed string
	wrong    []string
}

// New checks the configuration. Each case is a line on out.
func New(config Config, out io.Writer, log *slog.Logger) (*Chaos, error) {
	if config.Rate <= 0 || config.Rate > 20_000 {
		return nil, errors.New("chaos: --rate must be above 0 and at most 20000 visitors a second")
	}
	if config.Kafka != 0 && config.Kafka != 1 && config.Kafka != 3 {
		return nil, errors.New("chaos: --kafka must be 0, 1 or 3")
	}
	if _, err := os.Stat(config.Binary); err != nil {
		return nil, fmt.Errorf("chaos: %w: run 'make build' first, or say --binary", err)
	}
	return &Chaos{config: config, out: out, log: log}, nil
}

// Run breaks everything, one thing after another, then at random. It returns nil only if every case was as expected; whatever it
// returns, nothing that it started is left running.
func (c *Chaos) Run(ctx context.Context) (err error) {
	c.began = time.Now()
	dir := c.config.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "spillway-chaos-"); err != nil {
			return fmt.Errorf("chaos: %w", err)
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(dir)
			}
		}()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for the user that PostgreSQL runs as
		return fmt.Errorf("chaos: %w", err)
	}
	if c.config.Kafka > 0 {
		if err := kafka.Fetch(ctx, c.config.Jars); err != nil {
			return fmt.Errorf("chaos: %w", err)
		}
	}
	failed := c.all(ctx, dir)
	c.unfinished = failed != nil
	if c.config.Report != "" {
		if err := c.report(); err != nil {
			return fmt.Errorf("chaos: %w", err)
		}
	}
	fmt.Fprintf(c.out, "%d passed, %d failed in %s\n", c.passed, c.failed, time.Since(c.began).Round(time.Second))
	switch {
	case failed != nil:
		return fmt.Errorf("chaos: %w (data and logs are in %s)", failed, dir)
	case c.failed > 0:
		return fmt.Errorf("chaos: %w: %d of %d cases; data and logs are in %s", ErrFailed, c.failed, c.failed+c.passed, dir)
	case c.passed == 0:
		return errors.New("chaos: no fault has such a name, so nothing was tried")
	}
	return nil
}

// sections returns what this run is for.
func (c *Chaos) sections() []section {
	session := sessionOf(c.config.Kafka > 0)
	var chosen []section
	for _, s := range []section{
		{name: "Processes", faults: processFaults(session)},
		{name: "Kafka's nodes", faults: nodeFaults(session, c.config.Kafka)},
		{name: "Connections", faults: wireFaults(session)},
		{name: "Destroyed data", on: damaged, faults: dataFaults()},
		{name: "Full disks", on: limited, faults: diskFaults()},
		{name: "Topic and group", faults: kafkaFaults()},
		{name: "At random", random: !c.config.Short && c.config.Random > 0 && c.named("random")},
		{name: "Negative controls", spoilt: c.named("control")},
	} {
		s.faults = slices.DeleteFunc(s.faults, func(f Fault) bool { return c.config.Short && !f.Short || !c.named(f.Name) })
		if len(s.faults) > 0 || s.random || s.spoilt {
			chosen = append(chosen, s)
		}
	}
	if c.config.Short && len(chosen) > 0 {
		// One cluster for all: starting another one takes as long as two cases.
		one := section{name: "Short", spoilt: c.named("control")}
		for _, s := range chosen {
			one.faults = append(one.faults, s.faults...)
		}
		return []section{one}
	}
	return chosen
}

func everyFault(session time.Duration, nodes int) []Fault {
	return slices.Concat(processFaults(session), nodeFaults(session, nodes), wireFaults(session), kafkaFaults(), diskFaults(), dataFaults())
}

// sessionOf is the silence after which the group takes an ingest for dead: the shortest that Apache Kafka allows, or less.
func sessionOf(apache bool) time.Duration {
	if apache {
		return 6 * time.Second
	}
	return 3 * time.Second
}

// named says whether this run is for what has that name.
func (c *Chaos) named(name string) bool {
	for _, part := range c.config.Only {
		if strings.Contains(name, part) {
			return true
		}
	}
	return len(c.config.Only) == 0
}

// all runs the sections, some at a time.
func (c *Chaos) all(ctx context.Context, dir string) error {
	var (
		wait  sync.WaitGroup
		lanes = make(chan struct{}, max(c.config.Lanes, 1))
		parts = c.sections()
		errs  = make([]error, len(parts))
	)
	for i, s := range parts {
		lanes <- struct{}{}
		wait.Go(func() {
			defer func() { <-lanes }()
			if errs[i] = c.section(ctx, s, filepath.Join(dir, "arena"+strconv.Itoa(i))); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name, errs[i])
			}
		})
	}
	wait.Wait()
	order := map[string]int{}
	for i, s := range parts {
		order[s.name] = i
	}
	slices.SortStableFunc(c.rows, func(a, b row) int { return order[a.section] - order[b.section] })
	return errors.Join(errs...)
}

// section runs all cases of one section on a cluster of their own.
func (c *Chaos) section(ctx context.Context, s section, dir string) error {
	if s.on == limited && os.Geteuid() != 0 {
		for _, f := range s.faults {
			c.add(row{
				section: s.name, fault: f.Name, does: f.Does, moment: "-", expected: expectation(&f),
				observed: "not run", wrong: []string{"not run: needs root, who alone may mount small file systems"},
			})
		}
		return nil
	}
	began := time.Now()
	broker, close, err := c.broker(ctx, s.on, dir)
	if err != nil {
		return err
	}
	defer close()
	a, err := newArena(ctx, dir, c.config.Binary, broker, s.on, c.config.Seed)
	if err != nil {
		return err
	}
	defer a.close()
	c.log.Info("cluster is up", "for", s.name, "took", time.Since(began).Round(100*time.Millisecond), "logs", filepath.Join(dir, "logs"))
	for i := range s.faults {
		for _, m := range []Moment{Begin, Middle, End} {
			if (c.config.Short && m != Middle) || (c.config.Moment != "all" && c.config.Moment != "" && c.config.Moment != m.String()) {
				continue
			}
			if err := c.one(ctx, a, s.name, &s.faults[i], m); err != nil {
				return err
			}
		}
	}
	if s.random {
		if err := c.atRandom(ctx, a, s.name); err != nil {
			return err
		}
	}
	if s.spoilt {
		if err := c.controls(ctx, a, s.name); err != nil {
			return err
		}
	}
	return c.ending(ctx, a, s.name)
}

// broker starts an Apache Kafka for a section, if this run is for one.
func (c *Chaos) broker(ctx context.Context, on ground, dir string) (*kafka.Cluster, func(), error) {
	if c.config.Kafka == 0 {
		return nil, func() {}, nil
	}
	starter, err := process.NewStarter(filepath.Join(dir, "logs"))
	if err != nil {
		return nil, nil, err
	}
	data, release := filepath.Join(dir, "kafka"), func() {}
	if on == limited {
		if err := mountSmall(data, 256); err != nil {
			return nil, nil, err
		}
		release = func() { unmount(data) }
	}
	cluster, err := kafka.Start(ctx, starter, kafka.Config{Jars: c.config.Jars, Data: data, Nodes: c.config.Kafka})
	if err != nil {
		release()
		return nil, nil, err
	}
	return cluster, func() { cluster.Close(); release() }, nil
}

// add notes a row and prints it.
func (c *Chaos) add(r row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows = append(c.rows, r)
	mark := "ok  "
	if len(r.wrong) > 0 {
		mark = "FAIL"
		c.failed++
	} else {
		c.passed++
	}
	fmt.Fprintf(c.out, "%s %-45s %-7s %s\n", mark, r.fault, r.moment, r.observed)
	for _, w := range r.wrong {
		fmt.Fprintf(c.out, "       %s\n", w)
	}
}

// expectation is what the table says is expected of a fault.
func expectation(f *Fault) string {
	text := map[Loss]string{
		None:   "each answered visit once; none refused",
		Named:  "none twice; the audit names exactly what is lost; none refused",
		Unseen: "none twice; the audit names what is lost, up to the last mark; none refused",
	}[f.Loss]
	if f.Expect != "" {
		text += ". " + f.Expect
	}
	return text
}
