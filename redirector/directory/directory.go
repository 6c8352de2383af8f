// Package directory knows the profiles and links that visitors ask for. It answers from memory; PostgreSQL is behind it.
//
// # Finding
//
// A link is a record of some dozens of bytes, on a shelf that its hash names (shelves). A visitor finds it there without a lock and is answered
// from those bytes. Shelves are changed at once, under the directory's lock, by copying: a link that was loaded is known to the next visitor,
// and a link that goes viral within a second is loaded once. A full shelf lets go of what is asked for least.
//
// Profiles, and links too large for a shelf, are entries in a Ristretto cache, which has the room that the shelves do not take. Ristretto may drop
// what it is given, or refuse a key that it has not seen often, so an entry that was loaded lately is also held beside it for a moment (held).
// Names that PostgreSQL does not know are remembered for some seconds as well (unknown), bounded in number.
//
// What is not in memory is loaded in batches: all who ask for one name share one load, and all names that are waiting share one
// query, so a flood of unknown codes costs a few queries at a time and a bounded amount of memory.
//
// # Changes
//
// PostgreSQL announces changes (LISTEN, see schemas/postgres). What an announcement names is loaded again at once, and visitors
// are served what was known until it is there. Every (re)connection of the listener may have missed announcements: then everything is doubtful
// and loaded again, what was used lately before the rest. A doubtful link has a bit on its shelf that goes with it wherever its neighbours' coming and
// going puts it. While PostgreSQL is away, everything that is known is served.
//
// A question that began before a change may be answered after its announcement. Therefore an announcement looks for questions that are running too
// (calls are the visitors', asking is refresh's), under the lock under which an answer becomes known: such an answer is served, and asked for again. So
// of each value that is served it holds that a change after it was read finds the name known or being asked for.
//
// refresh alone replaces what is known, by name: an answer of its is dropped if the name was let go of meanwhile, whether or not a visitor had it
// loaded again since. So an older value never replaces a newer one.
//
// # Restarts
//
// A snapshot of what is known is written to disk now and then, so that a redirector that starts while PostgreSQL is away serves
// what it knew (see snapshot.go).
package directory

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// ErrUnknown says that there is no such profile or link.
var ErrUnknown = errors.New("no such profile or link")

// ErrAway says that PostgreSQL did not tell in time whether there is such a profile or link.
var ErrAway = errors.New("profiles and links cannot be looked up just now")

// Options of a directory.
type Options struct {
	// CacheBytes bounds the memory of what is known: links may take three quarters of it, profiles what links do not take. Zero: 128 MiB, which is
	// enough for a million links.
	CacheBytes int64
	// LoadTimeout is how long a visitor waits for a name that is not in memory. Zero: 1 s.
	LoadTimeout time.Duration
	// MaxLoads is how many names may wait to be loaded at once; a further one is ErrAway. Zero: 4096.
	MaxLoads int
	// Snapshot is the file that outlives a restart. Empty: none.
	Snapshot string
	// SnapshotBytes bounds that file. Zero: 64 MiB.
	SnapshotBytes int64
	// SnapshotInterval is how often it is written when something changed. Zero: 1 min.
	SnapshotInterval time.Duration
}

const (
	maxName    = 128 // bytes of a code or a handle
	maxHost    = 253 // bytes of a host name (RFC 1035)
	maxUnknown = 1 << 16
	holdFor    = 5 * time.Second // at least; at most twice that
)

func (o *Options) check() error {
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.LoadTimeout == 0 {
		o.LoadTimeout = time.Second
	}
	if o.MaxLoads == 0 {
		o.MaxLoads = 4096
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 64 << 20
	}
	if o.SnapshotInterval == 0 {
		o.SnapshotInterval = time.Minute
	}
	switch {
	case o.CacheBytes < 1<<20:
		return fmt.Errorf("cache of %d bytes: use at least 1 MiB (SPILLWAY_CACHE_BYTES)", o.CacheBytes)
	case o.LoadTimeout < 0 || o.MaxLoads < 0 || o.SnapshotBytes < 0 || o.SnapshotInterval < 0:
		return errors.New("directory: a limit is negative")
	}
	return nil
}

// Directory answers for names. All methods may be called by many at once.
type Directory struct {
	o       Options
	pool    *pgxpool.Pool
	log     *slog.Logger
	metrics *metrics
	seed    maphash.Seed
	cache   *ristretto.Cache[uint64, *entry]
	shelves *shelves
	domains atomic.Pointer[map[string]string] // own domains; replaced, never changed

	mu      sync.RWMutex // guards what follows; a name becomes known, and is looked for by an announcement, under it
	held    held
	unknown unknown
	calls   map[key]*call
	queue   []*call
	loaders int
	closed  bool
	away    bool      // the last load failed
	retryAt time.Time // while away: when the next load may try

	changed  map[key]struct{} // announced as changed: to be loaded again first
	heard    time.Time        // when the first of changed was announced
	doubtful doubtful         // maybe changed: to be loaded again
	asking   map[key]*asked   // being loaded again
	relist   bool             // the own domains are to be read again
	resynced time.Time        // when everything became doubtful; zero once everything has been loaded again

	kick     chan struct{} // there is something to load again
	running  sync.WaitGroup
	stopping context.Context
	stop     context.CancelFunc
	zones    *zones
	unsaved  atomic.Bool // something changed since the last snapshot
}

