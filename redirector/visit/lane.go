package visit

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/owner"
	"spillway.dev/redirector/page"
	"spillway.dev/redirector/target"
)

// The lane is the short way for what nearly all requests are: a plain click of a known link, or a plain view of a known profile.
//
//	request = "GET /" (("l" / "q") "/" code / handle) ["?" query] " HTTP/1.1" CRLF *(name ":" value CRLF) CRLF
//
// Whatever is not exactly that, to the last byte and nothing behind it, goes to the HTTP server as it came: bodies, conditions, other
// methods and versions, several requests at once, half ones, bytes outside of printable ASCII, a header that says how the message or the connection goes
// on, the owner's cookie, an unknown link. So the lane never has to say no, and nothing is read in two ways: FuzzLane holds its answers and
// events against the server's.

// maxCode is the longest code that the lane looks up, in bytes.
const maxCode = 64

// take answers a request if it is one for the lane, and tells whether it was. An error says that the visitor could not be answered.
func (h *Handler) take(c *connection, request []byte) (taken bool, err error) {
	v := h.visits.Get().(*visit)
	defer h.release(v)
	answer := h.plain(c, v, request)
	if answer == nil {
		return false, nil
	}
	now := v.began
	h.metrics.lane.Inc() // before the answer: who has it may look
	c.writeBy.at.Store(now.Add(c.all.limits.Answer).UnixNano())
	err = c.wire.write(c.TCPConn, answer)
	c.writeBy.at.Store(0)
	c.readBy.at.Store(now.Add(c.all.limits.Idle).UnixNano())
	if v.event.LinkId == 0 {
		h.metrics.answered(kindPage, fasthttp.StatusOK, time.Since(now))
	} else {
		h.metrics.answered(kindRedirect, fasthttp.StatusFound, time.Since(now))
	}
	return true, err
}

// plain records a request for the lane and returns its answer; nothing if it is none. A mistake of ours is left to the server, which says sorry.
func (h *Handler) plain(c *connection, v *visit, request []byte) (answer []byte) {
	defer func() {
		if r := recover(); r != nil {
			answer = nil
		}
	}()
	if len(request) < len("GET /l/x HTTP/1.1\r\n\r\n") || string(request[:5]) != "GET /" {
		return nil
	}
	name := len("GET /")
	if click := request[6] == '/'; click && (request[5] == 'l' || request[5] == 'q') {
		name = len("GET /l/")
	} else if click {
		return nil
	}
	code, rest := request[name:], name
	for rest < len(request) && inCode[request[rest]] {
		rest++
	}
	code = code[:rest-name]
	if len(code) == 0 || len(code) > maxCode || rest == len(request) {
		return nil
	}
	if request[rest] == '?' {
		end := bytes.IndexByte(request[rest:], ' ')
		if end < 0 {
			return nil
		}
		v.query = request[rest+1 : rest+end]
		// A fragment is cut off, and an address within the address is looked at, by the server.
		if !printable(v.query) || bytes.IndexByte(v.query, '#') >= 0 || bytes.Contains(v.query, []byte("://")) {
			return nil
		}
		rest += end
	}
	const version = " HTTP/1.1\r\n"
	if len(request)-rest < len(version) || string(request[rest:rest+len(version)]) != version {
		return nil
	}
	v.lines.b = request[rest+len(version):]
	if !h.readLines(v) {
		return nil
	}
	v.marks, v.buffer = target.ReadMarks(v.query, v.buffer)
	if name == len("GET /") {
		return h.plainPage(c, v, code)
	}
	link, err := h.Names.Link(h.Names.Domain(v.host), code)
	if err != nil {
		return nil
	}
	h.begin(c, v)
	location := h.clicked(v, &link, request[5] == 'q', false, false, v.began)

	start := len(v.buffer)
	b := append(v.buffer, "HTTP/1.1 302 Found\r\nDate: "...)
	b = h.date.append(b, v.began)
	b = append(b, "\r\nContent-Length: 0\r\nLocation: "...)
	b = append(b, location...)
	b = append(b, "\r\nCache-Control: private, no-store\r\nX-Robots-Tag: noindex\r\n\r\n"...)
	v.buffer = b
	return b[start:]
}

