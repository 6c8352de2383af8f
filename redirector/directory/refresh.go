package directory

import (
	"context"
	"fmt"
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
	if len(work.entries) > 0 {
		keys := make([]key, len(work.entries))
		for i, e := range work.entries {
			keys[i] = e.key()
		}
		values, err := d.query(ctx, keys)
		if err != nil {
			d.giveBack(work, heard)
			return true, fmt.Errorf("load again: %w", err)
		}
		for _, e := range work.entries {
			e.value.Store(values[e.key()])
		}
		d.metrics.refreshed.Add(float64(len(keys)))
		d.unsaved.Store(true)
		if !heard.IsZero() {
			d.metrics.changeSeconds.Observe(time.Since(heard).Seconds())
		}
	}
	return d.settled(work.relist || len(work.entries) > 0), nil
}

// stale is a share of what is to be loaded again.
type stale struct {
	entries []*entry
	changed bool // announced, not just doubtful
	relist  bool
}

// takeStale takes what was announced before what is doubtful.
func (d *Directory) takeStale() (work stale, heard time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	work.relist, d.relist = d.relist, false
	if len(d.changed) == 0 {
		n := min(len(d.doubtful), refreshed)
		work.entries, d.doubtful = d.doubtful[:n:n], d.doubtful[n:]
		return work, heard
	}
	work.changed = true
	heard = d.heard
	for hash, e := range d.changed {
		if len(work.entries) == refreshed {
			return work, heard
		}
		work.entries = append(work.entries, e)
		delete(d.changed, hash)
	}
	d.heard = time.Time{}
	return work, heard
}

// giveBack notes that work was not done.
func (d *Directory) giveBack(work stale, heard time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.relist = d.relist || work.relist
	if !work.changed {
		d.doubtful = append(work.entries, d.doubtful...)
		return
	}
	d.heard = heard
	for _, e := range work.entries {
		d.changed[d.hashOf(e.key())] = e
	}
}

// settled tells whether there is more to load again, and says when a resynchronisation is complete. answered says that PostgreSQL
// has just done so.
func (d *Directory) settled(answered bool) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answered {
		d.backLocked()
	}
	more = d.relist || len(d.changed) > 0 || len(d.doubtful) > 0
	if !more {
		if !d.resynced.IsZero() {
			d.log.Debug("everything known has been compared with PostgreSQL", "took", time.Since(d.resynced).Round(time.Millisecond))
			d.resynced = time.Time{}
		}
	}
	return more
}
