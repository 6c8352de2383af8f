// Package directory knows the profiles and links that visitors ask for. It answers from memory; PostgreSQL is behind it.
//
// # Finding
//
// What is known is in a Ristretto cache, and the links that are asked for most in a table before it (front). Ristretto may drop what it is given, or refuse a key that it has not seen often, so what
// was loaded lately is also held beside it for a moment (held): a link that goes viral within a second is loaded once. Names
// that PostgreSQL does not know are remembered for some seconds as well (unknown), bounded in number.
//
// What is not in memory is loaded in batches: all who ask for one name share one load, and all names that are waiting share one
// query, so a flood of unknown codes costs a few queries at a time and a bounded amount of memory.
//
// # Changes
//
// PostgreSQL announces changes (LISTEN, see schemas/postgres). What an announcement names is loaded again at once, and visitors
// are served what was known until it is there. Every (re)connection of the listener may have missed announcements: then everything is doubtful
// and loaded again, what was used lately before the rest. While PostgreSQL is away, everything that is known is served.
//
// A load that began before a change may end after its announcement. Therefore an announcement looks for running loads too, under
// the lock under which a load's result becomes known: such a result is served, and loaded again.
//
// # Restarts
//
// A snapshot of the cache is written to disk now and then, so that a redirector that starts while PostgreSQL is away serves
// what it knew (see snapshot.go).
package directory

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"math/rand/v2"
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
	// CacheBytes bounds the memory of what is known. Zero: 128 MiB.
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

	places int // tests: of the front
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
	if o.places == 0 {
		o.places = frontSize
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
	front   front
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

	changed  map[uint64]*entry // announced as changed: to be loaded again first
	heard    time.Time         // when the first of changed was announced
	doubtful []*entry          // maybe changed: to be loaded again, in this order
	relist   bool              // the own domains are to be read again
	resynced time.Time         // when everything became doubtful; zero once everything has been loaded again

	kick     chan struct{} // there is something to load again
	running  sync.WaitGroup
	stopping context.Context
	stop     context.CancelFunc
	zones    zones
	unsaved  atomic.Bool // something changed since the last snapshot
}

// New returns a directory that knows what the snapshot knew. PostgreSQL may be away.
func New(o Options, pool *pgxpool.Pool, log *slog.Logger, registry prometheus.Registerer) (*Directory, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters: max(o.CacheBytes/256, 1<<14), // more than one for each entry of some 400 bytes; each takes four bytes, used or not
		MaxCost:     o.CacheBytes,
		BufferItems: 64,
		KeyToHash:   func(hash uint64) (uint64, uint64) { return hash, 0 }, // an entry knows its own name
	})
	if err != nil {
		return nil, fmt.Errorf("cache of profiles and links: %w", err)
	}
	d := &Directory{
		o: o, pool: pool, log: log, cache: cache, front: newFront(o.places), seed: maphash.MakeSeed(),
		calls: map[key]*call{}, changed: map[uint64]*entry{},
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
func (d *Directory) Link(host string, code []byte) (*Link, error) {
	e, err := d.find(kindLink, host, code)
	if err != nil {
		return nil, err
	}
	v := e.value.Load()
	if v == nil || v.link.Target == nil {
		return nil, ErrUnknown
	}
	return &v.link, nil
}

// Profile returns the profile with a handle in lower case. Nothing is allocated when it is known. Errors: ErrUnknown, ErrAway.
func (d *Directory) Profile(handle []byte) (*Profile, error) {
	e, err := d.find(kindProfile, "", handle)
	if err != nil {
		return nil, err
	}
	v := e.value.Load()
	if v == nil || v.profile == nil {
		return nil, ErrUnknown
	}
	return v.profile, nil
}

// Domain returns host if links have it as their own domain, and otherwise empty: the platform's. host is in lower case, without port.
func (d *Directory) Domain(host []byte) string { return (*d.domains.Load())[string(host)] }

// find returns what is known about a name, and loads it otherwise.
func (d *Directory) find(kind kind, host string, name []byte) (*entry, error) {
	hash := d.hash(kind, host, name)
	if kind == kindLink {
		if e := d.front.get(hash, host, name); e != nil {
			e.use()
			if rand.Uint32N(cacheChance) == 0 {
				d.cache.Get(hash) // so that it stays there too
			}
			d.metrics.front.Inc()
			return e, nil
		}
	}
	if !wellFormed(name) || len(host) > maxHost {
		return nil, ErrUnknown
	}
	if e, ok := d.cache.Get(hash); ok && e.is(kind, host, name) {
		e.use()
		d.metrics.hits.Inc()
		if kind == kindLink {
			d.bring(e, hash)
		}
		return e, nil
	}
	d.mu.RLock()
	e := d.held.get(hash)
	unknown := e == nil && d.unknown.has(hash)
	d.mu.RUnlock()
	if e != nil && e.is(kind, host, name) {
		e.use()
		d.metrics.held.Inc()
		return e, nil
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

// hash names an entry. The seed is this process's own, so nobody can make names that collide; should two do so all the same, an
// entry's own name tells them apart, and they take turns in the cache.
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

// eachLocked calls yield with every entry that a visitor may be served from, some of them twice.
func (d *Directory) eachLocked(yield func(*entry)) {
	// Ristretto takes new entries in a queue; those in it are held too, and seen there.
	d.held.each(yield)
	d.front.each(yield)
	d.cache.IterValues(func(e *entry) bool {
		yield(e)
		return false
	})
}
