package directory

import (
	"bytes"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"spillway.dev/redirector/page"
	"spillway.dev/redirector/target"
)

// Link is what a redirect needs. It is not changed any more.
type Link struct {
	ID        uint64
	ProfileID uint64
	Target    *target.Target
	Zone      *time.Location // of the profile: says which date it is there

	record []byte // as the snapshot keeps it; the target is in it, or in the bytes behind it
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

// value is what is known of a name; nil is known too: that there is nothing (any more). It is of a link unless it has a profile: there may be millions of
// links, so they are not one allocation more.
type value struct {
	link    Link
	profile *Profile
}

// cost is about how many bytes a value takes, its page included.
func (v *value) cost() int64 {
	const link, profile, line = 300, 12 << 10, 480 // measured (TestMemoryOfALink); a profile's page is there twice, once compressed
	switch {
	case v == nil:
		return 192
	case v.profile != nil:
		return int64(profile + 4*len(v.profile.row.shown.Bio) + line*len(v.profile.row.shown.Links))
	case v.link.Target.Merges():
		return int64(2*link + cap(v.link.record))
	default:
		return int64(link + cap(v.link.record))
	}
}

// entry is a name's place in memory. Its value is replaced when it changed; the entry stays.
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

// zones keeps time zones by name; there are some six hundred.
type zones struct{ known sync.Map }

// zone returns a time zone. A name that nobody knows is UTC: the visitor is answered all the same.
func (z *zones) zone(name string, log *slog.Logger) *time.Location {
	if known, ok := z.known.Load(name); ok {
		return known.(*time.Location)
	}
	if name == "" || name == "Local" { // Go's name for this machine's own zone
		return time.UTC
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		log.Warn("a profile's time zone is not known; its day is UTC's", "zone", name, "error", err)
		return time.UTC
	}
	z.known.Store(name, zone)
	return zone
}

func (d *Directory) newLink(r linkRow) Link {
	l := Link{ID: r.id, ProfileID: r.profile, Zone: d.zones.zone(r.zone, d.log)}
	record := appendLink(nil, r)
	length := len(record)
	mode, err := target.ParseMode(r.mode)
	if err == nil {
		l.Target, err = target.Prepare(target.Settings{URL: r.url, Mode: mode, UTM: target.UTM{
			Source: r.utm[0], Medium: r.utm[1], Campaign: r.utm[2], Term: r.utm[3], Content: r.utm[4],
		}})
	}
	if err != nil {
		d.log.Warn("a link leads nowhere: edit its target", "link", r.id, "error", err)
	} else if !bytes.Contains(record, l.Target.Plain()) {
		record = append(record, l.Target.Plain()...)
	}
	record = append(make([]byte, 0, len(record)), record...) // without the room that it grew into
	if l.Target != nil {
		l.Target.Within(record)
	}
	l.record = record[:length]
	return l
}

func (d *Directory) newProfile(r profileRow) *Profile {
	p := NewProfile(r.id, r.shown, d.zones.zone(r.zone, d.log))
	p.row = r
	return p
}
