package directory

import (
	"sync"
	"sync/atomic"
	"time"

	"spillway.dev/redirector/page"
	"spillway.dev/redirector/target"
)

// Link is what a redirect needs. Its target is laid over bytes that are not changed any more.
type Link struct {
	ID        uint64
	ProfileID uint64
	Target    target.Target
	Zone      *time.Location // of the profile: says which date it is there
}

// Profile is what a profile's page needs. It is not changed any more.
type Profile struct {
	ID     uint64
	Layout uint32         // version of the page
	Zone   *time.Location // says which date it is there

	row    profileRow
	render sync.Once
	page   *page.Page
	err    error
}

// NewProfile returns a profile that shows what shown says.
func NewProfile(id uint64, shown page.Profile, zone *time.Location) *Profile {
	return &Profile{ID: id, Layout: shown.Layout, Zone: zone, row: profileRow{id: id, zone: zone.String(), shown: shown}}
}

// Page returns the profile's page, rendered at the first call.
func (p *Profile) Page(r *page.Renderer) (*page.Page, error) {
	p.render.Do(func() { p.page, p.err = r.Profile(p.row.shown) })
	return p.page, p.err
}

// linkRow and profileRow are what PostgreSQL and the snapshot hold.
type linkRow struct {
	id, profile           uint64
	host, code, url, mode string
	utm                   [5]string // source, medium, campaign, term, content
	zone                  string
}

type profileRow struct {
	id    uint64
	zone  string
	shown page.Profile
}

// kind tells links from profiles.
type kind byte

const (
	kindLink    kind = 1
	kindProfile kind = 2
)

// key is a name: (host, code) of a link, handle of a profile.
type key struct {
	kind       kind
	host, name string
}

// value is what is known of a name: a link or a profile. No value is known too: that there is nothing (any more).
type value struct {
	link    record
	profile *Profile
}

// fits tells whether a value is for a shelf.
func (v *value) fits() bool { return v != nil && v.link != nil && len(v.link) <= maxRecord }

// cost is about how many bytes a value takes as an entry, its page included.
func (v *value) cost() int64 {
	const item, profile, line = 400, 12 << 10, 480 // measured; a profile's page is there twice, once compressed
	switch {
	case v == nil:
		return item
	case v.profile != nil:
		return int64(profile + 4*len(v.profile.row.shown.Bio) + line*len(v.profile.row.shown.Links))
	default:
		return int64(item + len(v.link))
	}
}

// entry is the place in memory of a name that is not on a shelf: a profile, or a large link. Its value is replaced when it changed; the entry stays.
type entry struct {
	value atomic.Pointer[value]
	name  string        // host and name in one
	used  atomic.Uint32 // bits usedHeld and usedSnapshot
	host  uint16        // bytes of name that are the host
	kind  kind
}

func newEntry(k key, v *value) *entry {
	e := &entry{kind: k.kind, name: k.host + k.name, host: uint16(len(k.host))}
	e.value.Store(v)
	return e
}

func (e *entry) key() key { return key{e.kind, e.name[:e.host], e.name[e.host:]} }

const (
	usedHeld     = 1 << iota // since held last turned over
	usedSnapshot             // since the last snapshot
)

func (e *entry) is(kind kind, host string, name []byte) bool {
	return e.kind == kind && int(e.host) == len(host) && e.name[e.host:] == string(name) && e.name[:e.host] == host
}

// use notes that a visitor asked. Reading first keeps a viral link's line shared between processors.
func (e *entry) use() {
	if e.used.Load() != usedHeld|usedSnapshot {
		e.used.Store(usedHeld | usedSnapshot)
	}
}

func (d *Directory) newProfile(r profileRow) *Profile {
	p := NewProfile(r.id, r.shown, d.zones.at(d.zones.number(r.zone, d.log)).location)
	p.row = r
	return p
}
