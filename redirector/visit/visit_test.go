package visit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/proto"

	"spillway.dev/redirector/hammer"
	"spillway.dev/redirector/page"
	"spillway.dev/schemas/event"
)

func TestClick(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	response, body := s.do("GET", "/l/append?utm_source=mail&sw_place=news%20letter&a=2",
		"User-Agent: Mozilla/5.0 (test)", "Referer: https://ref.example/path?secret=1#x", "Accept-Language: de-AT,de;q=0.9",
		"X-Forwarded-For: 203.0.113.7", "CF-IPCountry: AT")
	require.Equal(t, http.StatusFound, response.StatusCode)
	require.Equal(t, "https://example.com/?a=1&utm_source=mail#f", response.Header.Get("Location"))
	require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
	require.Equal(t, "noindex", response.Header.Get("X-Robots-Tag"))
	require.Empty(t, response.Header.Get("Server"))
	require.NotEmpty(t, response.Header.Get("Date"))
	require.Empty(t, body)

	events := s.journal.take()
	require.Len(t, events, 1)
	e := events[0]
	require.NotZero(t, e.Visitor)
	e.Visitor = 0
	want := &event.Event{
		TimeUs: late.UnixMicro(), Kind: event.Kind_KIND_CLICK, Class: event.Class_CLASS_PERSON, ProfileId: 1, LinkId: 12,
		Date: uint32(late.Unix() / 86400), Surface: event.Surface_SURFACE_DIRECT, Place: "news letter", Country: "AT",
		UserAgent: "Mozilla/5.0 (test)", Referrer: "https://ref.example/path", Query: "utm_source=mail&a=2",
		Host: "127.0.0.1", Language: "de-AT", RulesVersion: 2_000_000,
	}
	require.True(t, proto.Equal(want, e), "%v", e)
}

func TestSurfaces(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for _, c := range []struct {
		path    string
		surface event.Surface
		layout  uint32
	}{
		{"/l/off", event.Surface_SURFACE_DIRECT, 0},
		{"/l/off/", event.Surface_SURFACE_DIRECT, 0},
		{"/l/off?sw_page=7", event.Surface_SURFACE_PAGE, 7},
		{"/l/off?sw_qr", event.Surface_SURFACE_QR, 0},
		{"/q/off", event.Surface_SURFACE_QR, 0},
		{"/aurora", event.Surface_SURFACE_PAGE, 7},
		{"/Aurora/?sw_qr=1", event.Surface_SURFACE_QR, 7},
	} {
		s.do("GET", c.path)
		events := s.journal.take()
		require.Len(t, events, 1, c.path)
		require.Equal(t, c.surface, events[0].Surface, c.path)
		require.Equal(t, c.layout, events[0].Layout, c.path)
		require.Equal(t, uint32(late.Unix()/86400)+1, events[0].Date, "it is tomorrow in Tokyo")
		require.Empty(t, events[0].Query)
	}
	response, _ := s.do("GET", "/l/x", "Host: Go.Example:8080")
	require.Equal(t, "https://example.com/own", response.Header.Get("Location"))
	require.Equal(t, "go.example", s.journal.take()[0].Host)
	response, _ = s.do("GET", "/l/x")
	require.Equal(t, http.StatusNotFound, response.StatusCode, "a code belongs to its domain")
}

func TestClasses(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for _, c := range []struct {
		method, path, header string
		class                event.Class
	}{
		{"GET", "/l/off", "Sec-Purpose: prefetch;prerender", event.Class_CLASS_PREFETCH},
		{"GET", "/aurora", "Purpose: prefetch", event.Class_CLASS_PREFETCH},
		{"GET", "/aurora", "X-Moz: prefetch", event.Class_CLASS_PREFETCH},
		{"HEAD", "/aurora", "Accept: */*", event.Class_CLASS_HEAD},
		{"HEAD", "/l/off", "Accept: */*", event.Class_CLASS_HEAD},
		{"GET", "/l/off", "Accept: */*", event.Class_CLASS_PERSON},
	} {
		s.do(c.method, c.path, c.header)
		events := s.journal.take()
		require.Len(t, events, 1)
		require.Equal(t, c.class, events[0].Class, "%v", c)
		require.Equal(t, c.class == event.Class_CLASS_PERSON, events[0].Reason == "")
	}
}

