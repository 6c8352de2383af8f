// Package export streams single events out of ClickHouse as Arrow, Parquet, CSV or NDJSON: ClickHouse writes the format, and its bytes
// go to the client as they come. Nothing is kept on the way but the last few kilobytes, by which a result that ClickHouse gave up is told from a whole one.
//
// The columns, their names, their order and their types are those of the data dictionary (package schemas/dictionary), so that a stream equals the
// Parquet files of `spillway export`.
package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/service/engines"
)

const (
	// silence is how long ClickHouse may send nothing: a sort of many events sends nothing for a while.
	silence = 5 * time.Minute
	// defaultAtOnce and defaultEach bound the exports that run.
	defaultAtOnce = 4
	defaultEach   = 2
	// defaultMemory is ClickHouse's memory for one export, in bytes.
	defaultMemory = 1 << 30
)

var (
	// ErrBusy means that as many exports are running as may run at once.
	ErrBusy = errors.New("as many exports as may run at once are running")
	// ErrAway means that ClickHouse cannot be reached, or has no room for another query now.
	ErrAway = errors.New("ClickHouse does not answer now")
	// ErrBroken means that ClickHouse gave the result up in the middle.
	ErrBroken = errors.New("the result broke off")
)

// Options of a Source.
type Options struct {
	// AtOnce is how many exports may run at the same time in this process, and Each how many of them for one client. Zero: 4 and 2.
	AtOnce, Each int
	// Memory is how much of ClickHouse's memory one export may take, in bytes. Zero: 1 GiB. A sort that needs more than a quarter of it goes through
	// ClickHouse's disk.
	Memory int64
	// Settings are further settings of ClickHouse's for every query. Nil: none.
	Settings map[string]string
}

// Source gives events as streams of bytes. It is safe for use by several goroutines.
type Source struct {
	client   *http.Client
	address  string
	user     string
	password string
	layout   schema.Layout
	options  Options

	mu      sync.Mutex
	running map[string]int // exports that run, by client
	total   int

	bytes prometheus.Counter
	ended *prometheus.CounterVec
}

// NewSource returns a source for CLICKHOUSE_URL. It does not ask the server yet.
func NewSource(where engines.Addresses, o Options, metrics prometheus.Registerer) (*Source, error) {
	own, layout, err := where.ClickHouseOptions()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(where.ClickHouse)
	if err != nil {
		return nil, fmt.Errorf("CLICKHOUSE_URL: %w", err)
	}
	if o.AtOnce == 0 {
		o.AtOnce = defaultAtOnce
	}
	if o.Each == 0 {
		o.Each = defaultEach
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	s := &Source{
		client: &http.Client{Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: own.DialTimeout}).DialContext,
			TLSClientConfig:     own.TLS,
			MaxIdleConnsPerHost: o.AtOnce,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		}},
		address: u.Scheme + "://" + u.Host + "/", user: own.Auth.Username, password: own.Auth.Password, layout: layout, options: o,
		running: map[string]int{},
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_profileapi_export_bytes_total", Help: "Bytes of exports as ClickHouse wrote them."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_profileapi_exports_total", Help: "Exports by how they ended: whole, refused (too many at once), failed (before the first byte), broken (after it), left (the client went away)."}, []string{"end"}),
	}
	active := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_profileapi_exports_running", Help: "Exports that are running."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.total)
	})
	for _, c := range []prometheus.Collector{s.bytes, s.ended, active} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of exports: %w", err)
		}
	}
	return s, nil
}

// take takes one of the client's places.
func (s *Source) take(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.options.AtOnce || s.running[client] >= s.options.Each {
		return false
	}
	s.total++
	s.running[client]++
	return true
}

func (s *Source) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.running[client]--; s.running[client] == 0 {
		delete(s.running, client)
	}
}

// Open starts a query and waits until its result begins, so that what is wrong by then is an error: ErrBusy, ErrAway, or another that the client
// cannot do anything about. client names who asks. The query ends when ctx does. The caller closes the stream.
func (s *Source) Open(ctx context.Context, client string, q Query) (_ *Stream, err error) {
	if !s.take(client) {
		s.ended.WithLabelValues("refused").Inc()
		return nil, ErrBusy
	}
	gone := func() bool { return ctx.Err() != nil }
	asking, stop := context.WithCancel(ctx)
	defer func() {
		if err == nil {
			return
		}
		end := "failed"
		if gone() {
			end = "left"
		}
		s.ended.WithLabelValues(end).Inc()
		stop()
		s.leave(client)
	}()
	values := url.Values{"database": {s.layout.Database}, "query_id": {"spillway-api-export-" + strings.ToLower(rand.Text())}}
	for name, value := range q.settings(s.options.Memory) {
		values.Set(name, value)
	}
	for name, value := range s.options.Settings {
		values.Set(name, value)
	}
	request, err := http.NewRequestWithContext(asking, http.MethodPost, s.address+"?"+values.Encode(), strings.NewReader(q.sql(s.layout)))
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	request.Header.Set("X-ClickHouse-User", s.user)
	if s.password != "" {
		request.Header.Set("X-ClickHouse-Key", s.password)
	}
	idle := time.AfterFunc(silence, stop)
	response, err := s.client.Do(request)
	idle.Stop()
	if err != nil {
		var address *url.Error
		if errors.As(err, &address) {
			err = address.Err // without the URL, which is long
		}
		if gone() {
			return nil, fmt.Errorf("ask ClickHouse: %w", err)
		}
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, refusal(response)
	}
	return &Stream{source: s, client: client, body: response.Body, tag: response.Header.Get("X-ClickHouse-Exception-Tag"), stop: stop, idle: idle, gone: gone}, nil
}

// refusal is the error of an answer that says that ClickHouse did not do it.
func refusal(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 2000))
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	switch response.Header.Get("X-ClickHouse-Exception-Code") {
	// MEMORY_LIMIT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, TIMEOUT_EXCEEDED, UNKNOWN_TABLE and UNKNOWN_DATABASE (not migrated yet),
	// ALL_CONNECTION_TRIES_FAILED.
	case "241", "202", "159", "60", "81", "279":
		return fmt.Errorf("%w: %s", ErrAway, first)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return fmt.Errorf("ClickHouse refused an export: %s (status %d)", first, response.StatusCode)
}
