// Package load is an open-loop load generator for a machine with few cores: visitors arrive when they arrive, whether or not the
// ones before them have been answered, and every latency is counted from the moment the visitor wanted the answer. A generator
// that waits for each answer before it sends the next request leaves out exactly the requests that would have had to wait
// (coordinated omission).
//
// One goroutine on a thread of its own sleeps to each arrival and hands it to one of a bounded number of connections. Each request
// carries a marker of its own in utm_content, which ends in ClickHouse, and each attempt goes into the ledger with what became
// of it: with the two, every answered visit can be found again.
//
// A visitor who gets no answer tries the next target, as a load balancer in front of several redirectors does. That is another
// request with another marker.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Link is something that can be clicked.
type Link struct {
	ID   string
	Code string
}

// Config says how many visitors come, when, and what they do.
type Config struct {
	// Targets are the redirectors, host:port. At least one. Connections are spread over them.
	Targets []string
	// Elsewhere allows targets that are not on this machine's loopback.
	Elsewhere bool
	// Handle is the profile whose page is viewed; Links are what is clicked, the first one most.
	Handle string
	Links  []Link
	// Rate is the number of visitors a second; above zero.
	Rate float64
	// Duration is how long they keep coming; above zero, at most an hour.
	Duration time.Duration
	// Even makes them come at equal distances. Otherwise they come independently of each other (a Poisson process), as people do.
	Even bool
	// Connections is how many requests can be under way at once; zero means 64. Who finds none free waits, and the wait counts.
	Connections int
	// Views is the share of visitors who open the page, from 0 to 1; the others click a link.
	Views float64
	// Heads and Prefetches are the shares of clicks that are HEAD requests and prefetches, from 0 to 1.
	Heads, Prefetches float64
	// Zipf is the exponent of the links' popularity, above 1; the larger, the more of the clicks go to the first link. Zero means 1.1.
	Zipf float64
	// Timeout is how long an attempt may take; zero means 5 s.
	Timeout time.Duration
	// Slow is what counts as a slow answer; zero means 100 ms.
	Slow time.Duration
	// Run begins every marker, so that loads can be told apart. Empty: requests are not marked, and the ledger has no markers.
	Run string
	// Seed makes a load the same again.
	Seed uint64
}

// Result is what became of the visitors. Durations of the histograms are in microseconds.
type Result struct {
	Visitors   int64 // who came
	Answered   int64 // who got what they wanted: 302 for a link, 200 for the page
	Refused    int64 // who got another answer, from the last target that they tried
	Unanswered int64 // who got none from any target
	Slow       int64 // of the answered, those who waited longer than Config.Slow
	Retried    int64 // attempts after the first
	// Late is the longest time that an arrival was handed out after it was due: what the generator itself could not keep up with.
	Late time.Duration
	Took time.Duration
	// Waits is from the visitor's arrival to the answer, corrected for coordinated omission; Service is from sending to the answer.
	Waits, Service *hdr.Histogram
}

// Add adds what another load of the same visitors found.
func (r *Result) Add(other *Result) {
	r.Visitors += other.Visitors
	r.Answered += other.Answered
	r.Refused += other.Refused
	r.Unanswered += other.Unanswered
	r.Slow += other.Slow
	r.Retried += other.Retried
	r.Late = max(r.Late, other.Late)
	r.Waits.Merge(other.Waits)
	r.Service.Merge(other.Service)
}

func newResult() *Result {
	const longest = int64(2 * time.Minute / time.Microsecond)
	return &Result{Waits: hdr.New(1, longest, 3), Service: hdr.New(1, longest, 3)}
}

// Load is one run. Make it with New.
type Load struct {
	config  Config
	targets []*target
	ledger  *Ledger
}

// target is a redirector, and until when visitors avoid it because it did not answer.
type target struct {
	address string
	mu      sync.Mutex
	down    time.Time     // guarded by mu
	avoid   time.Duration // guarded by mu
}

