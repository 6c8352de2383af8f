package visit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
)

// kind is what a request was for.
type kind int

const (
	kindNotice kind = iota
	kindRedirect
	kindPage
	kindBeacon
	kinds
)

func (k kind) String() string {
	return [...]string{kindNotice: "other", kindRedirect: "redirect", kindPage: "page", kindBeacon: "beacon"}[k]
}

// metrics of the answers. A request costs one atomic addition for its count and two for its duration, some 100 ns together.
type metrics struct {
	requests [kinds][600]prometheus.Counter // by status; nil where it does not occur
	other    [kinds]prometheus.Counter
	seconds  [kinds]prometheus.Observer
	refused  *prometheus.CounterVec
	panics   prometheus.Counter
	lane     prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_redirector_requests_total",
		Help: "Requests answered, by what they were for and the status of the answer.",
	}, []string{"kind", "status"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "spillway_redirector_request_seconds",
		Help:    "From the request's header to its answer, without the network.",
		Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .001, .005, .025, .1, .5, 1},
	}, []string{"kind"})
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_redirector_bad_requests_total",
			Help: "Requests that were not understood or took too long, by the status of the answer.",
		}, []string{"status"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_redirector_panics_total",
			Help: "Requests that could not be answered because of a mistake in the program.",
		}),
	}
	m.lane = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_redirector_lane_requests_total",
		Help: "Redirects that were answered on the short way, without the HTTP server; they are among the requests too.",
	})
	for k := range kinds {
		m.seconds[k] = seconds.WithLabelValues(k.String())
		m.other[k] = requests.WithLabelValues(k.String(), "other")
	}
	for k, statuses := range map[kind][]int{
		kindNotice:   {fasthttp.StatusOK, fasthttp.StatusNotModified, fasthttp.StatusMethodNotAllowed},
		kindRedirect: {fasthttp.StatusFound, fasthttp.StatusNotFound, fasthttp.StatusServiceUnavailable},
		kindPage:     {fasthttp.StatusOK, fasthttp.StatusNotModified, fasthttp.StatusNotFound, fasthttp.StatusServiceUnavailable},
		kindBeacon:   {fasthttp.StatusOK, fasthttp.StatusNoContent, fasthttp.StatusNotFound, fasthttp.StatusServiceUnavailable},
	} {
		for _, status := range statuses {
			m.requests[k][status] = requests.WithLabelValues(k.String(), strconv.Itoa(status))
		}
	}
	for _, c := range []prometheus.Collector{requests, seconds, m.refused, m.panics, m.lane} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("visitors' metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) answered(k kind, status int, took time.Duration) {
	counter := m.other[k]
	if 0 <= status && status < len(m.requests[k]) && m.requests[k][status] != nil {
		counter = m.requests[k][status]
	}
	counter.Inc()
	m.seconds[k].Observe(took.Seconds())
}
