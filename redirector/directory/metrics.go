package directory

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a directory. On the way of a hit there is one atomic addition.
type metrics struct {
	shelf, hits, held, unknown, misses    prometheus.Counter
	joined, loaded, timeouts, failures    prometheus.Counter
	refusedAway, refusedFull              prometheus.Counter
	refreshed, announcements, resyncs     prometheus.Counter
	evicted                               prometheus.Counter
	listening                             prometheus.Gauge
	loadSeconds, changeSeconds            prometheus.Histogram
	snapshotBytes, snapshotTime, restored prometheus.Gauge
}

func newMetrics(d *Directory, registry prometheus.Registerer) (*metrics, error) {
	const prefix = "spillway_redirector_directory_"
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "lookups_total",
		Help: "Names looked up, by where the answer was: on a shelf of links, in the cache of profiles and large links, held beside it, among the unknown names, or nowhere in memory.",
	}, []string{"found"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "refused_total",
		Help: "Lookups that were not tried because PostgreSQL is away or too many names were waiting.",
	}, []string{"reason"})
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
	}
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help,
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}})
	}
	m := &metrics{
		shelf: lookups.WithLabelValues("shelf"), hits: lookups.WithLabelValues("cache"), held: lookups.WithLabelValues("held"),
		unknown: lookups.WithLabelValues("unknown"), misses: lookups.WithLabelValues("nowhere"),
		joined:        counter("joined_total", "Lookups that waited for a load that another one had begun."),
		loaded:        counter("loads_total", "Names loaded from PostgreSQL, first and again."),
		timeouts:      counter("timeouts_total", "Lookups that gave up waiting for PostgreSQL."),
		failures:      counter("load_failures_total", "Queries that failed."),
		refusedAway:   refused.WithLabelValues("away"),
		refusedFull:   refused.WithLabelValues("full"),
		refreshed:     counter("refreshed_total", "Names loaded again because they changed or may have changed."),
		announcements: counter("announcements_total", "Announcements of changes heard."),
		resyncs:       counter("resyncs_total", "Times that everything known became doubtful."),
		evicted:       counter("evicted_links_total", "Links that others took the place of on a full shelf."),
		listening:     gauge("listening", "1 while changes are heard of."),
		loadSeconds:   seconds("load_seconds", "Duration of a query that loads names."),
		changeSeconds: seconds("change_seconds", "From hearing of a change to serving it."),
		snapshotBytes: gauge("snapshot_bytes", "Size of the last snapshot."),
		snapshotTime:  gauge("snapshot_timestamp_seconds", "When the last snapshot was written."),
		restored:      gauge("restored_entries", "Names known from the snapshot at the start."),
	}
	live := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 {
			d.mu.RLock()
			defer d.mu.RUnlock()
			return float64(value())
		})
	}
	for _, c := range []prometheus.Collector{
		lookups, refused, m.joined, m.loaded, m.timeouts, m.failures, m.refreshed, m.announcements, m.resyncs, m.evicted, m.listening,
		m.loadSeconds, m.changeSeconds, m.snapshotBytes, m.snapshotTime, m.restored,
		live("loads_in_flight", "Names that are being loaded or wait for it.", func() int { return len(d.calls) }),
		live("unknown_names", "Names remembered as unknown.", func() int { return len(d.unknown.young) + len(d.unknown.old) }),
		live("held_names", "Names held beside the cache.", func() int { return len(d.held.young) + len(d.held.old) }),
		live("stale_names", "Names to be loaded again.", d.staleLocked),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + "cache_bytes", Help: "Estimated memory of what is known."},
			func() float64 { return float64(d.shelves.bytes.Load() + d.cache.MaxCost() - d.cache.RemainingCost()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + "shelved_links", Help: "Links known on shelves."},
			func() float64 { return float64(d.shelves.links.Load()) }),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("directory metrics: %w", err)
		}
	}
	return m, nil
}
