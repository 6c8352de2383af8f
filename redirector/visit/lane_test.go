package visit

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/proto"

	"spillway.dev/redirector/page"
)

// asServer reads a request, and nothing behind it, as the HTTP server does, and answers it. It returns the answer as it is sent.
func asServer(h *Handler, request []byte) (answer []byte, whole bool) {
	in := bufio.NewReaderSize(bytes.NewReader(request), 16<<10)
	ctx := &fasthttp.RequestCtx{}
	var r fasthttp.Request
	if r.ReadLimitBody(in, maxBody) != nil || in.Buffered() > 0 || r.Header.ConnectionClose() || !r.Header.IsHTTP11() || r.MayContinue() {
		return nil, false
	}
	ctx.Init(&r, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}, nil)
	ctx.Response.Header.SetNoDefaultContentType(true)
	h.Handle(ctx)
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	if ctx.Response.Write(w) != nil || w.Flush() != nil {
		return nil, false
	}
	return out.Bytes(), true
}

// byLane has the lane answer a request.
func byLane(h *Handler, request []byte) []byte {
	v := h.visits.Get().(*visit)
	defer h.release(v)
	return bytes.Clone(h.plain(&connection{remote: peer(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})}, v, request))
}

func withoutDate(answer []byte) string {
	before, rest, found := strings.Cut(string(answer), "\r\nDate: ")
	if !found {
		return string(answer)
	}
	_, after, _ := strings.Cut(rest, "\r\n")
	return before + "\r\n" + after
}

// lanes are two handlers that name visitors alike: one is asked by the lane, the other by the server.
type lanes struct {
	handlers [2]*Handler
	kept     [2]*keeper
}

func newLanes(t testing.TB) *lanes {
	l := &lanes{}
	for i := range l.handlers {
		l.kept[i] = &keeper{}
		var err error
		l.handlers[i], err = NewHandler(options(t, l.kept[i], page.Rendered))
		require.NoError(t, err)
	}
	l.handlers[1].Visitors = l.handlers[0].Visitors
	return l
}

// agree fails if the lane answers a request in another way than the server, or records another event. It tells whether the lane answered.
func (l *lanes) agree(t *testing.T, request []byte) bool {
	t.Helper()
	before := bytes.Clone(request)
	answer := byLane(l.handlers[0], request)
	recorded := l.kept[0].take()
	if !bytes.Equal(before, request) {
		t.Fatalf("%q: the lane changed it to %q", before, request)
	}
	if answer == nil {
		if len(recorded) > 0 {
			t.Fatalf("%q: not answered, but recorded", request)
		}
		return false
	}
	want, whole := asServer(l.handlers[1], request)
	wanted := l.kept[1].take()
	if !whole {
		t.Fatalf("%q: answered by the lane, but the server does not take it for one plain request", request)
	}
	if withoutDate(answer) != withoutDate(want) {
		t.Fatalf("%q: the lane says\n%q\nand the server\n%q", request, answer, want)
	}
	if len(recorded) != 1 || len(wanted) != 1 || !proto.Equal(recorded[0], wanted[0]) {
		t.Fatalf("%q: the lane records\n%v\nand the server\n%v", request, recorded, wanted)
	}
	return true
}

const plainHeader = "Host: h\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nReferer: https://ref.example/a?b#c\r\nX-Forwarded-For: 198.51.100.2, 203.0.113.7\r\n" +
	"Accept-Language: de-AT,de;q=0.9\r\nCF-IPCountry: AT\r\n\r\n"

