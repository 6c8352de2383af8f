package dashboard

import (
	"sync"
	"time"
)

// reports keeps what was read a moment ago, so that many who watch one page cost as much as one.
type reports struct {
	mu   sync.Mutex // guards kept
	kept map[string]*kept
}

type kept struct {
	once sync.Once
	at   time.Time
	n    *numbers
	err  error
}

// fresh is how long a page's numbers are shown before they are read again.
const fresh = 700 * time.Millisecond

func newReports() *reports { return &reports{kept: map[string]*kept{}} }

func (r *reports) get(key string, read func() (*numbers, error)) (*numbers, error) {
	now := time.Now()
	r.mu.Lock()
	k := r.kept[key]
	if k == nil || now.Sub(k.at) > fresh {
		for old, one := range r.kept {
			if now.Sub(one.at) > fresh {
				delete(r.kept, old)
			}
		}
		k = &kept{at: now}
		r.kept[key] = k
	}
	r.mu.Unlock()
	k.once.Do(func() { k.n, k.err = read() })
	return k.n, k.err
}
