package directory

import "time"

// held keeps what was loaded lately, in two generations. The older one is dropped when the newer one is old or full, but what was used
// in the meantime moves over: a profile that Ristretto goes on refusing is still loaded only once. The directory's mu guards it.
type held struct {
	young, old map[uint64]*entry
	bytes      int64 // of young
	since      time.Time
}

// maxHeld bounds a generation, in bytes.
const maxHeld = 16 << 20

func (h *held) get(hash uint64) *entry {
	if e := h.young[hash]; e != nil {
		return e
	}
	return h.old[hash]
}

func (h *held) each(yield func(*entry)) {
	for _, e := range h.young {
		yield(e)
	}
	for _, e := range h.old {
		yield(e)
	}
}

// holdLocked makes e known: in the cache, and beside it for a moment.
func (d *Directory) holdLocked(e *entry, hash uint64) {
	h := &d.held
	if h.young == nil || h.bytes > maxHeld {
		d.turnLocked()
	}
	cost := e.value.Load().cost()
	h.young[hash] = e
	h.bytes += cost
	d.cache.Set(hash, e, cost)
}

// turnLocked drops the old generation, except for what is in use and not in the cache: that is offered to the cache again.
func (d *Directory) turnLocked() {
	// Whatever leaves here must be in the cache for good or nowhere: an announcement does not look into the cache's queue.
	d.cache.Wait()
	h := &d.held
	leaving := h.old
	h.old, h.young, h.bytes, h.since = h.young, map[uint64]*entry{}, 0, time.Now()
	for hash, e := range leaving {
		if e.used.Load()&usedHeld == 0 || h.bytes > maxHeld {
			continue
		}
		e.used.And(^uint32(usedHeld))
		if in, ok := d.cache.Get(hash); !ok || in != e {
			d.holdLocked(e, hash)
		}
	}
}

// unknown remembers names that PostgreSQL does not know, by their hash, in two generations. Should another name's hash be the same
// (once in 2^64), it is unknown for some seconds too. The directory's mu guards it.
type unknown struct {
	young, old map[uint64]struct{}
	since      time.Time
}

func (u *unknown) has(hash uint64) bool {
	if _, ok := u.young[hash]; ok {
		return true
	}
	_, ok := u.old[hash]
	return ok
}

func (u *unknown) add(hash uint64) {
	if u.young == nil || len(u.young) >= maxUnknown {
		u.turn()
	}
	u.young[hash] = struct{}{}
}

func (u *unknown) turn() {
	u.old, u.young, u.since = u.young, map[uint64]struct{}{}, time.Now()
}

func (u *unknown) remove(hash uint64) {
	delete(u.young, hash)
	delete(u.old, hash)
}

func (u *unknown) clear() { u.young, u.old = nil, nil }

// age lets go of what has been held long enough, and gives the cache the room that the shelves have not taken.
func (d *Directory) age(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cache.UpdateMaxCost(d.o.CacheBytes - d.shelves.bytes.Load())
	if now.Sub(d.held.since) >= holdFor && len(d.held.young)+len(d.held.old) > 0 {
		d.turnLocked()
	}
	// While PostgreSQL is away nobody could tell whether an unknown name is still unknown.
	if now.Sub(d.unknown.since) >= holdFor && len(d.unknown.young)+len(d.unknown.old) > 0 {
		d.unknown.turn()
	}
}
