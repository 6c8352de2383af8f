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
	"strings"
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
	rows   []row
	random []string // what struck in the random part, and when
	passed int
	failed int
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
	for _, g := range []struct {
		on      ground
		section string
	}{{shared, "Processes, connections, topic and group"}, {limited, "Full disks"}, {damaged, "Destroyed data"}} {
		if err := c.on(ctx, g.on, g.section, filepath.Join(dir, fmt.Sprint("arena", int(g.on)))); err != nil {
			return fmt.Errorf("chaos: %w (data and logs are in %s)", err, dir)
		}
	}
	if c.config.Report != "" {
		if err := c.report(); err != nil {
			return fmt.Errorf("chaos: %w", err)
		}
	}
	fmt.Fprintf(c.out, "%d passed, %d failed in %s\n", c.passed, c.failed, time.Since(c.began).Round(time.Second))
	switch {
	case c.failed > 0:
		return fmt.Errorf("chaos: %w: %d of %d cases; data and logs are in %s", ErrFailed, c.failed, c.failed+c.passed, dir)
	case c.passed == 0:
		return errors.New("chaos: no fault has such a name, so nothing was tried")
	}
	return nil
}

// chosen returns the faults of that ground that this run is for.
func (c *Chaos) chosen(on ground, session time.Duration) []Fault {
	var chosen []Fault
	for _, f := range all(session) {
		if f.on == on && (f.Short || !c.config.Short) && (len(c.config.Only) == 0 || c.named(f.Name)) {
			chosen = append(chosen, f)
		}
	}
	return chosen
}

func all(session time.Duration) []Fault {
	return slices.Concat(processFaults(session), wireFaults(session), kafkaFaults(), diskFaults(), dataFaults())
}

func (c *Chaos) named(name string) bool {
	for _, part := range c.config.Only {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// on runs all cases of one ground on a cluster of their own.
func (c *Chaos) on(ctx context.Context, on ground, section, dir string) error {
	session := 3 * time.Second
	if c.config.Kafka > 0 {
		session = 6 * time.Second
	}
	faults := c.chosen(on, session)
	controls := on == shared && (len(c.config.Only) == 0 || c.named("control"))
	random := on == shared && !c.config.Short && c.config.Random > 0 && (len(c.config.Only) == 0 || c.named("random"))
	if len(faults) == 0 && !controls && !random {
		return nil
	}
	if on == limited && os.Geteuid() != 0 {
		for _, f := range faults {
			c.add(row{section: section, fault: f.Name, does: f.Does, moment: "-", expected: expectation(&f), observed: "not run: needs root, who alone may mount small file systems",
				wrong: []string{"not run: needs root"}})
		}
		return nil
	}
	began := time.Now()
	var broker *kafka.Cluster
	if c.config.Kafka > 0 {
		starter, err := process.NewStarter(filepath.Join(dir, "logs"))
		if err != nil {
			return err
		}
		data := filepath.Join(dir, "kafka")
		if on == limited {
			if err := mountSmall(data, 256); err != nil {
				return err
			}
			defer unmount(data)
		}
		if broker, err = kafka.Start(ctx, starter, kafka.Config{Jars: c.config.Jars, Data: data, Nodes: c.config.Kafka}); err != nil {
			return err
		}
		defer broker.Close()
	}
	a, err := newArena(ctx, dir, c.config.Binary, broker, on, c.config.Seed)
	if err != nil {
		return err
	}
	defer a.close()
	c.log.Info("cluster is up", "for", section, "took", time.Since(began).Round(100*time.Millisecond), "logs", filepath.Join(dir, "logs"))
	for i := range faults {
		for _, m := range []Moment{Begin, Middle, End} {
			if (c.config.Short && m != Middle) || (c.config.Moment != "all" && c.config.Moment != "" && c.config.Moment != m.String()) {
				continue
			}
			if err := c.one(ctx, a, section, &faults[i], m); err != nil {
				return err
			}
		}
	}
	if random {
		if err := c.atRandom(ctx, a, session); err != nil {
			return err
		}
	}
	if controls {
		if err := c.controls(ctx, a); err != nil {
			return err
		}
	}
	return c.ending(ctx, a, section)
}

// add notes a row and prints it.
func (c *Chaos) add(r row) {
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
