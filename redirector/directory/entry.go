package directory

import (
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

	record string // as the snapshot keeps it
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

// value is what is known of a name; nil is known too: that there is nothing (any more).
type value struct {
	link    *Link
	profile *Profile
}

// cost is about how many bytes a value takes, its page included.
func (v *value) cost() int64 {
	const link, profile, line = 400, 12 << 10, 480 // measured; a profile's page is there twice, once compressed
	switch {
	case v == nil:
		return 128
	case v.link != nil:
		return int64(link + 2*len(v.link.record))
	default:
		return int64(profile + 4*len(v.profile.row.shown.Bio) + line*len(v.profile.row.shown.Links))
	}
}

// entry is a name's place in memory. Its value is replaced when it changed; the entry stays.
type entry struct {
	key   key
	hash  uint64
	value atomic.Pointer[value]
	used  atomic.Uint32 // bits usedHeld and usedSnapshot
}

const (
	usedHeld     = 1 << iota // since held last turned over
	usedSnapshot             // since the last snapshot
)

func (e *entry) is(kind kind, host string, name []byte) bool {
	return e.key.kind == kind && e.key.name == string(name) && e.key.host == host
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

func (d *Directory) newLink(r linkRow) *Link {
	l := &Link{ID: r.id, ProfileID: r.profile, Zone: d.zones.zone(r.zone, d.log), record: string(appendLink(nil, r))}
	mode, err := target.ParseMode(r.mode)
	if err == nil {
		l.Target, err = target.Prepare(target.Settings{URL: r.url, Mode: mode, UTM: target.UTM{
			Source: r.utm[0], Medium: r.utm[1], Campaign: r.utm[2], Term: r.utm[3], Content: r.utm[4],
		}})
	}
	if err != nil {
		d.log.Warn("a link leads nowhere: edit its target", "link", r.id, "error", err)
	}
	return l
}

func (d *Directory) newProfile(r profileRow) *Profile {
	p := NewProfile(r.id, r.shown, d.zones.zone(r.zone, d.log))
	p.row = r
	return p
}
