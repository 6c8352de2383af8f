package visit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/page"
	"spillway.dev/schemas/event"
)

func TestHostileRequests(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	for _, c := range []struct{ name, request, want string }{
		{"header injection by the query", "GET /l/append?x=%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 302 Found\r\n(?s:.*)Location: https://example\.com/\?a=1&x=%0d%0aSet-Cookie:%20a=b#f\r\n`},
		{"bytes that no URL contains", "GET /l/append?x=\"<>\xff| HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 (302 Found\r\n(?s:.*)Location: https://example\.com/\?a=1&x=%22%3C%3E%FF%7C#f\r\n|400)`},
		{"NUL in the path", "GET /l/off\x00 HTTP/1.1\r\nHost: h\r\n\r\n", `^HTTP/1.1 400`},
		{"encoded NUL in the path", "GET /l/off%00 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 404`},
		{"bad percent-encoding", "GET /l/%zz%4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 404`},
		{"two slashes lead nowhere else", "GET //evil.example/l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 404`},
		{"absolute address", "GET http://spill.example/l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 302`},
		{"dots", "GET /x/../l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 302`},
		{"HTTP/1.0", "GET /l/off HTTP/1.0\r\n\r\n", `^HTTP/1\.[01] 302 Found\r\n(?s:.*)Connection: close\r\n`},
		{"HTTP/1.0, to be kept", "GET /l/off HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", `^HTTP/1\.[01] 302 Found\r\n(?s:.*)Connection: keep-alive\r\n`},
		{"no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", `^HTTP/1.1 400`},
		{"no such version", "GET /l/off HTTP/9.9\r\nHost: h\r\n\r\n", `^HTTP/1.1 (302|400|505)(?s:.*)Connection: close\r\n`},
		{"a header folded", "GET /l/off HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\nConnection: close\r\n\r\n", `^HTTP/1.1 (302|400)`},
		{"smuggling", "POST /l/off HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /l/off HTTP/1.1\r\n\r\n", `^HTTP/1.1 (400|405)`},
		{"a body that is too large", "POST /b/x HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n", `^HTTP/1.1 413`},
		{"a header that is too large", "GET /l/off HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", `^HTTP/1.1 431`},
		{"an address that is too large", "GET /l/" + strings.Repeat("x", 20<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", `^HTTP/1.1 431`},
		{"a long code", "GET /l/" + strings.Repeat("x", 8<<10) + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `^HTTP/1.1 404`},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := s.raw(c.request)
			require.Regexp(t, c.want, answer)
			require.NotContains(t, answer, "\r\nSet-Cookie")
			require.NotContains(t, answer, "\r\nServer:")
			require.Equal(t, 1, strings.Count(answer, "HTTP/1."), "one answer: %q", answer)
		})
	}
}

func TestSlowVisitorsAreNotWaitedFor(t *testing.T) {
	s := serve(t, page.Rendered, Limits{Request: 200 * time.Millisecond, Idle: 300 * time.Millisecond})
	// One byte now and then keeps a worker only as long as a whole request may take.
	c, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	ended := make(chan string)
	go func() {
		answer, _ := io.ReadAll(c)
		ended <- string(answer)
	}()
	for _, b := range []byte("GET /l/off HTTP/1.1\r\nHost: h\r\nX-Slow: 1\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	answer := <-ended
	require.Less(t, time.Since(began), 2*time.Second)
	require.Regexp(t, "^(HTTP/1.1 408|$)", answer)

	// An idle connection is closed without a word.
	idle, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	defer idle.Close()
	_, err = io.WriteString(idle, "GET /l/off HTTP/1.1\r\nHost: h\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(idle)
	_, err = http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.NoError(t, idle.SetReadDeadline(time.Now().Add(2*time.Second)))
	_, err = r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

func TestManyConnectionsAreBounded(t *testing.T) {
	s := serve(t, page.Rendered, Limits{Connections: 3, Request: 300 * time.Millisecond})
	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", s.address)
		require.NoError(t, err)
		defer c.Close()
		open = append(open, c)
		_, err = io.WriteString(c, "GET /l/off HT")
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		return strings.HasPrefix(s.raw("GET /l/off HTTP/1.1\r\nHost: h\r\n\r\n"), "HTTP/1.1 503")
	}, 2*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.HasPrefix(s.raw("GET /l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), "HTTP/1.1 302")
	}, 2*time.Second, 10*time.Millisecond, "those who said nothing are let go")
	require.Len(t, open, 3)
}

// fit is a journal that checks that an event's limits hold.
type fit struct{ t *testing.T }

func (f fit) Append(e *event.Event) (uint64, bool) {
	b, err := e.MarshalVT()
	if err != nil {
		f.t.Fatal(err)
	}
	back := &event.Event{}
	if err := back.UnmarshalVT(b); err != nil {
		f.t.Fatalf("an event that cannot be read: %v", err)
	}
	for name, c := range map[string]struct {
		text  string
		limit int
	}{
		"place": {e.Place, 64}, "user agent": {e.UserAgent, 512}, "referrer": {e.Referrer, 512}, "query": {e.Query, 512},
		"host": {e.Host, 253}, "language": {e.Language, 16}, "country": {e.Country, 2}, "reason": {e.Reason, 64},
	} {
		if len(c.text) > c.limit || strings.ToValidUTF8(c.text, "") != c.text {
			f.t.Fatalf("%s %q", name, c.text)
		}
	}
	if strings.Contains("&"+e.Query, "&sw_") {
		f.t.Fatalf("query %q has a mark", e.Query)
	}
	if e.ProfileId == 0 || e.Visitor == 0 || e.Class == 0 || e.Kind == 0 || e.Surface == 0 || e.TimeUs == 0 || e.Date == 0 {
		f.t.Fatalf("an event with a hole: %v", e)
	}
	return 1, true
}

// FuzzHandle sends a request through fasthttp's own reader and the handler: whatever is sent, nothing panics, the events are
// within their limits, and a Location is an http or https address.
func FuzzHandle(f *testing.F) {
	f.Add("GET /l/append?x=1&sw_place=a%ff HTTP/1.1\r\nHost: h\r\nUser-Agent: \xff\r\n\r\n")
	f.Add("HEAD /aurora?sw_qr HTTP/1.0\r\n\r\n")
	f.Add("GET http://go.example:80//l/x#y?z HTTP/1.1\r\nHost: [::1]:8080\r\nX-Forwarded-For: a, 1.2.3.4\r\nReferer: \xc3?\r\n\r\n")
	f.Add("POST /b/aurora?sw_ref=%00&sw_page=99999999999 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
	f.Add("GET /q/%61ppend?%&&=&sw_=&a%0d%0a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: ,gzip;q=,\r\nIf-None-Match: ,W/,*\r\n\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		for _, views := range []page.Views{page.Rendered, page.Beacon} {
			var r fasthttp.Request
			if r.ReadLimitBody(bufio.NewReaderSize(strings.NewReader(raw), 16<<10), maxBody) != nil {
				return
			}
			h, err := NewHandler(options(t, fit{t}, views))
			if err != nil {
				t.Fatal(err)
			}
			ctx := &fasthttp.RequestCtx{}
			ctx.Init(&r, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, nil)
			h.Handle(ctx)
			status := ctx.Response.StatusCode()
			if strings.Contains(string(ctx.Path()), "panic") {
				return
			}
			if status == fasthttp.StatusInternalServerError || status < 200 || status > 599 {
				t.Fatalf("status %d", status)
			}
			if location := string(ctx.Response.Header.Peek("Location")); location != "" || status == fasthttp.StatusFound {
				u, err := url.Parse(location)
				if err != nil || u.Scheme != "https" || u.Host != "example.com" {
					t.Fatalf("location %q: %v", location, err)
				}
				for _, c := range []byte(location) {
					if c <= ' ' || c >= 0x7f {
						t.Fatalf("location %q", location)
					}
				}
			}
		}
	})
}
