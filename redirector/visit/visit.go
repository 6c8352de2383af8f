// Package visit answers visitors: a click with a redirect, a view with a profile's page, everything else with a short notice.
//
// Each answer that counts appends one event to the journal first, and waits for nothing but the journal's short lock. A redirect
// of a known link allocates nothing. Nearly all requests are one plain click, which is answered where its bytes arrive (connection.go, lane.go);
// what is anything else, fasthttp reads and hands to Handle.
//
// Addresses:
//
//	GET /{handle}     a profile's page
//	GET /l/{code}     a link: 302 to its target
//	GET /q/{code}     the same, from a QR code
//	GET /b/{handle}   the page's beacon, where views are counted so (also POST)
//	/ /robots.txt /favicon.svg /favicon.ico
//
// Parameters whose names begin with "sw_" are Spillway's own (package target, Marks): sw_place, sw_page, sw_qr.
package visit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/address"
	"spillway.dev/redirector/class"
	"spillway.dev/redirector/directory"
	"spillway.dev/redirector/hammer"
	"spillway.dev/redirector/page"
	"spillway.dev/schemas/event"
)

// Names finds profiles and links: a *directory.Directory.
type Names interface {
	Link(host string, code []byte) (directory.Link, error)
	Profile(handle []byte) (*directory.Profile, error)
	Domain(host []byte) string
}

// Journal takes events: a *journal.Journal. It keeps nothing of an event, and returns false when it had no room for it.
type Journal interface {
	Append(*event.Event) (uint64, bool)
}

// Visitors names visitors for a day: a *visitor.Salts.
type Visitors interface {
	ID(date uint32, profile uint64, client netip.Addr, agent, scratch []byte) (uint64, []byte)
}

// Countries knows the country of an address: a *country.Database.
type Countries interface {
	Of(client netip.Addr) string
}

// Owners knows creators' own browsers: an *owner.Keys.
type Owners interface {
	Owns(token []byte, profile uint64, now time.Time) bool
	Claim(token []byte, profile uint64, now time.Time) (cookie string, expires time.Time, ok bool)
}

