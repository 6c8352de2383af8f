package rollup

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the rounds.
type metrics struct {
	last     atomic.Int64 // when the last round that succeeded began, microseconds since the epoch
	duration prometheus.Histogram
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "spillway_rollup_round_duration_seconds", Help: "Time to bring the counters up to date.",
			Buckets: []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_rollup_round_failures_total", Help: "Rounds that ended with an error, so that the counters are older than they should be."}),
	}
	m.last.Store(time.Now().UnixMicro())
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_rollup_age_seconds", Help: "Since the begin of the last round that succeeded, or since the start."},
		func() float64 { return time.Since(time.UnixMicro(m.last.Load())).Seconds() })
	for _, c := range []prometheus.Collector{m.duration, m.failures, age} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of rollup: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) round(began time.Time, err error) {
	m.duration.Observe(time.Since(began).Seconds())
	if err != nil {
		m.failures.Inc()
		return
	}
	m.last.Store(began.UnixMicro())
}
