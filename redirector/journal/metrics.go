package journal

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are what the background work counts.
type counters struct {
	unreadable     atomic.Uint64
	syncs          atomic.Uint64
	syncNanos      atomic.Uint64
	failures       atomic.Uint64
	stateFailing   atomic.Bool
	recycleFailing atomic.Bool
}

// Stats is what a journal has done since it was opened, and what it holds.
type Stats struct {
	Appended   uint64  // events
	Written    uint64  // bytes of these events
	Dropped    uint64  // events that got no room
	Unreadable uint64  // events that a reader could not read
	Pending    uint64  // events of all streams that are not acknowledged, as far as they are known
	Bytes      int64   // size of segments and spares
	Streams    int     // streams that are not finished, the live one among them
	Syncs      uint64  // rounds of forcing bytes to the disk
	SyncTime   float64 // seconds that these took
	Failures   uint64  // operations on the disk that failed
}

// Stats returns the present figures.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	s := Stats{Appended: j.appended, Written: j.written, Dropped: j.dropped}
	j.mu.Unlock()
	s.Unreadable = j.counters.unreadable.Load()
	s.Bytes = j.used.Load()
	for _, x := range j.Streams() {
		s.Streams++
		if last, acknowledged := x.last.Load(), x.acknowledged.Load(); last > acknowledged {
			s.Pending += last - acknowledged
		}
	}
	s.Syncs = j.counters.syncs.Load()
	s.SyncTime = float64(j.counters.syncNanos.Load()) / 1e9
	s.Failures = j.counters.failures.Load()
	return s
}

// collector reads the figures when they are asked for: an append touches no metric.
type collector struct {
	j *Journal

	appended, written, dropped, unreadable, pending, bytes, limit, streams, syncs, syncTime, failures *prometheus.Desc
}

func newCollector(j *Journal) *collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("spillway_redirector_journal_"+name, help, nil, nil)
	}
	return &collector{
		j:          j,
		appended:   desc("appended_events_total", "Events journaled."),
		written:    desc("appended_bytes_total", "Bytes of these events, as they are sent to Kafka."),
		dropped:    desc("dropped_events_total", "Events that were not journaled because there was no room; the visitor was answered all the same."),
		unreadable: desc("unreadable_events_total", "Events that were journaled and cannot be read any more."),
		pending:    desc("pending_events", "Events journaled and not yet acknowledged by Kafka."),
		bytes:      desc("size_bytes", "Size of the journal's segments and spares."),
		limit:      desc("limit_bytes", "Size at which events are dropped."),
		streams:    desc("streams", "Streams that are not completely shipped, the live one among them."),
		syncs:      desc("syncs_total", "Rounds of forcing appended bytes to the disk."),
		syncTime:   desc("sync_seconds_total", "Time spent in these rounds."),
		failures:   desc("disk_failures_total", "Operations on the journal's disk that failed."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.appended, c.written, c.dropped, c.unreadable, c.pending, c.bytes, c.limit, c.streams, c.syncs, c.syncTime, c.failures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.j.Stats()
	counter := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter(c.appended, float64(s.Appended))
	counter(c.written, float64(s.Written))
	counter(c.dropped, float64(s.Dropped))
	counter(c.unreadable, float64(s.Unreadable))
	gauge(c.pending, float64(s.Pending))
	gauge(c.bytes, float64(s.Bytes))
	gauge(c.limit, float64(c.j.o.MaxBytes))
	gauge(c.streams, float64(s.Streams))
	counter(c.syncs, float64(s.Syncs))
	counter(c.syncTime, s.SyncTime)
	counter(c.failures, float64(s.Failures))
}
