// Package export publishes events and closed days as Parquet files, each event in exactly one of them, for warehouses to read.
//
// An export is a chain of cuts (package cut says what one holds, package manifest how it is published):
//
//	manifests/000000000012.json                      what cut 12 added: the contract
//	events/dt=2026-01-31/hour=15/cut-….parquet       events, by the hour of the cut
//	days/dt=2026-01-30/cut-….parquet                 closed days, by their own date
//	states/000000000064-….json                       all that was published up to cut 64
//	_SUCCESS                                         which manifest is the newest
//	iceberg/spillway/events/metadata/…               Apache Iceberg tables over the same files, if asked for
//
// Nothing is remembered anywhere else: who finds the chain can go on with it, and two who do so at once do no harm.
package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/opentable"
	"spillway.dev/rollup/export/progress"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/service/engines"
)

const (
	// maxLanes is the lanes of a cut: their names and limits stand in the query.
	maxLanes = 4096
	// maxDays is the closed days of a cut.
	maxDays = 50
	// attempts is how often a cut is tried again, when the table changed meanwhile or another exporter was faster, before giving up.
	attempts = 20
	// sweepEvery is how often garbage is looked for in a long run.
	sweepEvery = time.Hour
)

// Exporter publishes cuts.
type Exporter struct {
	config   Config
	scope    manifest.Scope
	table    cut.Table
	source   *source.ClickHouse
	store    store.Store
	chain    manifest.Chain
	open     *opentable.Tables // nil: none are kept
	log      *slog.Logger
	metrics  *metrics
	progress *progress.Progress
	now      func() time.Time

	state  *manifest.State
	winner map[uint64]string
	// swept is when garbage was looked for last, and settled says that it was after this exporter's first cut: what a dead exporter
	// left of that cut is garbage only since.
	swept   time.Time
	settled bool
}

// New checks the configuration and opens the place to export to. It does not ask ClickHouse yet. bar gets the progress of a single
// run (nil: none): a bar if it is a terminal, else lines.
func New(ctx context.Context, config Config, where engines.Addresses, log *slog.Logger, registry prometheus.Registerer, bar io.Writer) (*Exporter, error) {
	scope, err := config.check()
	if err != nil {
		return nil, err
	}
	from, layout, err := source.Open(where)
	if err != nil {
		return nil, err
	}
	to, err := store.Open(ctx, config.To)
	if err != nil {
		return nil, err
	}
	var open *opentable.Tables
	if config.Iceberg {
		if _, ok := to.(*store.Directory); !ok {
			return nil, fmt.Errorf("Iceberg tables are kept in directories only, and %s is none: leave out --iceberg", to)
		}
		if open, err = opentable.Open(ctx, to.String(), log); err != nil {
			return nil, fmt.Errorf("export to %s: %w", to, err)
		}
	}
	if config.Every > 0 {
		bar = nil
	}
	return &Exporter{
		open: open, config: config, scope: scope, source: from, table: cut.Table{Source: from, Layout: layout},
		store: to, chain: manifest.Chain{Store: to}, log: log, metrics: newMetrics(registry), progress: progress.New(bar, "events"),
		now: time.Now, winner: map[uint64]string{},
	}, nil
}

// Close frees what the exporter holds. Run does so itself.
func (e *Exporter) Close() {
	_ = e.store.Close()
	if e.open != nil {
		_ = e.open.Close()
	}
}

// Summary is what a run published.
type Summary struct {
	Cuts   int
	Events int64
	Days   int
	Files  int
	Bytes  int64
	// Held is how many events are there but wait for a gap before them to be filled.
	Held uint64
	Head uint64 // number of the newest manifest
}

func (s Summary) String() string {
	text := "nothing new"
	if s.Cuts > 0 {
		text = fmt.Sprintf("%d events and %d closed days in %d files, %.1f MB, %d cuts", s.Events, s.Days, s.Files, float64(s.Bytes)/1e6, s.Cuts)
	}
	if s.Held > 0 {
		text += fmt.Sprintf("; %d events wait for a gap before them", s.Held)
	}
	return text
}