// begin notes when and whom the lane answers.
func (h *Handler) begin(c *connection, v *visit) {
	v.remote, v.headers = c.remote, &v.lines
	if v.began = time.Now(); h.Now != nil {
		v.began = h.Now()
	}
}

// plainPage records the view of a profile and returns its page; nothing if the server is to answer: conditions, owners, other spellings of a handle.
func (h *Handler) plainPage(c *connection, v *visit, handle []byte) []byte {
	if v.conditional || len(v.marks.Owner) > 0 || h.Pages.Views() != page.Rendered || bytes.ContainsAny(handle, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return nil
	}
	profile, err := h.Names.Profile(handle)
	if err != nil {
		return nil
	}
	shown, err := profile.Page(h.Pages)
	if err != nil {
		return nil
	}
	h.begin(c, v)
	h.view(nil, v, profile, profile.Layout, false, v.began) // nobody's cookie is looked for: there is none
	h.canaries.shown(shown, handle, profile)

	body, etag, encoding := shown.HTML, shown.ETag, ""
	if acceptsGzip(v.accepted) {
		body, etag, encoding = shown.Gzip, shown.GzipETag, "Content-Encoding: gzip\r\n"
	}
	start := len(v.buffer)
	b := append(v.buffer, "HTTP/1.1 200 OK\r\nDate: "...)
	b = h.date.append(b, v.began)
	b = append(b, "\r\nContent-Type: text/html; charset=utf-8\r\n"...)
	b = append(b, encoding...)
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\nCache-Control: private, no-cache\r\nReferrer-Policy: strict-origin-when-cross-origin\r\nVary: Accept-Encoding\r\nContent-Security-Policy: "...)
	b = append(b, shown.Policy...)
	b = append(b, "\r\nX-Content-Type-Options: nosniff\r\nEtag: "...)
	b = append(b, etag...)
	b = append(b, "\r\n\r\n"...)
	v.buffer = append(b, body...)
	return v.buffer[start:]
}

