package completeness

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of completeness.
type Metrics struct {
	through atomic.Int64 // microseconds since the epoch; zero: not known
	streams *prometheus.GaugeVec
	events  *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "spillway_rollup_streams", Help: "Streams that complete_through waits for (held_back), that fell silent, or that lost events, by state."}, []string{"state"}),
		events: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "spillway_rollup_stream_events", Help: "Events that are missing and may still come, or lost (missing for good, dropped, unreadable), and rows that are there twice."}, []string{"state"}),
	}
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_rollup_complete_through_age_seconds", Help: "Age of complete_through; minus one while it is not known."}, func() float64 {
		if t := m.through.Load(); t != 0 {
			return time.Since(time.UnixMicro(t)).Seconds()
		}
		return -1
	})
	for _, c := range []prometheus.Collector{m.streams, m.events, age} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of completeness: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) published(k Known) {
	if k.Through != nil {
		m.through.Store(k.Through.UnixMicro())
	}
	events := map[string]uint64{"doubled": k.Doubled, "missing": 0, "lost_missing": 0, "lost_dropped": 0, "lost_unreadable": 0}
	for _, h := range k.HeldBack {
		events["missing"] += h.Events
	}
	for _, h := range k.Lost {
		events["lost_"+h.Reason] += h.Events
	}
	for state, n := range events {
		m.events.WithLabelValues(state).Set(float64(n))
	}
	for state, list := range map[string][]Holding{"held_back": k.HeldBack, "silent": k.Silent, "lost": k.Lost} {
		m.streams.WithLabelValues(state).Set(float64(len(list)))
	}
}
