package load

import (
	"errors"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"spillway.dev/bench/visit"
)

// visitor is one connection to each target, used by one goroutine.
type visitor struct {
	load    *Load
	home    int // the target that it asks first
	clients []*visit.Client
	result  *Result
	target  []byte
	ledger  *page
}

func (l *Load) visitor(i int) *visitor {
	v := &visitor{load: l, home: i % len(l.targets), result: newResult()}
	for _, t := range l.targets {
		v.clients = append(v.clients, visit.New(t.address))
	}
	if l.ledger != nil {
		v.ledger = l.ledger.page()
	}
	return v
}

func (v *visitor) close() error {
	for _, c := range v.clients {
		c.Close()
	}
	if v.ledger == nil {
		return nil
	}
	return v.ledger.close()
}

// serve makes the arrival's request, at one target after another until one answers.
func (v *visitor) serve(began time.Time, a *arrival) {
	v.result.Visitors++
	due := began.Add(a.at)
	first := v.first()
	for attempt := range len(v.clients) {
		at := (first + attempt) % len(v.clients)
		record := Record{Kind: a.kind(), Link: a.link.ID, Method: a.method(), Target: at, Marker: v.load.marker(a.n, attempt)}
		request := v.request(a, record.Marker)
		record.Sent = time.Now()
		answer, err := v.clients[at].Do(&request, record.Sent.Add(v.load.config.Timeout))
		now := time.Now()
		record.Took, record.Status, record.NotSent = now.Sub(record.Sent), answer.Status, errors.Is(err, visit.ErrNotSent)
		if v.ledger != nil {
			v.ledger.write(&record)
		}
		if attempt > 0 {
			v.result.Retried++
		}
		if err != nil {
			v.load.targets[at].failed(now)
			continue
		}
		v.load.targets[at].answered()
		if answer.Status >= 500 && attempt+1 < len(v.clients) {
			continue // the next one may be better off
		}
		count(v.result.Service, record.Took)
		count(v.result.Waits, now.Sub(due))
		if answer.Status != a.wanted() {
			v.result.Refused++
			return
		}
		v.result.Answered++
		if now.Sub(due) > v.load.config.Slow {
			v.result.Slow++
		}
		return
	}
	v.result.Unanswered++
}

// first returns the visitor's own target, or the next one that is not avoided.
func (v *visitor) first() int {
	if len(v.clients) == 1 {
		return v.home
	}
	now := time.Now()
	for i := range len(v.clients) {
		if at := (v.home + i) % len(v.clients); v.load.targets[at].up(now) {
			return at
		}
	}
	return v.home
}

// request is what the arrival's browser sends. Its target points into v and holds until the next call.
func (v *visitor) request(a *arrival, marker string) visit.Request {
	b := v.target[:0]
	if a.view {
		b = append(b, '/')
		b = append(b, v.load.config.Handle...)
	} else {
		b = append(b, "/l/"...)
		b = append(b, a.link.Code...)
	}
	if marker != "" {
		b = append(b, "?utm_content="...)
		b = append(b, marker...)
	}
	v.target = b
	r := visit.Request{
		Method: a.method(), Target: string(b),
		UserAgent: a.agent, Referrer: a.referrer, ForwardedFor: a.address, AcceptLanguage: "en-GB,en;q=0.8",
	}
	if a.prefetch {
		r.Purpose = "prefetch"
	}
	return r
}

// count adds a duration, in microseconds, to a histogram. What is longer than the histogram reaches counts as its longest.
func count(h *hdr.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d/time.Microsecond), 1), h.HighestTrackableValue()))
}
