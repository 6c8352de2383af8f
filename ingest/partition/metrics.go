package partition

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what all owners of a process count together.
type Metrics struct {
	rows, inserts, skipped, expired, batches, passed prometheus.Counter
	takes, refused, doubts, rewinds                  *prometheus.CounterVec
	insertSeconds, takeSeconds, rowsAnInsert         prometheus.Histogram
	lag, lagSeconds, holes, missing, owned           *prometheus.GaugeVec
	hits, misses                                     prometheus.Counter
	freshness                                        *freshness
}

// NewMetrics registers the metrics of owners.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "spillway_ingest_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	counters := func(name, label, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spillway_ingest_" + name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	gauges := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spillway_ingest_" + name, Help: help}, []string{"partition"})
		r.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "spillway_ingest_" + name, Help: help, Buckets: buckets})
		r.MustRegister(h)
		return h
	}
	m := &Metrics{
		rows:    counter("rows_total", "Events inserted into ClickHouse and answered."),
		inserts: counter("inserts_total", "Inserts of events that were answered."),
		batches: counter("batches_total", "Batches of events read from Kafka."),
		skipped: counter("skipped_events_total", "Events read from Kafka that the table had already."),
		expired: counter("expired_events_total", "Events set aside because their month is older than the retention."),
		passed:  counter("passed_records_total", "Records that Kafka's retention dropped before they were read."),
		takes:   counters("takes_total", "partition", "Times that a partition was taken."),
		refused: counters("refused_total", "partition", "Times that a partition was given up because somebody else had taken it."),
		doubts:  counters("doubts_total", "cause", "Times that an owner was in doubt and took its partition again, by cause."),
		rewinds: counters("rewinds_total", "cause", "Times that a partition was read again from before its commit, by cause."),

		insertSeconds: histogram("insert_duration_seconds", "From sending an insert of events to its answer.", prometheus.ExponentialBuckets(0.002, 2, 14)),
		takeSeconds:   histogram("take_duration_seconds", "From a new term to the first record read.", prometheus.ExponentialBuckets(0.005, 2, 14)),
		rowsAnInsert:  histogram("insert_rows", "Rows of an insert.", prometheus.ExponentialBuckets(1, 4, 10)),

		lag:        gauges("lag_records", "Records between the log's end and what is inserted, as of the newest fetch."),
		lagSeconds: gauges("lag_seconds", "Age of the oldest record that is read and not inserted; 0: none."),
		holes:      gauges("holes", "Runs of sequences missing below the highest of their streams, as of the newest look."),
		missing:    gauges("missing_events", "Events announced and not there since a while, as of the newest look."),
		owned:      gauges("owned", "1 while this process owns the partition."),

		hits:   counter("agent_cache_hits_total", "User agents whose meaning was remembered."),
		misses: counter("agent_cache_misses_total", "User agents that had to be read."),

		freshness: newFreshness(),
	}
	for _, cause := range []string{causeInsert, causeFetch, causeKafka, causeClickHouse, causeTerm, causeTopic} {
		m.doubts.WithLabelValues(cause)
	}
	for _, cause := range []string{rewindStarted, rewindMissing, rewindAsked} {
		m.rewinds.WithLabelValues(cause)
	}
	r.MustRegister(m.freshness)
	return m
}

func label(partition int32) string { return strconv.Itoa(int(partition)) }

// forget removes what is said of a partition that is no longer owned.
func (m *Metrics) forget(partition int32) {
	for _, g := range []*prometheus.GaugeVec{m.lag, m.lagSeconds, m.holes, m.missing, m.owned} {
		g.DeleteLabelValues(label(partition))
	}
}

// freshness is a histogram to which a whole block is added at once: prometheus's own costs more an event than decoding does.
type freshness struct {
	description *prometheus.Desc
	bounds      []time.Duration
	counts      []atomic.Uint64 // not cumulative; the last one is beyond all bounds
	sum         atomic.Int64    // milliseconds
}

func newFreshness() *freshness {
	f := &freshness{
		description: prometheus.NewDesc("spillway_ingest_freshness_seconds", "From an event's answer to the visitor to its answered insert.", nil, nil),
		bounds: []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond,
			time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour},
	}
	f.counts = make([]atomic.Uint64, len(f.bounds)+1)
	return f
}

// observe adds the age of each event at a time; times are microseconds since 1970. Neighbours are of about the same age, so the search begins where the last one ended.
func (f *freshness) observe(times []int64, now time.Time) {
	at, run, sum := 0, uint64(0), int64(0)
	micros := now.UnixMicro()
	for _, t := range times {
		age := time.Duration(micros-t) * time.Microsecond
		before := at
		for at > 0 && age <= f.bounds[at-1] {
			at--
		}
		for at < len(f.bounds) && age > f.bounds[at] {
			at++
		}
		if at != before {
			f.counts[before].Add(run)
			run = 0
		}
		run++
		sum += micros - t
	}
	f.counts[at].Add(run)
	f.sum.Add(sum / 1000)
}

func (f *freshness) Describe(to chan<- *prometheus.Desc) { to <- f.description }

func (f *freshness) Collect(to chan<- prometheus.Metric) {
	buckets, total := make(map[float64]uint64, len(f.bounds)), uint64(0)
	for i, b := range f.bounds {
		total += f.counts[i].Load()
		buckets[b.Seconds()] = total
	}
	total += f.counts[len(f.bounds)].Load()
	to <- prometheus.MustNewConstHistogram(f.description, total, float64(f.sum.Load())/1000, buckets)
}
