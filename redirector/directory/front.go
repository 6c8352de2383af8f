package directory

import (
	"math/rand/v2"
	"sync/atomic"
)

// front is what is looked into before the cache: a table of links by hash, in which the one asked for last has the place. A viral link costs one
// load of a pointer that all processors share, instead of a cache's locks, maps and bookkeeping.
//
// What is in it is known, as what is in the cache or held is: announcements and resynchronisations look into it too, and an entry comes
// into it under the directory's lock and only if it is known elsewhere at that moment. So none is served from here that a change does
// not reach, also when the cache has let go of it.
type front struct {
	table []atomic.Pointer[entry] // their number is a power of two
}

const (
	// frontSize is the number of places: what a redirector is asked for within some seconds, mostly. Links of some 600 bytes each stay
	// in memory for it that the cache may have let go of.
	frontSize = 8192
	// frontChance is how many misses it takes, on average, until a place changes its owner: two links that share it do not drive each other out each time.
	frontChance = 16
	// cacheChance is how many hits it takes, on average, until the cache hears that a link is in use.
	cacheChance = 64
)

func newFront(places int) front { return front{make([]atomic.Pointer[entry], places)} }

func (f *front) place(hash uint64) *atomic.Pointer[entry] {
	return &f.table[hash&uint64(len(f.table)-1)]
}

// get returns a link's entry, if it has its place.
func (f *front) get(hash uint64, host string, code []byte) *entry {
	if e := f.place(hash).Load(); e != nil && e.is(kindLink, host, code) {
		return e
	}
	return nil
}

func (f *front) each(yield func(*entry)) {
	for i := range f.table {
		if e := f.table[i].Load(); e != nil {
			yield(e)
		}
	}
}

// bring gives an entry its place in the front, now and then. It waits for nobody.
func (d *Directory) bring(e *entry, hash uint64) {
	place := d.front.place(hash)
	if place.Load() != nil && rand.Uint32N(frontChance) != 0 || !d.mu.TryLock() {
		return
	}
	defer d.mu.Unlock()
	if d.knownLocked(e.key(), hash) != e {
		return // gone meanwhile, and no announcement would find it
	}
	before := place.Swap(e)
	if before == nil || before.used.Load()&usedHeld == 0 {
		return
	}
	if k := before.key(); d.knownLocked(k, d.hashOf(k)) == nil {
		d.holdLocked(before, d.hashOf(k)) // in use, and the cache did not hear of it
	}
}
