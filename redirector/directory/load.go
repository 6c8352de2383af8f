package directory

import (
	"context"
	"slices"
	"time"
)

const (
	loaders   = 4   // queries at once
	batch     = 256 // names in a query
	refreshed = 512 // names in a query that loads again
	probe     = 500 * time.Millisecond
)

// call is one load of one name, shared by all who ask for it.
type call struct {
	key  key
	hash uint64
	done chan struct{}

	// Set before done is closed.
	value *value
	err   error

	// overtaken says that the name was announced as changed while it was being loaded. The directory's mu guards it.
	overtaken bool
}

// load returns what PostgreSQL knows about a name.
func (d *Directory) load(k key, hash uint64) (*value, error) {
	c, v, err := d.join(k, hash)
	if c == nil {
		return v, err
	}
	timer := time.NewTimer(d.o.LoadTimeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.value, c.err
	case <-timer.C:
		d.metrics.timeouts.Inc()
		return nil, ErrAway
	}
}

// join returns the call to wait for, or, if there is none, what has become known in the meantime.
func (d *Directory) join(k key, hash uint64) (*call, *value, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, known := d.valueLocked(k, hash); known {
		return nil, v, nil
	}
	if d.unknown.has(hash) {
		return nil, nil, ErrUnknown
	}
	if c := d.calls[k]; c != nil {
		d.metrics.joined.Inc()
		return c, nil, nil
	}
	now := time.Now()
	switch {
	case d.closed:
		return nil, nil, ErrAway
	case d.away && now.Before(d.retryAt):
		d.metrics.refusedAway.Inc()
		return nil, nil, ErrAway
	case len(d.calls) >= d.o.MaxLoads:
		d.metrics.refusedFull.Inc()
		return nil, nil, ErrAway
	}
	if d.away { // this one tries whether it is back; the others wait for its answer, not for their own
		d.retryAt = now.Add(probe)
	}
	c := &call{key: k, hash: hash, done: make(chan struct{})}
	d.calls[k] = c
	d.queue = append(d.queue, c)
	if d.loaders < loaders {
		d.loaders++
		d.running.Go(d.loader)
	}
	return c, nil, nil
}

// entryLocked returns the entry of a name that has one.
func (d *Directory) entryLocked(k key, hash uint64) *entry {
	if e := d.held.get(hash); e != nil && e.key() == k {
		return e
	}
	if e, ok := d.cache.Get(hash); ok && e.key() == k {
		return e
	}
	return nil
}

// shelfLocked returns the shelf that a link is on, and where; -1 if it is on none.
func (d *Directory) shelfLocked(k key, hash uint64) (*shelf, int) {
	if k.kind != kindLink {
		return nil, -1
	}
	s := d.shelves.place(hash).Load()
	return s, s.find(hash, k.host, []byte(k.name))
}

// valueLocked returns what is known of a name, and whether anything is.
func (d *Directory) valueLocked(k key, hash uint64) (v *value, known bool) {
	if s, i := d.shelfLocked(k, hash); i >= 0 {
		return &value{link: s.at(i)}, true
	}
	if e := d.entryLocked(k, hash); e != nil {
		return e.value.Load(), true
	}
	return nil, false
}

// loader loads what is queued until there is nothing.
func (d *Directory) loader() {
	for {
		calls := d.take()
		if calls == nil {
			return
		}
		keys := make([]key, len(calls))
		for i, c := range calls {
			keys[i] = c.key
		}
		ctx, cancel := context.WithTimeout(d.stopping, d.o.LoadTimeout)
		began := time.Now()
		values, err := d.query(ctx, keys)
		cancel()
		d.metrics.loadSeconds.Observe(time.Since(began).Seconds())
		d.settle(calls, values, err)
	}
}

func (d *Directory) take() []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.queue), batch)
	if n == 0 {
		d.loaders--
		return nil
	}
	calls := slices.Clone(d.queue[:n])
	d.queue = slices.Delete(d.queue, 0, n)
	return calls
}

// settle makes the results of a query known and lets everybody go on who waits for them.
func (d *Directory) settle(calls []*call, values map[key]*value, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.awayLocked(err)
		// Those who wait would only find out the same, one query after another.
		calls = append(calls, d.queue...)
		d.queue = nil
	} else {
		d.backLocked()
	}
	for _, c := range calls {
		delete(d.calls, c.key)
		v := values[c.key]
		switch {
		case err != nil:
			c.err = ErrAway
		case v != nil:
			c.value = d.becomesKnownLocked(c.key, c.hash, v)
			if c.overtaken {
				d.changed[c.key] = struct{}{}
				d.wake()
			}
		default:
			c.err = ErrUnknown
			if !c.overtaken {
				d.unknown.add(c.hash)
			}
		}
		close(c.done)
	}
}

// becomesKnownLocked makes known what a visitor's load found, and returns what is known now.
func (d *Directory) becomesKnownLocked(k key, hash uint64, v *value) *value {
	if known, ok := d.valueLocked(k, hash); ok { // it may be newer
		d.changed[k] = struct{}{}
		d.wake()
		return known
	}
	if a := d.asking[k]; a != nil {
		a.loaded = true
	}
	if v.fits() {
		_, evicted := d.shelves.add(hash, v.link, true, true)
		d.metrics.evicted.Add(float64(evicted))
	} else {
		e := newEntry(k, v)
		e.use()
		d.holdLocked(e, hash)
	}
	d.unsaved.Store(true)
	return v
}

func (d *Directory) awayLocked(err error) {
	if d.closed {
		return
	}
	d.metrics.failures.Inc()
	if !d.away {
		d.log.Warn("PostgreSQL does not answer; what is known is served, the rest is asked to come again", "error", err)
	}
	d.away = true
	d.retryAt = time.Now().Add(probe)
}

func (d *Directory) backLocked() {
	if d.away {
		d.log.Info("PostgreSQL answers again")
	}
	d.away = false
}

func (d *Directory) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}
