package shipper

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

type metrics struct {
	events, batches, bytes, announcements, restarts, rewound prometheus.Counter
	errors                                                   *prometheus.CounterVec
	latency                                                  prometheus.Histogram
	age                                                      prometheus.GaugeFunc

	live, older atomic.Int64 // time of the oldest event that is not acknowledged, µs since 1970; 0: none
}

func newMetrics(clock func() time.Time) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "spillway_redirector_shipper_" + name, Help: help})
	}
	m := &metrics{
		events:        counter("events_total", "Events acknowledged by Kafka."),
		batches:       counter("batches_total", "Batches of events acknowledged by Kafka."),
		bytes:         counter("bytes_total", "Bytes acknowledged by Kafka, before compression."),
		announcements: counter("announcements_total", "Announcements acknowledged by Kafka, one a partition."),
		restarts:      counter("restarts_total", "Times that the Kafka client was thrown away to send again from the journal's cursor."),
		rewound:       counter("rewound_events_total", "Acknowledged events that were sent again because the brokers had lost data."),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spillway_redirector_shipper_errors_total",
			Help: "Failures by kind."}, []string{"kind"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "spillway_redirector_shipper_latency_seconds",
			Help:    "From the answer to the visitor to Kafka's acknowledgement, of each batch's first event.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 60, 600, 3600}}),
	}
	m.age = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_redirector_shipper_oldest_unshipped_seconds",
		Help: "Age of the oldest event that was read from the journal and is not acknowledged by Kafka; 0 if there is none."},
		func() float64 {
			oldest := m.live.Load()
			if older := m.older.Load(); oldest == 0 || older != 0 && older < oldest {
				oldest = older
			}
			if oldest == 0 {
				return 0
			}
			return max(clock().Sub(time.UnixMicro(oldest)).Seconds(), 0)
		})
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.events, m.batches, m.bytes, m.announcements, m.restarts, m.rewound, m.errors, m.latency, m.age}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range m.all() {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.all() {
		r.Unregister(c)
	}
}

// OnBrokerConnect counts connections that fail; the client goes on trying by itself.
func (m *metrics) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		m.errors.WithLabelValues("connect").Inc()
	}
}

const badPartition = "invalid record partitioning choice"

// kind names an error for the metric: few values, each a reason to look somewhere.
func kind(err error) string {
	var code *kerr.Error
	switch {
	case errors.Is(err, errStalled):
		return "stalled"
	case errors.Is(err, errLost):
		return "lost"
	case errors.As(err, &code):
		return strings.ToLower(code.Message)
	case strings.Contains(err.Error(), badPartition):
		return "partitions"
	case errors.Is(err, kgo.ErrClientClosed):
		return "closed"
	}
	return "other"
}
