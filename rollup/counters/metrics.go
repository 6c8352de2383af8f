package counters

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the updating of counters.
type Metrics struct {
	profiles *prometheus.CounterVec
	rows     *prometheus.CounterVec
	hints    prometheus.Counter
	sweeps   *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		profiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_rollup_profiles_read_total", Help: "Profiles whose lifetime numbers were computed, by why: hint; proof (a hint is late or lost); full, open or date (sweeps)."}, []string{"cause"}),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_rollup_counters_written_total", Help: "Rows of counters that differed and were set in PostgreSQL, by table."}, []string{"table"}),
		hints: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_rollup_hints_lost_total", Help: "Times that ClickHouse's bounded table of hints may have lost some, so that a sweep was needed."}),
		sweeps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_rollup_sweeps_total", Help: "Sweeps over profiles that were finished, by kind: full, open or date."}, []string{"kind"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "spillway_rollup_sweep_duration_seconds", Help: "From the begin to the end of a sweep over profiles, by kind.",
			Buckets: prometheus.ExponentialBuckets(.05, 4, 10)}, []string{"kind"}),
	}
	for _, c := range []prometheus.Collector{m.profiles, m.rows, m.hints, m.sweeps, m.duration} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of counters: %w", err)
		}
	}
	return m, nil
}