// Options of a handler. All must be set unless they say otherwise.
type Options struct {
	Names    Names
	Journal  Journal
	Visitors Visitors
	Owners   Owners
	Pages    *page.Renderer
	// Trusted are the proxies whose X-Forwarded-For and CountryHeader are believed.
	Trusted address.Networks
	// CountryHeader is where a CDN writes the visitor's country, ISO 3166-1 alpha-2. Empty: nowhere.
	CountryHeader string
	// Countries is asked where the header says nothing. Nil: the country stays unknown.
	Countries Countries
	// Rules are the operator's own about who a visitor is. Nil: there are none.
	Rules *class.Rulebook
	// Now tells the time. Nil: time.Now.
	Now      func() time.Time
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Handler answers requests.
type Handler struct {
	Options
	metrics       *metrics
	notices       *notices
	visits        sync.Pool // of *visit
	countryHeader []byte
	date          date
	canaries      canaries
	hammering     hammer.Table
}

// NewHandler returns a handler.
func NewHandler(o Options) (*Handler, error) {
	h := &Handler{Options: o}
	h.CountryHeader = http.CanonicalHeaderKey(o.CountryHeader) // as fasthttp writes names
	h.countryHeader = []byte(h.CountryHeader)
	h.visits.New = func() any { return &visit{buffer: make([]byte, 0, 4<<10)} }
	var err error
	if h.notices, err = newNotices(o.Pages); err != nil {
		return nil, fmt.Errorf("visitors' notices: %w", err)
	}
	if h.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	return h, nil
}

// Handle answers one request. It is a fasthttp.RequestHandler; nothing of ctx is kept after it returned.
func (h *Handler) Handle(ctx *fasthttp.RequestCtx) {
	began := ctx.Time() // the server has just looked
	if h.Now != nil {
		began = h.Now()
	}
	kind := h.route(ctx, began)
	h.metrics.answered(kind, ctx.Response.StatusCode(), time.Since(began))
}

// route answers and says what it was.
func (h *Handler) route(ctx *fasthttp.RequestCtx, now time.Time) (what kind) {
	defer h.survive(ctx)
	path := ctx.Path()
	head := ctx.IsHead()
	beacon := len(path) > 3 && string(path[:3]) == "/b/"
	if !head && !ctx.IsGet() && !(beacon && ctx.IsPost()) || beacon && head {
		h.notAllowed(ctx, beacon)
		return kindNotice
	}
	name := bytes.TrimSuffix(path[min(1, len(path)):], []byte{'/'})
	switch {
	case len(name) > 2 && name[1] == '/' && (name[0] == 'l' || name[0] == 'q'):
		return h.click(ctx, name[2:], name[0] == 'q', head, now)
	case beacon:
		return h.beacon(ctx, name[2:], now)
	case len(name) == 0:
		h.notices.landing.write(ctx)
		return kindNotice
	}
	switch string(name) {
	case "robots.txt":
		h.notices.robots.write(ctx)
		return kindNotice
	case "favicon.svg", "favicon.ico":
		h.notices.favicon.write(ctx)
		return kindNotice
	}
	return h.page(ctx, name, head, now)
}

// survive keeps a mistake of ours to the one visitor who met it: fasthttp would end the process.
func (h *Handler) survive(ctx *fasthttp.RequestCtx) {
	if r := recover(); r != nil {
		h.metrics.panics.Inc()
		h.Log.Error("a request could not be answered", "panic", r, "path", string(ctx.Path()))
		ctx.Response.Reset()
		ctx.Response.SetStatusCode(fasthttp.StatusInternalServerError)
	}
}

// The header of each redirect; never changed.
var (
	headerLocation     = []byte("Location")
	headerCacheControl = []byte("Cache-Control")
	headerRobots       = []byte("X-Robots-Tag")
	valueNoStore       = []byte("private, no-store")
	valueNoIndex       = []byte("noindex")
)

// click answers the visit of a link.
func (h *Handler) click(ctx *fasthttp.RequestCtx, code []byte, scanned, head bool, now time.Time) kind {
	v := h.visits.Get().(*visit)
	defer h.release(v)
	h.read(ctx, v)
	link, err := h.Names.Link(h.Names.Domain(v.host), code)
	if err != nil {
		if trap, ok := h.canaries.find(code); ok && errors.Is(err, directory.ErrUnknown) {
			return h.trapped(ctx, v, trap, head, now)
		}
		h.notices.missing(ctx, err, h.notices.noLink)
		return kindRedirect
	}
	location := h.clicked(v, &link, scanned, h.owns(ctx, v, link.ProfileID, now), head, now)
	r := &ctx.Response
	r.SetStatusCode(fasthttp.StatusFound)
	r.Header.SetContentLength(0) // said to HEAD too
	r.Header.SetCanonical(headerLocation, location)
	r.Header.SetCanonical(headerCacheControl, valueNoStore)
	r.Header.SetCanonical(headerRobots, valueNoIndex)
	return kindRedirect
}

// clicked records the click of a link and returns where it leads.
func (h *Handler) clicked(v *visit, link *directory.Link, scanned, owned, head bool, now time.Time) (location []byte) {
	location = link.Target.Plain()
	if len(v.query) > 0 {
		start := len(v.buffer)
		v.buffer = link.Target.Append(v.buffer, v.query)
		location = v.buffer[start:len(v.buffer):len(v.buffer)]
	}
	e := &v.event
	e.Kind = event.Kind_KIND_CLICK
	e.ProfileId, e.LinkId = link.ProfileID, link.ID
	switch {
	case scanned || v.marks.QR:
		e.Surface = event.Surface_SURFACE_QR
	case v.marks.Page:
		e.Surface = event.Surface_SURFACE_PAGE
	default:
		e.Surface = event.Surface_SURFACE_DIRECT
	}
	e.Layout = v.marks.Layout
	h.record(v, link.Zone, owned, head, now)
	return location
}

// page answers the visit of a profile.
func (h *Handler) page(ctx *fasthttp.RequestCtx, handle []byte, head bool, now time.Time) kind {
	v := h.visits.Get().(*visit)
	defer h.release(v)
	profile, shown := h.profile(ctx, v, handle)
	if profile == nil {
		return kindPage
	}
	h.read(ctx, v)
	if h.claim(ctx, v, profile.ID, now) {
		return kindPage
	}
	cache := "private, no-cache"
	if h.Pages.Views() == page.Rendered {
		h.view(ctx, v, profile, profile.Layout, head, now)
	} else {
		// Shared caches may keep it for a minute; its beacon counts.
		cache = "public, max-age=0, s-maxage=60"
	}
	h.canaries.shown(shown, handle, profile)
	ctx.Response.Header.Set("Cache-Control", cache)
	ctx.Response.Header.Set("Referrer-Policy", "strict-origin-when-cross-origin")
	writePage(ctx, shown, fasthttp.StatusOK)
	return kindPage
}

// beacon counts the view that a page reports of itself.
func (h *Handler) beacon(ctx *fasthttp.RequestCtx, handle []byte, now time.Time) kind {
	if h.Pages.Views() != page.Beacon {
		h.notices.missing(ctx, directory.ErrUnknown, h.notices.noProfile)
		return kindBeacon
	}
	v := h.visits.Get().(*visit)
	defer h.release(v)
	profile, _ := h.profile(ctx, v, handle)
	if profile == nil {
		return kindBeacon
	}
	h.read(ctx, v)
	// The request comes from the page, whose own address says nothing; the page hands on where its reader came from.
	v.header.referrer = v.marks.Referrer
	h.view(ctx, v, profile, v.marks.Layout, false, now)
	ctx.Response.Header.Set("Cache-Control", "private, no-store")
	if ctx.IsPost() {
		ctx.Response.SetStatusCode(fasthttp.StatusNoContent)
	} else {
		ctx.Response.Header.Set("Content-Type", "image/gif")
		ctx.Response.SetBodyRaw(h.notices.pixel)
	}
	return kindBeacon
}

// profile returns a profile and its page, or answers that there is none.
func (h *Handler) profile(ctx *fasthttp.RequestCtx, v *visit, handle []byte) (*directory.Profile, *page.Page) {
	start := len(v.buffer)
	v.buffer = append(v.buffer, handle...)
	lower := v.buffer[start:]
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	profile, err := h.Names.Profile(lower)
	if err != nil {
		h.notices.missing(ctx, err, h.notices.noProfile)
		return nil, nil
	}
	shown, err := profile.Page(h.Pages)
	if err != nil {
		h.Log.Error("a profile's page cannot be shown", "profile", profile.ID, "error", err)
		h.notices.missing(ctx, errors.ErrUnsupported, h.notices.noProfile)
		return nil, nil
	}
	return profile, shown
}

// view records the view of a profile.
func (h *Handler) view(ctx *fasthttp.RequestCtx, v *visit, profile *directory.Profile, layout uint32, head bool, now time.Time) {
	e := &v.event
	e.Kind = event.Kind_KIND_VIEW
	e.ProfileId, e.LinkId = profile.ID, 0
	e.Surface = event.Surface_SURFACE_PAGE
	if v.marks.QR {
		e.Surface = event.Surface_SURFACE_QR
	}
	e.Layout = layout
	h.record(v, profile.Zone, h.owns(ctx, v, profile.ID, now), head, now)
}

// client returns the visitor's address, and whether a trusted proxy stands before it.
func (h *Handler) client(remote netip.Addr, forwarded [][]byte) (client netip.Addr, trusted bool) {
	if !h.Trusted.Contains(remote) {
		return remote, false
	}
	return h.Trusted.Client(remote, forwarded), true
}

// peer returns the address at the other end of a connection; none if it has none.
func peer(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		remote, _ := netip.AddrFromSlice(tcp.IP)
		return remote.Unmap()
	}
	return netip.Addr{}
}
