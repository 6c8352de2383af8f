package directory

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// zones gives time zones numbers, so that a record has no pointer to one; there are some six hundred. A number stays what it is.
type zones struct {
	mu    sync.Mutex
	known atomic.Pointer[[]zone] // by number; replaced, never changed
}

type zone struct {
	name     string
	location *time.Location
}

func newZones() *zones {
	z := &zones{}
	z.known.Store(&[]zone{{"", time.UTC}})
	return z
}

// number returns a time zone's number. A name that nobody knows is UTC, number zero: the visitor is answered all the same.
func (z *zones) number(name string, log *slog.Logger) uint64 {
	if name == "" || name == "Local" { // Go's name for this machine's own zone
		return 0
	}
	named := func(z zone) bool { return z.name == name }
	if n := slices.IndexFunc(*z.known.Load(), named); n >= 0 {
		return uint64(n)
	}
	location, err := time.LoadLocation(name)
	if err != nil {
		log.Warn("a profile's time zone is not known; its day is UTC's", "zone", name, "error", err)
		return 0
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	known := *z.known.Load()
	if n := slices.IndexFunc(known, named); n >= 0 {
		return uint64(n)
	}
	known = append(slices.Clip(known), zone{name, location})
	z.known.Store(&known)
	return uint64(len(known) - 1)
}

// at returns the time zone of a number.
func (z *zones) at(number uint64) zone { return (*z.known.Load())[number] }
