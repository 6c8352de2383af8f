// Package limit says how often somebody may do something: a quota in a window, refilled evenly (the generic cell rate algorithm), and
// the header fields that tell the client (draft-ietf-httpapi-ratelimit-headers-10).
package limit

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Policy is a quota: so many in a window.
type Policy struct {
	Name   string
	Quota  int // at least 1
	Window time.Duration
}

// maxKeys bounds the memory of one limiter. Beyond it those who have used least are forgotten first.
const maxKeys = 100_000

// Limiter counts by key, in memory: each process has quotas of its own.
type Limiter struct {
	policy Policy
	each   time.Duration // that one use costs
	now    func() time.Time

	mu   sync.Mutex // guards what follows
	busy map[string]time.Time
}

// New returns a limiter. now nil: time.Now.
func New(p Policy, now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{policy: p, each: p.Window / time.Duration(p.Quota), now: now, busy: map[string]time.Time{}}
}

// Decision is the answer to one use.
type Decision struct {
	Allowed   bool
	Remaining int
	// Reset is when the whole quota is there again.
	Reset time.Duration
	// Retry is when the next use is allowed; zero if it is now.
	Retry  time.Duration
	policy Policy
}

// Take uses the key's quota once, if there is any left.
func (l *Limiter) Take(key string) Decision {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.busy) >= maxKeys {
		l.forget(now)
	}
	until := l.busy[key] // the time at which all uses so far are paid for
	if until.Before(now) {
		until = now
	}
	d := Decision{policy: l.policy}
	if next := until.Add(l.each); next.Sub(now) <= l.policy.Window {
		until, d.Allowed = next, true
		l.busy[key] = until
	} else {
		d.Retry = next.Sub(now) - l.policy.Window
	}
	d.Reset = until.Sub(now)
	d.Remaining = int((l.policy.Window - d.Reset) / l.each)
	return d
}

// forget makes room: whoever's quota is whole again is as one who never came; if that is not enough, half of the others are forgotten.
func (l *Limiter) forget(now time.Time) {
	for key, until := range l.busy {
		if !until.After(now) {
			delete(l.busy, key)
		}
	}
	for key := range l.busy {
		if len(l.busy) < maxKeys/2 {
			return
		}
		delete(l.busy, key)
	}
}

// Write sets the header fields that tell of the decision: RateLimit, RateLimit-Policy, and Retry-After when it was refused.
func (d Decision) Write(set func(name, value string)) {
	seconds := func(t time.Duration) string { return strconv.Itoa(int(math.Ceil(t.Seconds()))) }
	set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%s", d.policy.Name, d.policy.Quota, seconds(d.policy.Window)))
	set("RateLimit", fmt.Sprintf("%q;r=%d;t=%s", d.policy.Name, d.Remaining, seconds(d.Reset)))
	if !d.Allowed {
		set("Retry-After", seconds(max(d.Retry, time.Second)))
	}
}

// Headers sets the header fields in h.
func (d Decision) Headers(h http.Header) { d.Write(h.Set) }
