package visit

import (
	"bytes"
	"net/netip"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/class"
	"spillway.dev/redirector/owner"
	"spillway.dev/redirector/target"
	"spillway.dev/redirector/visitor"
	"spillway.dev/schemas/event"
	"spillway.dev/schemas/rules"
)

// Limits of an event's texts, in bytes (schemas/event/event.proto).
const (
	maxAgent    = 512
	maxReferrer = 512
	maxQuery    = 512
	maxHost     = 253
	maxLanguage = 16
)

// visit is the memory of one request. Its slices and the event's texts point into the request or into buffer, and mean nothing once
// the request is answered: the journal copies.
type visit struct {
	event  event.Event
	buffer []byte

	remote netip.Addr // who is at the other end of the connection
	host   []byte     // without port
	query  []byte     // as sent
	marks  target.Marks
	header header
	// trapped says that it asked for a canary.
	trapped bool
	// headers are all of the request's header, for the operator's rules.
	headers rules.Headers

	began time.Time // the lane: when it was read
	lines lines     // the lane: the header

	accepted    []byte // the lane: Accept-Encoding
	conditional bool   // the lane: there is an If-None-Match
}

// header is what a request's header says that is of interest here.
type header struct {
	agent, referrer, language, country []byte
	class                              class.Request
	forwarded                          [][]byte // the lines of X-Forwarded-For
	cookie                             bool     // there is a cookie that may be ours
}

// read takes from a request what is needed to answer and to record it, in one pass: each look for a name would be one.
func (h *Handler) read(ctx *fasthttp.RequestCtx, v *visit) {
	v.remote, v.headers = peer(ctx.RemoteAddr()), &ctx.Request.Header
	v.host = withoutPort(ctx.Host())
	v.query = ctx.URI().QueryString()
	v.marks, v.buffer = target.ReadMarks(v.query, v.buffer)
	to := &v.header
	for name, value := range ctx.Request.Header.All() {
		switch string(name) {
		case "User-Agent":
			to.agent = value
		case "Referer":
			to.referrer = value
		case "Accept-Language":
			to.language = value
		case "Sec-Purpose":
			to.class.SecPurpose = value
		case "Purpose":
			to.class.Purpose = value
		case "X-Purpose":
			to.class.XPurpose = value
		case "X-Moz":
			to.class.XMoz = value
		case "X-Forwarded-For":
			to.forwarded = append(to.forwarded, value)
		case "Cookie":
			to.cookie = bytes.Contains(value, []byte(owner.CookiePrefix))
		}
		if len(h.CountryHeader) > 0 && string(name) == h.CountryHeader {
			to.country = value
		}
	}
}

// release makes v free for another request. Nothing of the old one stays reachable.
func (h *Handler) release(v *visit) {
	e := &v.event
	e.UserAgent, e.Referrer, e.Query, e.Host, e.Language, e.Place, e.Country, e.Reason = "", "", "", "", "", "", "", ""
	clear(v.header.forwarded)
	v.header = header{forwarded: v.header.forwarded[:0]}
	v.remote, v.headers, v.host, v.query, v.marks = netip.Addr{}, nil, nil, nil, target.Marks{}
	v.trapped, v.accepted, v.conditional = false, nil, false
	clear(v.lines.found)
	v.lines = lines{found: v.lines.found[:0]}
	if cap(v.buffer) > 64<<10 {
		v.buffer = make([]byte, 0, 4<<10)
	}
	v.buffer = v.buffer[:0]
	h.visits.Put(v)
}

// record completes the event and appends it to the journal. A journal without room drops it, and counts that itself: the visitor
// is answered all the same.
func (h *Handler) record(v *visit, zone *time.Location, owned, head bool, now time.Time) {
	from := &v.header
	client, trusted := h.client(v.remote, from.forwarded)
	e := &v.event
	e.TimeUs = now.UnixMicro()
	e.Date = visitor.Date(now, zone)
	from.class.Head = head
	from.class.Owner = owned
	e.UserAgent = v.text(from.agent, maxAgent)
	var set *rules.Set
	if h.Rules != nil {
		set = h.Rules.Rules()
	}
	e.Class, e.Reason = class.ByRules(set, from.class, rules.Visit{UserAgent: e.UserAgent, Address: client, Headers: v.headers})
	if v.trapped && e.Class == event.Class_CLASS_PERSON && e.Reason == "" {
		e.Class, e.Reason = event.Class_CLASS_SCANNER, class.ReasonCanary
	}
	e.RulesVersion = set.Version(class.RulesVersion)
	e.Visitor, v.buffer = h.Visitors.ID(e.Date, e.ProfileId, client, from.agent, v.buffer)
	e.Suspect = h.hammering.Note(e.Visitor, now)
	e.Country = ""
	if trusted {
		e.Country = country(from.country)
	}
	if e.Country == "" && h.Countries != nil {
		e.Country = h.Countries.Of(client)
	}
	e.Place = view(v.marks.Place)
	e.Referrer = v.text(withoutQuery(from.referrer), maxReferrer)
	e.Query = v.text(v.own(v.query), maxQuery)
	e.Host = v.text(v.host, maxHost)
	e.Language = v.text(firstLanguage(from.language), maxLanguage)
	h.Journal.Append(e)
}

// own returns the visitor's query string without Spillway's parameters, cut at a parameter's end.
func (v *visit) own(query []byte) []byte {
	if v.marks.Any {
		start := len(v.buffer)
		v.buffer = target.AppendForeign(v.buffer, query)
		query = v.buffer[start:]
	}
	if len(query) <= maxQuery {
		return query
	}
	return query[:max(bytes.LastIndexByte(query[:maxQuery+1], '&'), 0)]
}

// text returns b as a protobuf string: valid UTF-8 of at most limit bytes. What is not valid becomes U+FFFD.
func (v *visit) text(b []byte, limit int) string {
	if len(b) > limit {
		b = b[:limit]
		for i := 1; i <= utf8.UTFMax && i <= len(b); i++ { // no character is cut in two
			if first := b[len(b)-i]; utf8.RuneStart(first) {
				if !utf8.FullRune(b[len(b)-i:]) {
					b = b[:len(b)-i]
				}
				break
			}
		}
	}
	if utf8.Valid(b) {
		return view(b)
	}
	start := len(v.buffer)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if len(v.buffer)-start+utf8.RuneLen(r) > limit {
			break
		}
		v.buffer = utf8.AppendRune(v.buffer, r)
		b = b[n:]
	}
	return view(v.buffer[start:])
}

// view returns b's bytes as a string, without copying them. It is good as long as b is not changed: until the visit is released.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func withoutPort(host []byte) []byte {
	if colon := bytes.LastIndexByte(host, ':'); colon >= 0 && bytes.IndexByte(host[colon:], ']') < 0 {
		return host[:colon]
	}
	return host
}

func withoutQuery(address []byte) []byte {
	return until(until(address, '?'), '#')
}

// firstLanguage returns the first tag of an Accept-Language header: "de-AT" of "de-AT,de;q=0.9".
func firstLanguage(header []byte) []byte {
	return bytes.TrimSpace(until(until(header, ','), ';'))
}

// until returns what stands before the first end.
func until(b []byte, end byte) []byte {
	if at := bytes.IndexByte(b, end); at >= 0 {
		return b[:at]
	}
	return b
}

// country returns a CDN's country code, or nothing when it is none: XX and T1 stand for unknown and for Tor.
func country(header []byte) string {
	if len(header) != 2 || string(header) == "XX" {
		return ""
	}
	for _, c := range header {
		if c < 'A' || c > 'Z' {
			return ""
		}
	}
	return view(header)
}
