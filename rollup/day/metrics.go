package day

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the closing of days.
type Metrics struct {
	days     *prometheus.CounterVec
	duration prometheus.Histogram
	failures prometheus.Counter
	shrunk   prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		days: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_rollup_days_closed_total", Help: "Days that were closed, by whether for the first time or again."}, []string{"time"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "spillway_rollup_close_duration_seconds", Help: "Time to close a day.", Buckets: prometheus.ExponentialBuckets(.05, 4, 9)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_rollup_close_failures_total", Help: "Rounds of closing that ended with an error."}),
		shrunk: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spillway_rollup_days_shrunk", Help: "Closed days that have fewer events now than they were closed with."}),
	}
	for _, c := range []prometheus.Collector{m.days, m.duration, m.failures, m.shrunk} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of closing: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) closed(again bool, took time.Duration) {
	time := "first"
	if again {
		time = "again"
	}
	m.days.WithLabelValues(time).Inc()
	m.duration.Observe(took.Seconds())
}
