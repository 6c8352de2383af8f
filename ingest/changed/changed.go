// Package changed tells rollup which profiles and dates got events just now. It is a hint: rollup proves
// that it has counted every row, and finds what no hint told it of a moment later, so a failure is counted and forgotten, and memory is bounded.
package changed

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/ingest/table"
)

// most bounds the hints that wait to be written.
const most = 100_000

type hint struct {
	profile uint64
	date    uint16
}

// Hints collects hints and writes them. It is safe for use by several goroutines.
type Hints struct {
	table *table.Table
	log   *slog.Logger
	lost  prometheus.Counter
	wake  chan struct{}

	mu      sync.Mutex
	pending map[hint]struct{}
}

// New returns hints for a table.
func New(t *table.Table, log *slog.Logger, metrics prometheus.Registerer) *Hints {
	h := &Hints{table: t, log: log, wake: make(chan struct{}, 1), pending: map[hint]struct{}{}, lost: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_ingest_hints_lost_total", Help: "Hints for rollup that were not written; its proof makes up for them.",
	})}
	metrics.MustRegister(h.lost)
	return h
}

// Add notes the profiles and dates (days since 1970-01-01) that got events.
func (h *Hints) Add(touched func(yield func(profile uint64, date uint16) bool)) {
	h.mu.Lock()
	for profile, date := range touched {
		k := hint{profile, date}
		if _, ok := h.pending[k]; ok {
			continue
		}
		if len(h.pending) >= most {
			h.lost.Inc()
			continue
		}
		h.pending[k] = struct{}{}
	}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// pause keeps inserts of hints apart: together they cost what one costs.
const pause = 100 * time.Millisecond

// Run writes hints as they come until ctx ends, and then once more.
func (h *Hints) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			h.flush(last)
			return nil
		case <-h.wake:
			if ctx.Err() != nil {
				continue
			}
		}
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		h.flush(limited)
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (h *Hints) flush(ctx context.Context) {
	h.mu.Lock()
	batch := h.pending
	h.pending = make(map[hint]struct{}, min(len(batch), 1024))
	h.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	var (
		profiles proto.ColUInt64
		dates    proto.ColUInt16
		buffer   proto.Buffer
	)
	for k := range batch {
		profiles, dates = append(profiles, k.profile), append(dates, k.date)
	}
	columns := []proto.InputColumn{{Name: "profile_id", Data: profiles}, {Name: "date", Data: proto.Alias(&dates, "Date")}}
	head := proto.Block{Columns: len(columns), Rows: len(batch)}
	err := head.EncodeRawBlock(&buffer, 0, columns)
	if err == nil {
		err = h.table.Do(ctx, table.Insert{
			Statement: "INSERT INTO " + h.table.Layout.Local("changed") + " (profile_id, date) FORMAT Native",
			Body:      buffer.Buf,
			Tag:       "spillway changed " + h.table.Layout.Database,
		})
	}
	if err != nil {
		h.lost.Add(float64(len(batch)))
		h.log.Debug("hints for rollup are lost; its proof makes up for them", "hints", len(batch), "error", err)
	}
}