func TestWhoHammersIsMarkedAndCounted(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for range hammer.Most + 1 {
		s.do("GET", "/l/off")
	}
	events := s.journal.take()
	require.Len(t, events, hammer.Most+1)
	for i, e := range events {
		require.Equal(t, i == hammer.Most, e.Suspect, i)
		require.Equal(t, event.Class_CLASS_PERSON, e.Class)
	}
}

func TestTheOwnerIsNotAVisitor(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	response, _ := s.do("GET", "/aurora?a=b&sw_owner=claim.1.9.good")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Equal(t, "/aurora?a=b", response.Header.Get("Location"), "the token does not stay in the address")
	require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
	cookies := response.Cookies()
	require.Len(t, cookies, 1)
	require.Equal(t, "sw_owner_1", cookies[0].Name)
	require.Equal(t, "1.1.9.good", cookies[0].Value)
	require.True(t, cookies[0].HttpOnly)
	require.False(t, cookies[0].Secure, "the pages are http")
	require.Equal(t, http.SameSiteLaxMode, cookies[0].SameSite)
	require.Empty(t, s.journal.take(), "nothing was shown yet")
	response, _ = s.do("GET", "//aurora?sw_owner=claim.1.9.good")
	require.NotContains(t, response.Header.Get("Location"), "//")

	response, _ = s.do("GET", "/aurora?sw_owner=release.1.9.good")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Len(t, response.Cookies(), 1)
	require.True(t, response.Cookies()[0].Expires.Before(time.Now()), "taken away")
	s.journal.take()

	response, _ = s.do("GET", "/l/off", "Cookie: other=1; sw_owner_1=1.1.9.good")
	require.Empty(t, response.Cookies())
	require.Equal(t, event.Class_CLASS_OWNER, s.journal.take()[0].Class)
	for _, cookie := range []string{"sw_owner_1=1.1.9.bad", "sw_owner_2=1.1.9.good", "sw_owner_=1.1.9.good"} {
		s.do("GET", "/l/off", "Cookie: "+cookie)
		require.Equal(t, event.Class_CLASS_PERSON, s.journal.take()[0].Class, cookie)
	}
	for _, token := range []string{"claim.1.9.bad", "1.1.9.good"} {
		response, _ = s.do("GET", "/aurora?sw_owner="+token)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Empty(t, response.Cookies())
		require.Equal(t, event.Class_CLASS_PERSON, s.journal.take()[0].Class)
	}

	beacon := serve(t, page.Beacon, Limits{})
	response, _ = beacon.do("GET", "/aurora?sw_owner=claim.1.9.good")
	require.Len(t, response.Cookies(), 1)
	require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"), "no shared cache keeps the cookie")
	beacon.do("POST", "/b/aurora?sw_page=7", "Cookie: sw_owner_1=1.1.9.good")
	require.Equal(t, event.Class_CLASS_OWNER, beacon.journal.take()[0].Class)
}

func TestVisitorsAreToldApart(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	id := func(headers ...string) uint64 {
		s.do("GET", "/aurora", headers...)
		return s.journal.take()[0].Visitor
	}
	one := id("X-Forwarded-For: 203.0.113.7", "User-Agent: a")
	require.Equal(t, one, id("X-Forwarded-For: 198.51.100.1, 203.0.113.7", "User-Agent: a"), "what the visitor sent means nothing")
	require.NotEqual(t, one, id("X-Forwarded-For: 203.0.113.8", "User-Agent: a"))
	require.NotEqual(t, one, id("X-Forwarded-For: 203.0.113.7", "User-Agent: b"))
}

