package directory

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"time"
)

const (
	refreshTimeout = 3 * time.Second
	refreshAgain   = 100 * time.Millisecond // after a failure, doubled up to refreshAtMost
	refreshAtMost  = time.Second
)

// refresh loads again what changed or may have changed, until ctx ends. It is the only one who replaces a value: an older one never
// replaces a newer one.
func (d *Directory) refresh(ctx context.Context) {
	wait := refreshAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		}
		for ctx.Err() == nil {
			more, err := d.refreshSome(ctx)
			if err == nil && !more {
				wait = refreshAgain
				break
			}
			if err == nil {
				continue
			}
			// The listener says that PostgreSQL is away, or settle did.
			d.log.Debug("load changed profiles and links again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, refreshAtMost)
		}
	}
}

// refreshSome loads some again and tells whether there is more.
func (d *Directory) refreshSome(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	work, heard := d.takeStale()
	if work.relist {
		domains, err := d.queryDomains(ctx)
		if err != nil {
			d.giveBack(work, heard)
			return true, err
		}
		d.domains.Store(&domains)
	}
	if len(work.keys) > 0 {
		values, err := d.query(ctx, work.keys)
		if err != nil {
			d.giveBack(work, heard)
			return true, fmt.Errorf("load again: %w", err)
		}
		d.replace(work.keys, values)
		d.metrics.refreshed.Add(float64(len(work.keys)))
		d.unsaved.Store(true)
		if !heard.IsZero() {
			d.metrics.changeSeconds.Observe(time.Since(heard).Seconds())
		}
	}
	return d.settled(work.relist || len(work.keys) > 0), nil
}

// asked is what became of a name while refresh asks PostgreSQL for it. The directory's mu guards it.
type asked struct {
	overtaken bool // it was announced as changed: what refresh finds is served, and loaded again
	loaded    bool // it was let go of and a visitor had it loaded: what refresh finds may be older
}

// replace puts what PostgreSQL said in place of what was known of names. What is not known any more does not become so.
func (d *Directory) replace(keys []key, values map[key]*value) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		if a := d.asking[k]; !a.loaded {
			d.replaceLocked(k, values[k], a.overtaken)
		}
		delete(d.asking, k)
	}
}

func (d *Directory) replaceLocked(k key, v *value, overtaken bool) {
	hash := d.hashOf(k)
	s, i := d.shelfLocked(k, hash)
	if i < 0 {
		if e := d.entryLocked(k, hash); e != nil {
			e.value.Store(v)
		}
		return
	}
	switch {
	case v.fits() && bytes.Equal(s.at(i), v.link):
	case v.fits():
		d.metrics.evicted.Add(float64(d.shelves.replace(hash, i, v.link)))
	default:
		d.shelves.replace(hash, i, nil)
		switch {
		case v != nil: // too large now
			e := newEntry(k, v)
			e.use()
			d.holdLocked(e, hash)
		case !overtaken:
			d.unknown.add(hash)
		}
	}
}

// stale is a share of what is to be loaded again.
type stale struct {
	keys    []key
	changed bool // announced, not just doubtful
	relist  bool
}

// doubtful is what may have changed, beside the links whose shelves say so: those come between the first and the rest if they were
// asked for lately, and after the rest otherwise. The directory's mu guards it.
type doubtful struct {
	first, rest []key
	pass, place int // how far the shelves have been gone through, and how many times
}

// takeStale takes what was announced before what is doubtful.
func (d *Directory) takeStale() (work stale, heard time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	work.relist, d.relist = d.relist, false
	var keys []key
	if work.changed = len(d.changed) > 0; work.changed {
		heard, d.heard = d.heard, time.Time{}
		for k := range d.changed {
			if len(keys) == refreshed {
				d.heard = heard
				break
			}
			keys = append(keys, k)
			delete(d.changed, k)
		}
	} else {
		keys = d.takeDoubtfulLocked()
	}
	for _, k := range keys {
		if d.asking[k] == nil { // what was given back may be doubtful twice
			d.asking[k] = &asked{}
			work.keys = append(work.keys, k)
		}
	}
	return work, heard
}

// takeDoubtfulLocked takes a query's share of what is doubtful.
func (d *Directory) takeDoubtfulLocked() (keys []key) {
	q := &d.doubtful
	if n := min(len(q.first), refreshed); n > 0 {
		keys, q.first = q.first[:n:n], q.first[n:]
		return keys
	}
	for ; q.pass < 2; q.pass, q.place = q.pass+1, 0 {
		for ; q.place < len(d.shelves.table); q.place++ {
			s := d.shelves.table[q.place].Load()
			if s == nil {
				continue
			}
			for taken := s.doubt; ; {
				if q.pass == 0 {
					taken &= s.recent.Load()
				}
				if taken == 0 {
					break
				}
				if len(keys) == refreshed {
					return keys
				}
				i := bits.TrailingZeros64(taken)
				keys = append(keys, s.at(i).key())
				taken &^= 1 << i
				s.doubt &^= 1 << i
			}
		}
		if q.pass == 0 && len(q.rest) > 0 {
			q.first, q.rest = q.rest, nil
			q.pass, q.place = 1, 0
			if len(keys) == 0 {
				return d.takeDoubtfulLocked()
			}
			return keys
		}
	}
	return keys
}

// giveBack notes that work was not done.
func (d *Directory) giveBack(work stale, heard time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.relist = d.relist || work.relist
	for _, k := range work.keys {
		delete(d.asking, k)
		if work.changed {
			d.changed[k] = struct{}{}
		}
	}
	if work.changed {
		d.heard = heard
	} else {
		d.doubtful.first = append(work.keys, d.doubtful.first...)
	}
}

// staleLocked is how many names are to be loaded again.
func (d *Directory) staleLocked() int {
	n := len(d.changed) + len(d.doubtful.first) + len(d.doubtful.rest)
	d.shelves.each(func(s *shelf) { n += bits.OnesCount64(s.doubt) })
	return n
}

// settled tells whether there is more to load again, and says when a resynchronisation is complete. answered says that PostgreSQL
// has just done so.
func (d *Directory) settled(answered bool) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answered {
		d.backLocked()
	}
	more = d.relist || len(d.changed) > 0 || len(d.doubtful.first) > 0 || d.doubtful.pass < 2
	if !more {
		if !d.resynced.IsZero() {
			d.log.Debug("everything known has been compared with PostgreSQL", "took", time.Since(d.resynced).Round(time.Millisecond))
			d.resynced = time.Time{}
		}
	}
	return more
}
