package class

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/schemas/rules"
)

// lookAgain is how often the rules file is read again. It is small, so its content is compared: a new file of the same size within
// the clock's resolution is noticed too.
const lookAgain = time.Second

// Rulebook keeps the operator's rules as their file says. Its methods may be called by many at once.
type Rulebook struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[rules.Set]
	errors  prometheus.Counter
	version *prometheus.GaugeVec
	told    string // the error that was logged last
}

// OpenRulebook reads the file at path. A file that is not there or has a mistake is no reason to turn visitors away: it is logged and
// counted, and nobody is judged by rules until Run finds a good one.
func OpenRulebook(path string, log *slog.Logger, registry prometheus.Registerer) (*Rulebook, error) {
	b := &Rulebook{path: path, log: log,
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "spillway_redirector_rules_reload_errors_total",
			Help: "Times that the rules file was found unusable, once for each content; the rules before it stay in use."}),
		version: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spillway_redirector_rules_version",
			Help: "1, with a short hash of the rules file in use; empty while none is."}, []string{"hash"}),
	}
	for _, c := range []prometheus.Collector{b.errors, b.version} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the rules: %w", err)
		}
	}
	b.use(&rules.Set{})
	b.read()
	return b, nil
}

// Rules returns the rules in use.
func (b *Rulebook) Rules() *rules.Set { return b.current.Load() }

// Run follows the file until ctx ends.
func (b *Rulebook) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			b.read()
		}
	}
}

// read takes over what the file says now. One that cannot be used is told of once.
func (b *Rulebook) read() {
	set, err := rules.Read(b.path)
	if err != nil {
		if err.Error() == b.told {
			return
		}
		b.told = err.Error()
		b.errors.Inc()
		cure := "correct it; it is read again each second ('spillway rules check " + b.path + "')"
		if errors.Is(err, fs.ErrNotExist) {
			cure = "write it there, or correct SPILLWAY_RULES"
		}
		b.log.Error("the rules file cannot be used; the rules before it stay", "error", err, "cure", cure)
		return
	}
	b.told = ""
	if set.Hash() != b.Rules().Hash() {
		b.use(set)
		b.log.Info("took over the rules", "file", b.path, "rules", len(set.Rules()), "hash", set.Hash())
	}
}

func (b *Rulebook) use(set *rules.Set) {
	b.version.Reset()
	b.version.WithLabelValues(set.Hash()).Set(1)
	b.current.Store(set)
}