func TestPage(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	response, body := s.do("GET", "/AuRora")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"))
	require.Equal(t, "private, no-cache", response.Header.Get("Cache-Control"))
	require.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "strict-origin-when-cross-origin", response.Header.Get("Referrer-Policy"))
	require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, string(body), `href="/l/off?sw_page=7"`)
	require.Len(t, s.journal.take(), 1)

	packed, small := s.do("GET", "/aurora", "Accept-Encoding: br, gzip;q=0.8")
	require.Equal(t, "gzip", packed.Header.Get("Content-Encoding"))
	require.Equal(t, "Accept-Encoding", packed.Header.Get("Vary"))
	unpacked, err := gzip.NewReader(bytes.NewReader(small))
	require.NoError(t, err)
	plain, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Equal(t, body, plain)
	refused, _ := s.do("GET", "/aurora", "Accept-Encoding: gzip;q=0.0, identity")
	require.Empty(t, refused.Header.Get("Content-Encoding"))

	same, nothing := s.do("GET", "/aurora", "If-None-Match: W/"+response.Header.Get("ETag"))
	require.Equal(t, http.StatusNotModified, same.StatusCode)
	require.Empty(t, nothing)
	other, _ := s.do("GET", "/aurora", "Accept-Encoding: gzip", "If-None-Match: "+response.Header.Get("ETag"))
	require.Equal(t, http.StatusOK, other.StatusCode, "the compressed page is another one")
	require.Len(t, s.journal.take(), 4, "a page that the visitor still had is a view too")
}

func TestHEADIsGETWithoutABody(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for _, path := range []string{"/aurora", "/l/off", "/l/none", "/none", "/", "/robots.txt", "/favicon.ico"} {
		get, body := s.do("GET", path)
		head, nothing := s.do("HEAD", path)
		require.Empty(t, nothing)
		require.Equal(t, get.StatusCode, head.StatusCode, path)
		require.EqualValues(t, len(body), head.ContentLength, path)
		get.Header.Del("Date")
		head.Header.Del("Date")
		require.Equal(t, get.Header, head.Header, path)
	}
}

func TestNotices(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for path, says := range map[string]string{
		"/l/none": "leads nowhere", "/q/none": "leads nowhere", "/nobody": "Nobody here", "/l": "Nobody here", "/aurora/more": "Nobody here", "/b/aurora": "Nobody here",
		"/l/a%2Fb": "leads nowhere", "/.well-known/x": "Nobody here",
	} {
		response, body := s.do("GET", path)
		require.Equal(t, http.StatusNotFound, response.StatusCode, path)
		require.Contains(t, string(body), says, path)
		require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
	}
	for _, path := range []string{"/l/away", "/away"} {
		response, body := s.do("GET", path)
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		require.Equal(t, "2", response.Header.Get("Retry-After"))
		require.Contains(t, string(body), "One moment")
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"} {
		response, _ := s.do(method, "/l/off")
		require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode, method)
		require.Equal(t, "GET, HEAD", response.Header.Get("Allow"))
	}
	response, body := s.do("GET", "/robots.txt")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Contains(t, string(body), "Disallow: /l/")
	response, _ = s.do("GET", "/favicon.ico")
	require.Equal(t, "image/svg+xml", response.Header.Get("Content-Type"))
	response, body = s.do("GET", "/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Contains(t, string(body), "Spillway")
	require.Empty(t, s.journal.take())
}

func TestAMistakeOfOursIsOneVisitorsOnly(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	response, _ := s.do("GET", "/l/panic")
	require.Equal(t, http.StatusInternalServerError, response.StatusCode)
	require.Equal(t, 1.0, testutil.ToFloat64(s.handler.metrics.panics))
	response, _ = s.do("GET", "/l/off")
	require.Equal(t, http.StatusFound, response.StatusCode)
}

func TestAJournalWithoutRoomTurnsNobodyAway(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	s.journal.mu.Lock()
	s.journal.full = true
	s.journal.mu.Unlock()
	response, _ := s.do("GET", "/l/off")
	require.Equal(t, http.StatusFound, response.StatusCode)
	response, _ = s.do("GET", "/aurora")
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func TestBeacon(t *testing.T) {
	s := serve(t, page.Beacon, Limits{})
	response, body := s.do("GET", "/aurora")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "public, max-age=0, s-maxage=60", response.Header.Get("Cache-Control"))
	require.Contains(t, string(body), `data-b="/b/aurora?sw_page=7"`)
	require.Empty(t, s.journal.take(), "never both")

	response, body = s.do("POST", "/b/aurora?sw_page=6&sw_ref=https%3A%2F%2Fref.example%2Fa%3Fb&utm_source=mail&sw_place=x", "Referer: https://spill.example/aurora")
	require.Equal(t, http.StatusNoContent, response.StatusCode)
	require.Empty(t, body)
	events := s.journal.take()
	require.Len(t, events, 1)
	require.Equal(t, event.Kind_KIND_VIEW, events[0].Kind)
	require.Equal(t, "https://ref.example/a", events[0].Referrer)
	require.Equal(t, "utm_source=mail", events[0].Query)
	require.Equal(t, "x", events[0].Place)
	require.EqualValues(t, 6, events[0].Layout, "the page that was shown, which a CDN may have kept")

	response, body = s.do("GET", "/b/aurora?sw_page=7", "Referer: https://spill.example/aurora")
	require.Equal(t, "image/gif", response.Header.Get("Content-Type"))
	require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
	require.Len(t, body, 43)
	require.Empty(t, s.journal.take()[0].Referrer, "the page itself is no referrer")
	response, _ = s.do("HEAD", "/b/aurora")
	require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
	require.Equal(t, "GET, POST", response.Header.Get("Allow"))
	response, _ = s.do("GET", "/b/nobody")
	require.Equal(t, http.StatusNotFound, response.StatusCode)
}

