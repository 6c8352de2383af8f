package export

import "github.com/prometheus/client_golang/prometheus"

// metrics is what an exporter says about itself.
type metrics struct {
	cuts, events, bytes, failures, conflicts prometheus.Counter
	head, checked, held                      prometheus.Gauge
	seconds                                  prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "spillway", Subsystem: "export", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "spillway", Subsystem: "export", Name: name, Help: help})
	}
	m := &metrics{
		cuts:      counter("cuts_total", "Cuts published."),
		events:    counter("events_total", "Events published."),
		bytes:     counter("bytes_total", "Bytes of published files."),
		failures:  counter("failures_total", "Runs that failed and are tried again."),
		conflicts: counter("conflicts_total", "Cuts that another exporter published first."),
		head:      gauge("head_timestamp_seconds", "Time of the newest published cut."),
		checked:   gauge("complete_timestamp_seconds", "When everything that could be published was."),
		held:      gauge("held_events", "Events that wait for a gap before them to be filled."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "spillway", Subsystem: "export", Name: "cut_duration_seconds",
			Help: "Time from planning a cut to its manifest.", Buckets: prometheus.ExponentialBuckets(0.1, 3, 9)}),
	}
	registry.MustRegister(m.cuts, m.events, m.bytes, m.failures, m.conflicts, m.head, m.checked, m.held, m.seconds)
	return m
}