// A target that did not answer is avoided while another is there: at first for so long, then longer each time.
const (
	avoidFirst = 100 * time.Millisecond
	avoidMost  = 2 * time.Second
)

func (t *target) up(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.After(t.down)
}

func (t *target) failed(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.down) {
		return // others found the same
	}
	t.avoid = min(max(2*t.avoid, avoidFirst), avoidMost)
	t.down = now.Add(t.avoid)
}

func (t *target) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.avoid = 0
}

// New checks the configuration. Every attempt is written to ledger, which the caller flushes; nil: none is kept.
func New(config Config, ledger io.Writer) (*Load, error) {
	if config.Connections == 0 {
		config.Connections = 64
	}
	if config.Zipf == 0 {
		config.Zipf = 1.1
	}
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	if config.Slow == 0 {
		config.Slow = 100 * time.Millisecond
	}
	share := func(x float64) bool { return x >= 0 && x <= 1 }
	switch {
	case len(config.Targets) == 0:
		return nil, errors.New("load: name at least one target, host:port")
	case config.Rate <= 0 || config.Rate > 1e6:
		return nil, errors.New("load: the rate must be above 0 and at most a million visitors a second")
	case config.Duration <= 0 || config.Duration > time.Hour:
		return nil, errors.New("load: the duration must be above 0 and at most an hour")
	case config.Connections < 1 || config.Connections > 20_000:
		return nil, errors.New("load: the connections must be from 1 to 20000")
	case !share(config.Views) || !share(config.Heads) || !share(config.Prefetches) || config.Heads+config.Prefetches > 1:
		return nil, errors.New("load: the shares of views, HEAD requests and prefetches must be from 0 to 1")
	case config.Views > 0 && config.Handle == "":
		return nil, errors.New("load: there is no profile whose page could be viewed: say its handle, or a share of views of 0")
	case config.Views < 1 && len(config.Links) == 0:
		return nil, errors.New("load: there are no links to click: name some, or a share of views of 1")
	case config.Zipf <= 1:
		return nil, errors.New("load: the exponent of the links' popularity must be above 1")
	}
	l := &Load{config: config}
	for _, address := range config.Targets {
		if err := allowed(address, config.Elsewhere); err != nil {
			return nil, err
		}
		l.targets = append(l.targets, &target{address: address})
	}
	if ledger != nil {
		l.ledger = NewLedger(ledger)
	}
	return l, nil
}

// ErrElsewhere is wrapped where a target is not on this machine and nobody said that this is meant.
var ErrElsewhere = errors.New("is not an address of this machine's loopback: a load belongs to a machine of your own; --elsewhere says that it is")

// allowed refuses targets that are not literal loopback addresses: a name can lead anywhere.
func allowed(address string, elsewhere bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return fmt.Errorf("load: target %q is not host:port", address)
	}
	if host == "localhost" || elsewhere {
		return nil
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.Unmap().IsLoopback() {
		return fmt.Errorf("load: target %s %w", address, ErrElsewhere)
	}
	return nil
}

// Run lets the visitors come and blocks until the last one was answered or gave up. When ctx ends no more come; that is no error.
// The error is the ledger's: the visitors' bad luck is in the result.
func (l *Load) Run(ctx context.Context) (*Result, error) {
	var (
		arrivals = make(chan *arrival, 1<<16)
		total    = newResult()
		mu       sync.Mutex
		wait     sync.WaitGroup
		failed   error
	)
	began := time.Now()
	for i := range l.config.Connections {
		wait.Go(func() {
			v := l.visitor(i)
			for a := range arrivals {
				v.serve(began, a)
			}
			err := v.close()
			mu.Lock()
			defer mu.Unlock()
			total.Add(v.result)
			failed = errors.Join(failed, err)
		})
	}
	late := l.arrive(ctx, began, arrivals)
	close(arrivals)
	wait.Wait()
	total.Took = time.Since(began)
	total.Late = late
	return total, failed
}