func TestTheLaneAnswersAsTheServerDoes(t *testing.T) {
	l := newLanes(t)
	for _, taken := range []string{
		"GET /l/off HTTP/1.1\r\n" + plainHeader,
		"GET /q/off HTTP/1.1\r\n" + plainHeader,
		"GET /l/append?a=2&sw_page=7&utm_source=x&sw_place=mail HTTP/1.1\r\n" + plainHeader,
		"GET /l/append?\"<>%0d%0a|&&= HTTP/1.1\r\n" + plainHeader,
		"GET /l/off? HTTP/1.1\r\n" + plainHeader,
		"GET /l/x HTTP/1.1\r\nhost: go.example:8080\r\nconnection: Keep-Alive\r\nUSER-AGENT:   a  \r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nSec-Purpose: prefetch;prerender\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nPurpose: preview\r\nUser-Agent: " + strings.Repeat("x", 600) + "\r\nX-Purpose: x\r\nX-Moz: prefetch\r\nCookie: a=b\r\n\r\n",
		"GET /aurora HTTP/1.1\r\n" + plainHeader,
		"GET /aurora?sw_qr&sw_place=mail&a=b&sw_owner= HTTP/1.1\r\nAccept-Encoding: gzip, deflate, br\r\n" + plainHeader,
		"GET /aurora? HTTP/1.1\r\naccept-encoding: br, gzip;q=0\r\nRange: bytes=1-2\r\nPurpose: prefetch\r\n" + plainHeader,
		"GET /l/off HTTP/1.1\r\nIf-None-Match: *\r\nAccept-Encoding: gzip\r\n" + plainHeader,
	} {
		require.True(t, l.agree(t, []byte(taken)), taken)
	}
	for _, left := range []string{
		"GET /l/off HTTP/1.1\r\n" + plainHeader + "GET /l/off HTTP/1.1\r\n" + plainHeader,
		"GET /l/off HTTP/1.1\r\n" + plainHeader + "x",
		("GET /l/off HTTP/1.1\r\n" + plainHeader)[:100],
		"GET /l/unknown HTTP/1.1\r\n" + plainHeader,
		"GET /l/panic HTTP/1.1\r\n" + plainHeader,
		"GET /l/away HTTP/1.1\r\n" + plainHeader,
		"GET /l/off/ HTTP/1.1\r\n" + plainHeader,
		"GET /l/%6fff HTTP/1.1\r\n" + plainHeader,
		"GET /l/../l/off HTTP/1.1\r\n" + plainHeader,
		"GET /l/off#x HTTP/1.1\r\n" + plainHeader,
		"GET /l/append?a#x HTTP/1.1\r\n" + plainHeader,
		"GET /l/append?u=http://evil.example/ HTTP/1.1\r\n" + plainHeader,
		"GET /l/append?\xff HTTP/1.1\r\n" + plainHeader,
		"HEAD /l/off HTTP/1.1\r\n" + plainHeader,
		"POST /l/off HTTP/1.1\r\n" + plainHeader,
		"GET /l/off HTTP/1.0\r\n" + plainHeader,
		"GET /Aurora HTTP/1.1\r\n" + plainHeader,
		"GET /aurora/ HTTP/1.1\r\n" + plainHeader,
		"GET /nobody HTTP/1.1\r\n" + plainHeader,
		"GET /away HTTP/1.1\r\n" + plainHeader,
		"GET / HTTP/1.1\r\n" + plainHeader,
		"GET /b/aurora HTTP/1.1\r\n" + plainHeader,
		"GET /robots.txt HTTP/1.1\r\n" + plainHeader,
		"GET /aurora?sw_owner=claim.1.9.good HTTP/1.1\r\n" + plainHeader,
		"GET /aurora HTTP/1.1\r\nif-none-match: *\r\n" + plainHeader,
		"GET /aurora HTTP/1.1\r\nAccept-Encoding: br\r\nAccept-Encoding: gzip\r\n" + plainHeader,
		"GET /aurora HTTP/1.1\r\nCookie: sw_owner_1=1.1.9.good\r\n" + plainHeader,
		"GET http://h/l/off HTTP/1.1\r\n" + plainHeader,
		"GET /l/off HTTP/1.1\r\nUser-Agent: x\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: user@h\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: H\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h:x\r\n\r\n",
		"GET /l/off HTTP/1.1\nHost: h\n\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nUser-Agent: \xff\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nUser-Agent: a\r\nUser-Agent: b\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET /l/off HTTP/1.1\r\nHost: h\r\nCookie: a=b; sw_owner_1=1.1.9.good\r\n\r\n",
		"", "\r\n", "GET /l/off HTTP/1.1\r\n\r\n", "GET /l/ HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		require.False(t, l.agree(t, []byte(left)), left)
	}
}