// readLines reads the header's lines, and tells whether they are such that the lane may answer.
func (h *Handler) readLines(v *visit) bool {
	to := &v.header
	b := v.lines.b
	for len(b) > 2 {
		end := bytes.IndexByte(b, '\r')
		if end < 0 || end+1 >= len(b) || b[end+1] != '\n' {
			return false
		}
		line := b[:end]
		b = b[end+2:]
		colon := 0
		for colon < len(line) && inName[line[colon]] {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return false
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !printable(value) {
			return false
		}
		var into *[]byte
		switch len(name) {
		case len("TE"):
			if is(name, "TE", "te") {
				return false
			}
		case len("Host"):
			if is(name, "Host", "host") {
				if v.host != nil || !isHost(value) {
					return false
				}
				v.host = withoutPort(value)
			}
		case len("X-Moz"):
			if is(name, "X-Moz", "x-moz") {
				into = &to.class.XMoz
			}
		case len("Cookie"): // and Expect
			if is(name, "Cookie", "cookie") && bytes.Contains(value, []byte(owner.CookiePrefix)) || same(name, "expect") {
				return false
			}
		case len("Referer"): // and Purpose, Upgrade, Trailer
			switch {
			case is(name, "Referer", "referer"):
				into = &to.referrer
			case is(name, "Purpose", "purpose"):
				into = &to.class.Purpose
			case same(name, "upgrade"), same(name, "trailer"):
				return false
			}
		case len("X-Purpose"):
			if is(name, "X-Purpose", "x-purpose") {
				into = &to.class.XPurpose
			}
		case len("User-Agent"): // and Connection
			if is(name, "User-Agent", "user-agent") {
				into = &to.agent
			} else if is(name, "Connection", "connection") && !same(value, "keep-alive") {
				return false
			}
		case len("Sec-Purpose"):
			if is(name, "Sec-Purpose", "sec-purpose") {
				into = &to.class.SecPurpose
			}
		case len("If-None-Match"):
			v.conditional = v.conditional || same(name, "if-none-match")
		case len("Content-Length"):
			if same(name, "content-length") {
				return false
			}
		case len("X-Forwarded-For"): // and Accept-Language, Accept-Encoding
			if is(name, "X-Forwarded-For", "x-forwarded-for") {
				to.forwarded = append(to.forwarded, value)
			} else if is(name, "Accept-Language", "accept-language") {
				into = &to.language
			} else if is(name, "Accept-Encoding", "accept-encoding") {
				into = &v.accepted
			}
		case len("Transfer-Encoding"):
			if same(name, "transfer-encoding") {
				return false
			}
		}
		if into != nil {
			if *into != nil { // which one counts is the server's to say
				return false
			}
			*into = value
		}
		if len(name) == len(h.CountryHeader) && bytes.EqualFold(name, h.countryHeader) {
			if to.country != nil {
				return false
			}
			to.country = value
		}
	}
	return string(b) == "\r\n" && v.host != nil
}

// lines are a header as it came, for those who ask for a name that nobody else is interested in.
type lines struct {
	b     []byte
	found [][]byte
}

// PeekAll returns the values of a header, whose name is in canonical form.
func (l *lines) PeekAll(name string) [][]byte {
	l.found = l.found[:0]
	for rest := l.b; len(rest) > 2; {
		end := bytes.IndexByte(rest, '\r')
		if end < 0 {
			break
		}
		line := rest[:end]
		rest = rest[min(end+2, len(rest)):]
		if colon := bytes.IndexByte(line, ':'); colon == len(name) && bytes.EqualFold(line[:colon], []byte(name)) {
			l.found = append(l.found, trim(line[colon+1:]))
		}
	}
	return l.found
}

// date is the Date header's value, made once a second.
type date struct{ made atomic.Pointer[dated] }

type dated struct {
	second int64
	text   []byte
}

func (d *date) append(b []byte, now time.Time) []byte {
	made := d.made.Load()
	if made == nil || made.second != now.Unix() {
		made = &dated{now.Unix(), fasthttp.AppendHTTPDate(nil, now)}
		d.made.Store(made)
	}
	return append(b, made.text...)
}

// trim removes the space around a value.
func trim(b []byte) []byte {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

// is tells whether a name is one that is mostly written as canonical.
func is(name []byte, canonical, lower string) bool {
	return string(name) == canonical || same(name, lower)
}

// same tells whether b is a word, which is in lower case, in any case.
func same(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if c := b[i]; c|0x20 != word[i] || c < 0x40 && c != word[i] {
			return false
		}
	}
	return true
}

// isHost tells whether b is a host as browsers send it, a port maybe behind it.
func isHost(b []byte) bool {
	if colon := bytes.IndexByte(b, ':'); colon >= 0 {
		if port, err := strconv.Atoi(string(b[colon+1:])); err != nil || port <= 0 || port > 65535 || b[colon+1] == '+' {
			return false
		}
		b = b[:colon]
	}
	for _, c := range b {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return len(b) > 0
}

// printable tells whether all bytes are printable ASCII. It looks at eight at a time.
func printable(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		// The high bit of a byte is set where it was: in x itself; below a space; at DEL, which one more makes 0x80.
		if (x|(x-0x20*ones)|(x+ones))&highs != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// inCode are the bytes of a code, inName those of a header's name, as browsers and proxies write them.
var inCode, inName = func() (code, name [256]bool) {
	for c := range 256 {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		code[c] = letter || c == '-' || c == '_'
		name[c] = letter || c == '-'
	}
	return code, name
}()