func TestWhatIsSentIsMadeFit(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	long := strings.Repeat("ä", 400)
	answer := s.raw("GET /l/off?" + strings.Repeat("parameter=value&", 40) + " HTTP/1.1\r\nHost: h\xffost\r\nUser-Agent: " + long +
		"\r\nReferer: https://x.example/\xff\xfe\r\nAccept-Language: " + strings.Repeat("x", 40) + "\r\nCF-IPCountry: at\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 302") {
		require.Regexp(t, "^HTTP/1.1 400", answer, "a host that is none")
		return
	}
	e := s.journal.take()[0]
	require.Equal(t, strings.Repeat("ä", 256), e.UserAgent)
	require.Equal(t, "https://x.example/\ufffd\ufffd", e.Referrer)
	require.Len(t, e.Language, 16)
	require.Empty(t, e.Country)
	require.LessOrEqual(t, len(e.Query), 512)
	require.True(t, strings.HasSuffix(e.Query, "=value"), "cut at a parameter's end")
}

func TestARedirectAllocatesNothing(t *testing.T) {
	h, err := NewHandler(options(t, silent{}, page.Rendered))
	require.NoError(t, err)
	for _, uri := range []string{"/l/off", "/l/append?sw_page=7&x=1&sw_place=mail", "/q/off"} {
		ctx := request("GET", uri, map[string]string{
			"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "Referer": "https://ref.example/a?b", "Accept-Language": "de-AT,de;q=0.9",
			"X-Forwarded-For": "198.51.100.2, 203.0.113.7", "CF-IPCountry": "AT", "Sec-Purpose": "none",
		})
		serve := func() {
			ctx.Response.Reset()
			h.Handle(ctx)
		}
		serve()
		require.Equal(t, http.StatusFound, ctx.Response.StatusCode())
		require.Zero(t, testing.AllocsPerRun(200, serve), uri)
	}
}

func BenchmarkRedirect(b *testing.B) {
	h, err := NewHandler(options(b, silent{}, page.Rendered))
	require.NoError(b, err)
	ctx := request("GET", "/l/off?sw_page=7", map[string]string{"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "Referer": "https://ref.example/a?b", "X-Forwarded-For": "203.0.113.7"})
	for b.Loop() {
		ctx.Response.Reset()
		h.Handle(ctx)
	}
}

func BenchmarkMetrics(b *testing.B) {
	m, err := newMetrics(prometheus.NewRegistry())
	require.NoError(b, err)
	for b.Loop() {
		m.answered(kindRedirect, http.StatusFound, 3*time.Microsecond)
	}
}

func TestVisitorOfAnUnknownPeer(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&fasthttp.Request{}, &net.UnixAddr{Name: "/x"}, nil)
	client, trusted := s.handler.client(peer(ctx.RemoteAddr()), nil)
	require.Equal(t, netip.Addr{}, client)
	require.False(t, trusted)
}

func TestPipelinedRequestsAreAnsweredInTheirOrder(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	var batch strings.Builder
	for n := range 20 {
		fmt.Fprintf(&batch, "GET /l/append?n=%d HTTP/1.1\r\nHost: h\r\n\r\n", n)
	}
	c, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, batch.String())
	require.NoError(t, err)
	r := bufio.NewReader(c)
	for n := range 20 {
		response, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("https://example.com/?a=1&n=%d#f", n), response.Header.Get("Location"))
	}
	require.Len(t, s.journal.take(), 20)
}