// FuzzLane holds whatever the lane answers against the server.
func FuzzLane(f *testing.F) {
	f.Add("GET /l/off HTTP/1.1\r\n" + plainHeader)
	f.Add("GET /l/append?a=2&sw_page=7&sw_place=mail HTTP/1.1\r\n" + plainHeader)
	f.Add("GET /l/x HTTP/1.1\r\nHost: go.example:8080\r\nConnection: keep-alive\r\nX-Forwarded-For: a\r\nx-forwarded-for: 1.2.3.4:5\r\n\r\n")
	f.Add("GET /q/off?sw_qr HTTP/1.1\r\nHost: h:65535\r\nCookie: a\r\nTE: x\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nContent-Type: x\r\n\r\n")
	f.Add("GET /aurora?sw_qr=1&x HTTP/1.1\r\nAccept-Encoding: gzip;q=1, br\r\n" + plainHeader)
	f.Add("GET /aurora HTTP/1.1\r\nIf-Match: x\r\nRange: bytes=0-\r\n" + plainHeader)
	l := newLanes(f)
	f.Fuzz(func(t *testing.T, request string) { l.agree(t, []byte(request)) })
}

func TestTheLaneAllocatesNothing(t *testing.T) {
	o := options(t, silent{}, page.Rendered)
	h, err := NewHandler(o)
	require.NoError(t, err)
	c := &connection{remote: peer(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})}
	for _, address := range []string{"/l/append?sw_page=7&x=1&sw_place=mail", "/aurora?sw_qr"} {
		request := []byte("GET " + address + " HTTP/1.1\r\nAccept-Encoding: gzip\r\n" + plainHeader)
		answered := 0
		serve := func() {
			v := h.visits.Get().(*visit)
			if h.plain(c, v, request) != nil {
				answered++
			}
			h.release(v)
		}
		serve()
		require.Zero(t, testing.AllocsPerRun(200, serve), address)
		require.NotZero(t, answered, address)
	}
}

// TestConnectionsOfAllKinds sends what the lane answers, and what it does not, over one connection after another, in pieces and together; each request is
// answered once, in its place.
func TestConnectionsOfAllKinds(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	requests := []string{
		"GET /l/off HTTP/1.1\r\n" + plainHeader,
		"GET /aurora HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /l/append?x=1 HTTP/1.1\r\n" + plainHeader,
		"POST /b/aurora HTTP/1.1\r\nHost: h\r\nContent-Length: 42\r\n\r\nGET /l/off HTTP/1.1\r\nHost: smuggled.example",
		"GET /l/unknown HTTP/1.1\r\nHost: h\r\n\r\n",
		"HEAD /l/off HTTP/1.1\r\nHost: h\r\n\r\n",
	}
	require.Len(t, "GET /l/off HTTP/1.1\r\nHost: smuggled.example", 42+1)
	requests[3] = strings.Replace(requests[3], ": 42", ": 43", 1)
	statuses := []int{302, 200, 302, 405, 404, 302}
	if s.handler.Pages.Views() != page.Beacon {
		statuses[3] = 404
	}
	for _, cut := range []int{0, 1, 7, 40, 200} {
		c, err := net.Dial("tcp", s.address)
		require.NoError(t, err)
		var all strings.Builder
		var order []int
		for i := range 60 {
			n := (i*i + i/7) % len(requests)
			order = append(order, n)
			all.WriteString(requests[n])
		}
		go func() {
			text := all.String()
			for len(text) > 0 && cut > 0 {
				n := min(cut, len(text))
				if _, err := io.WriteString(c, text[:n]); err != nil {
					return
				}
				text = text[n:]
			}
			_, _ = io.WriteString(c, text)
		}()
		in := bufio.NewReader(c)
		clicks := 0
		for i, n := range order {
			method := "GET"
			if strings.HasPrefix(requests[n], "HEAD") {
				method = "HEAD"
			}
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
			response, err := http.ReadResponse(in, &http.Request{Method: method})
			require.NoError(t, err, "answer %d, cut %d", i, cut)
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err)
			require.Equal(t, statuses[n], response.StatusCode, "answer %d to %q, cut %d", i, requests[n], cut)
			if response.StatusCode == 302 || n == 1 {
				clicks++
			}
		}
		require.Equal(t, clicks, len(s.journal.take()))
		require.NoError(t, c.Close())
	}
}

