// Package pump drives one HTTP server harder than a goroutine a connection can: one thread, bound to a processor of its own, reads and
// writes many connections through epoll, so that a single core of load saturates a server that costs a few microseconds a request.
//
// Closed asks on every connection again as soon as it is answered: it measures what the server can do. Open asks when visitors come,
// answered or not, and counts each latency from the visitor's arrival: it measures what visitors feel (no coordinated omission).
//
// The requests are those that package load's visitors send, recorded once: real user agents and referrers, Zipf over links.
package pump

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"spillway.dev/bench/load"
)

// Options of a run.
type Options struct {
	// Address of the server, host:port of this machine's loopback.
	Address string
	// Requests are sent one after another, as they are, and again from the first; each must be answered with a Content-Length.
	Requests [][]byte
	// Wanted is the status of a good answer.
	Wanted int
	// Connections that are kept open; zero means 64.
	Connections int
	// Duration is how long is asked; above zero, at most ten minutes.
	Duration time.Duration
	// Once ends a closed run when each request was sent once and answered; Duration is then the most that may take.
	Once bool
	// Rate of an open run's visitors, a second. They come independently of each other.
	Rate float64
	// Seed makes an open run's arrivals the same again.
	Seed uint64
	// Processor that the thread is bound to; negative: any.
	Processor int
}

func (o *Options) check(open bool) error {
	if o.Connections == 0 {
		o.Connections = 64
	}
	host, _, err := net.SplitHostPort(o.Address)
	switch ip := net.ParseIP(host); {
	case err != nil || ip == nil || !ip.IsLoopback():
		return fmt.Errorf("pump: %q is not IP:PORT of this machine's loopback", o.Address)
	case len(o.Requests) == 0:
		return errors.New("pump: there are no requests")
	case o.Connections < 1 || o.Connections > 10_000:
		return errors.New("pump: the connections must be from 1 to 10000")
	case o.Duration <= 0 || o.Duration > 10*time.Minute:
		return errors.New("pump: the duration must be above 0 and at most ten minutes")
	case open && (o.Rate <= 0 || o.Rate > 1e6):
		return errors.New("pump: the rate must be above 0 and at most a million a second")
	}
	return nil
}

// Result is what came back.
type Result struct {
	Answered int64 // with the wanted status
	Refused  int64 // with another
	Lost     int64 // connections that ended before the answer
	Took     time.Duration
	// Waits is nanoseconds from the arrival (closed: from sending) to the answer.
	Waits *hdr.Histogram
	// Late is the longest that a visitor was sent after he came because the pump itself was late, not because all connections were busy.
	Late time.Duration
}

func newResult() *Result { return &Result{Waits: hdr.New(1000, int64(time.Minute), 3)} }

// Rate is how many were answered a second.
func (r *Result) Rate() float64 { return float64(r.Answered) / r.Took.Seconds() }

// Err tells of answers that were not the wanted ones: a figure made from them means nothing.
func (r *Result) Err() error {
	if r.Refused > 0 || r.Lost > 0 {
		return fmt.Errorf("%d of %d requests got another answer, %d none", r.Refused, r.Answered+r.Refused+r.Lost, r.Lost)
	}
	return nil
}

// Host stands in every recorded request.
const Host = "spillway.example"

// Record returns n requests of the visitors that config describes, the bytes that they would send. Of config's targets, rate and duration
// nothing is used.
func Record(ctx context.Context, config load.Config, n int) ([][]byte, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("record visitors: %w", err)
	}
	defer listener.Close()
	var requests [][]byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReaderSize(conn, 64<<10)
		for {
			request, err := recorded(in)
			if err != nil {
				return // the visitors are gone
			}
			requests = append(requests, request)
			if _, err := conn.Write([]byte("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")); err != nil {
				return
			}
		}
	}()
	const rate = 50_000
	config.Targets, config.Rate, config.Even, config.Connections = []string{listener.Addr().String()}, rate, true, 1
	config.Duration = time.Duration(float64(n+1) / rate * float64(time.Second))
	config.Timeout = 30 * time.Second
	l, err := load.New(config, nil)
	if err != nil {
		return nil, fmt.Errorf("record visitors: %w", err)
	}
	if _, err := l.Run(ctx); err != nil {
		return nil, fmt.Errorf("record visitors: %w", err)
	}
	<-done
	if len(requests) < n {
		return nil, fmt.Errorf("record visitors: %d came instead of %d", len(requests), n)
	}
	return requests[:n], nil
}

// recorded reads one request and puts the same Host into each.
func recorded(in *bufio.Reader) ([]byte, error) {
	lines := textproto.NewReader(in)
	var b bytes.Buffer
	for {
		line, err := lines.ReadLineBytes()
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line, []byte("Host: ")) {
			line = []byte("Host: " + Host)
		}
		b.Write(line)
		b.WriteString("\r\n")
		if len(line) == 0 {
			return b.Bytes(), nil
		}
	}
}