// Run exports what is there, or goes on until ctx ends if the configuration says how often. Stopped in the middle of a single
// run it returns an error; what was published until then stays.
func (e *Exporter) Run(ctx context.Context) error {
	defer e.Close()
	if e.config.Every == 0 {
		summary, err := e.Once(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("export was stopped after %d cuts: run it again to go on", summary.Cuts)
			}
			return err
		}
		e.progress.Line("%s in %s (newest: %s)", summary, e.store, manifest.Path(summary.Head))
		return nil
	}
	tick := time.NewTicker(e.config.Every)
	defer tick.Stop()
	for {
		summary, err := e.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			e.metrics.failures.Inc()
			e.log.Error("export failed, will be tried again", "to", e.store.String(), "again_in", e.config.Every, "error", err)
		case summary.Cuts > 0:
			e.log.Info("exported", "to", e.store.String(), "cut", summary.Head, "events", summary.Events, "days", summary.Days, "files", summary.Files, "bytes", summary.Bytes, "held", summary.Held)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Once publishes everything that is there, in as many cuts as it takes.
func (e *Exporter) Once(ctx context.Context) (Summary, error) {
	defer e.progress.Done()
	summary, err := e.once(ctx)
	return summary, e.inWords(err)
}

func (e *Exporter) once(ctx context.Context) (Summary, error) {
	var summary Summary
	if err := e.load(ctx); err != nil {
		return summary, err
	}
	if err := e.sweep(ctx); err != nil {
		return summary, err
	}
	failed := 0
	for {
		m, held, err := e.round(ctx)
		summary.Held, summary.Head = held, e.state.Head
		switch {
		case err == nil && m == nil:
			e.metrics.held.Set(float64(held))
			e.metrics.checked.Set(float64(e.now().Unix()))
			if e.open != nil {
				return summary, e.open.Follow(ctx, &e.chain, e.state.Head)
			}
			return summary, nil
		case err == nil:
			failed = 0
			summary.Cuts++
			summary.Events += m.Rows
			for _, f := range m.Files {
				if f.Table == "days" {
					summary.Events -= f.Rows
				}
			}
			summary.Days += len(m.Days)
			summary.Files += len(m.Files)
			summary.Bytes += m.Bytes
			if !e.settled || e.now().Sub(e.swept) >= sweepEvery {
				if err := e.sweep(ctx); err != nil {
					return summary, err
				}
				e.settled = true
			}
		case errors.Is(err, manifest.ErrConflict):
			e.metrics.conflicts.Inc()
			e.log.Info("another exporter published the cut", "cut", e.state.Head+1, "to", e.store.String())
			if failed++; failed >= attempts {
				return summary, fmt.Errorf("cut %d: %w, %d times in a row", e.state.Head+1, err, failed)
			}
			if err := e.load(ctx); err != nil {
				return summary, err
			}
			e.settled = false
		case errors.Is(err, cut.ErrChanged) && ctx.Err() == nil:
			if failed++; failed >= attempts {
				return summary, err
			}
			e.log.Info("the cut is made again", "cut", e.state.Head+1, "reason", err)
		default:
			return summary, err
		}
	}
}

// load brings the state to the newest manifest. The chain's scope is the first manifest's, which another exporter may have published.
func (e *Exporter) load(ctx context.Context) error {
	first := e.state == nil
	if first {
		if err := e.store.CheckExclusive(ctx); err != nil {
			return fmt.Errorf("export to %s: %w", e.store, err)
		}
		state, err := e.chain.Load(ctx)
		if err != nil {
			return err
		}
		e.state = state
	} else if err := e.chain.Advance(ctx, e.state); err != nil {
		return err
	}
	switch {
	case e.state.Head == 0:
		e.state.Scope = e.scope
	case !e.scope.All() && !e.scope.Equal(e.state.Scope):
		return fmt.Errorf("%s holds %s already: export %s to another place", e.store, e.state.Scope, e.scope)
	}
	e.scope = e.state.Scope
	if !first {
		return nil
	}
	return e.chain.Mark(ctx, e.state)
}

// newAttempt names an attempt at the next cut.
func (e *Exporter) newAttempt() manifest.Attempt {
	return manifest.Attempt{Cut: e.state.Head + 1, Run: strings.ToLower(rand.Text()[:16])}
}