// TestTheLaneIsUsed: clicks do not reach the server.
func TestTheLaneIsUsed(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	c, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	defer c.Close()
	in := bufio.NewReader(c)
	for range 5 {
		_, err = io.WriteString(c, "GET /l/off HTTP/1.1\r\n"+plainHeader)
		require.NoError(t, err)
		_, err = http.ReadResponse(in, nil)
		require.NoError(t, err)
	}
	require.Len(t, s.journal.take(), 5)
	families, err := s.handler.Registry.(*prometheus.Registry).Gather()
	require.NoError(t, err)
	found := 0.0
	for _, f := range families {
		if f.GetName() == "spillway_redirector_lane_requests_total" {
			found = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	require.InDelta(t, 5, found, 0)
}

// TestTheServerTakesOverFromTheLane: the server holds a connection, of which only the lane has answered requests, for one that never asked.
func TestTheServerTakesOverFromTheLane(t *testing.T) {
	click := func(address string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = io.WriteString(c, "GET /l/off HTTP/1.1\r\n"+plainHeader)
		require.NoError(t, err)
		in := bufio.NewReader(c)
		response, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusFound, response.StatusCode)
		return c, in
	}
	t.Run("idle", func(t *testing.T) {
		_, in := click(serve(t, page.Rendered, Limits{Idle: 20 * time.Millisecond}).address)
		rest, err := io.ReadAll(in)
		require.NoError(t, err)
		require.Empty(t, rest, "nobody is told off for having asked nothing more")
	})
	t.Run("slow", func(t *testing.T) {
		c, in := click(serve(t, page.Rendered, Limits{Request: 20 * time.Millisecond}).address)
		_, err := io.WriteString(c, "GET /l/o")
		require.NoError(t, err)
		response, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestTimeout, response.StatusCode)
	})
	t.Run("not the lane's", func(t *testing.T) {
		c, in := click(serve(t, page.Rendered, Limits{}).address)
		_, err := io.WriteString(c, "GET /l/off HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		response, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusFound, response.StatusCode)
		rest, err := io.ReadAll(in)
		require.NoError(t, err)
		require.Empty(t, rest)
	})
	t.Run("the end of the service", func(t *testing.T) {
		server, listener := listening(t, &keeper{}, page.Rendered, Limits{})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- server.Run(ctx, listener, time.Hour) }()
		_, in := click(listener.Addr().String())
		cancel()
		rest, err := io.ReadAll(in)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.NoError(t, <-done, "it waits for nobody who was answered")
	})
}

// TestWhatWasRecordedIsAnswered closes connections, as the end of the service does, while clicks are being answered.
func TestWhatWasRecordedIsAnswered(t *testing.T) {
	for range 20 {
		s := serve(t, page.Rendered, Limits{})
		answered := make(chan int)
		const visitors = 4
		for range visitors {
			go func() {
				n := 0
				defer func() { answered <- n }()
				c, err := net.Dial("tcp", s.address)
				if err != nil {
					return
				}
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					if _, err := fmt.Fprintf(c, "GET /l/off HTTP/1.1\r\n%s", plainHeader); err != nil {
						return
					}
					if _, err := http.ReadResponse(in, nil); err != nil {
						return
					}
					n++
				}
			}()
		}
		time.Sleep(5 * time.Millisecond)
		s.stop()
		sum := 0
		for range visitors {
			sum += <-answered
		}
		require.Equal(t, sum, len(s.journal.take()))
	}
}

func TestAServiceThatEndsAtOnceAcceptsNobody(t *testing.T) {
	for range 50 {
		server, listener := listening(t, &keeper{}, page.Rendered, Limits{})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, server.Run(ctx, listener, time.Hour))
		_, err := net.Dial("tcp", listener.Addr().String())
		require.Error(t, err)
	}
}

func BenchmarkLane(b *testing.B) {
	h, err := NewHandler(options(b, silent{}, page.Rendered))
	require.NoError(b, err)
	c := &connection{remote: peer(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})}
	request := []byte("GET /l/off?sw_page=7 HTTP/1.1\r\n" + plainHeader)
	for b.Loop() {
		v := h.visits.Get().(*visit)
		if h.plain(c, v, request) == nil {
			b.Fatal("not for the lane")
		}
		h.release(v)
	}
}