// New returns a directory that knows what the snapshot knew. PostgreSQL may be away.
func New(o Options, pool *pgxpool.Pool, log *slog.Logger, registry prometheus.Registerer) (*Directory, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters: max(o.CacheBytes/1024, 1<<12), // some ten for each profile; each takes four bytes, used or not
		MaxCost:     o.CacheBytes,
		BufferItems: 64,
		KeyToHash:   func(hash uint64) (uint64, uint64) { return hash, 0 }, // an entry knows its own name
	})
	if err != nil {
		return nil, fmt.Errorf("cache of profiles and links: %w", err)
	}
	d := &Directory{
		o: o, pool: pool, log: log, cache: cache, shelves: newShelves(o.CacheBytes / 4 * 3), seed: maphash.MakeSeed(), zones: newZones(),
		calls: map[key]*call{}, changed: map[key]struct{}{}, asking: map[key]*asked{},
		kick: make(chan struct{}, 1), relist: true,
	}
	d.domains.Store(&map[string]string{})
	d.stopping, d.stop = context.WithCancel(context.Background())
	if d.metrics, err = newMetrics(d, registry); err != nil {
		cache.Close()
		return nil, err
	}
	d.restore()
	return d, nil
}

// Run hears of changes, loads again what changed and writes snapshots until ctx ends. Before it runs, and while it does not reach
// PostgreSQL, everything that is known is served as it was.
func (d *Directory) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { d.listen(ctx) })
	parts.Go(func() { d.refresh(ctx) })
	age := time.NewTicker(holdFor / 5)
	defer age.Stop()
	save := time.NewTicker(d.o.SnapshotInterval)
	defer save.Stop()
	for {
		select {
		case now := <-age.C:
			d.age(now)
		case <-save.C:
			d.save()
		case <-ctx.Done():
			parts.Wait()
			d.save()
			return nil
		}
	}
}

// Close stops loading and waits for what is running. Nothing may be asked any more.
func (d *Directory) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	d.running.Wait()
	d.cache.Close()
}

// Link returns the link with a code on a host: an own domain as Domain returns it, or empty. Nothing is allocated when it is known.
// Errors: ErrUnknown, ErrAway.
func (d *Directory) Link(host string, code []byte) (l Link, err error) {
	hash := d.hash(kindLink, host, code)
	r, ok := d.shelves.find(hash, host, code)
	if ok {
		d.metrics.shelf.Inc()
	} else {
		v, err := d.find(kindLink, host, code, hash)
		if err != nil {
			return Link{}, err
		}
		if v == nil || v.link == nil {
			return Link{}, ErrUnknown
		}
		r = v.link
	}
	if !r.lay(&l, d.zones) {
		return Link{}, ErrUnknown
	}
	return l, nil
}

// Profile returns the profile with a handle in lower case. Nothing is allocated when it is known. Errors: ErrUnknown, ErrAway.
func (d *Directory) Profile(handle []byte) (*Profile, error) {
	v, err := d.find(kindProfile, "", handle, d.hash(kindProfile, "", handle))
	if err != nil {
		return nil, err
	}
	if v == nil || v.profile == nil {
		return nil, ErrUnknown
	}
	return v.profile, nil
}

// Domain returns host if links have it as their own domain, and otherwise empty: the platform's. host is in lower case, without port.
func (d *Directory) Domain(host []byte) string { return (*d.domains.Load())[string(host)] }

// find returns what is known of a name that is on no shelf, and loads it otherwise.
func (d *Directory) find(kind kind, host string, name []byte, hash uint64) (*value, error) {
	if !wellFormed(name) || len(host) > maxHost {
		return nil, ErrUnknown
	}
	if e, ok := d.cache.Get(hash); ok && e.is(kind, host, name) {
		e.use()
		d.metrics.hits.Inc()
		return e.value.Load(), nil
	}
	d.mu.RLock()
	e := d.held.get(hash)
	unknown := e == nil && d.unknown.has(hash)
	d.mu.RUnlock()
	if e != nil && e.is(kind, host, name) {
		e.use()
		d.metrics.held.Inc()
		return e.value.Load(), nil
	}
	if unknown {
		d.metrics.unknown.Inc()
		return nil, ErrUnknown
	}
	d.metrics.misses.Inc()
	return d.load(key{kind, host, string(name)}, hash)
}

// wellFormed tells whether a name can exist at all: PostgreSQL refuses a whole query for one text that is no text.
func wellFormed(name []byte) bool {
	if len(name) == 0 || len(name) > maxName || !utf8.Valid(name) {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c == 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// hash names a link or an entry. The seed is this process's own, so nobody can make names that collide; should two do so all the same, their
// own names tell them apart: links are side by side on a shelf, entries take turns in the cache.
func (d *Directory) hash(kind kind, host string, name []byte) uint64 {
	return d.rehash(maphash.Bytes(d.seed, name), kind, host)
}

func (d *Directory) rehash(name uint64, kind kind, host string) uint64 {
	h := name + uint64(kind)
	if host != "" {
		h ^= bits.RotateLeft64(maphash.String(d.seed, host), 17)
	}
	return h
}

func (d *Directory) hashOf(k key) uint64 {
	return d.rehash(maphash.String(d.seed, k.name), k.kind, k.host)
}

// eachEntryLocked calls yield with every entry that a visitor may be served from, some of them twice.
func (d *Directory) eachEntryLocked(yield func(*entry)) {
	// Ristretto takes new entries in a queue; those in it are held too, and seen there.
	d.held.each(yield)
	d.cache.IterValues(func(e *entry) bool {
		yield(e)
		return false
	})
}
