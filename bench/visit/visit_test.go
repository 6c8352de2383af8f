package visit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func soon() time.Time { return time.Now().Add(5 * time.Second) }

func TestOneConnectionManyAnswers(t *testing.T) {
	var connections atomic.Int32
	var seen http.Header
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "https://example.com/?a=1", http.StatusFound)
		case "/chunked":
			w.Write([]byte(strings.Repeat("x", 100_000)))
			w.(http.Flusher).Flush()
			w.Write([]byte("rest"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := New(server.Listener.Addr().String())
	defer c.Close()
	for range 2 {
		for target, status := range map[string]int{"/redirect": 302, "/chunked": 200, "/none": 404} {
			for _, method := range []string{"GET", "HEAD"} {
				answer, err := c.Do(&Request{Method: method, Target: target, UserAgent: "test/1", Referrer: "http://a/", ForwardedFor: "192.0.2.1"}, soon())
				require.NoError(t, err, target)
				require.Equal(t, status, answer.Status)
				if target == "/redirect" {
					require.Equal(t, "https://example.com/?a=1", string(answer.Location))
				}
				require.Equal(t, http.Header{"User-Agent": {"test/1"}, "Referer": {"http://a/"}, "X-Forwarded-For": {"192.0.2.1"}}, seen)
			}
		}
	}
	require.EqualValues(t, 1, connections.Load())

	_, err := c.Do(&Request{Target: "/", UserAgent: "a\nb"}, soon())
	require.ErrorIs(t, err, ErrHeader)
	_, err = c.Do(&Request{Target: "/a b"}, soon())
	require.ErrorIs(t, err, ErrHeader)
}

// A server that reads the request and closes has perhaps recorded it; one that refuses the connection has not.
func TestNothingIsSentTwice(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var requests atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			if _, err := http.ReadRequest(in); err == nil {
				requests.Add(1)
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				if _, err = http.ReadRequest(in); err == nil {
					requests.Add(1)
				}
			}
			conn.Close()
		}
	}()
	c := New(listener.Addr().String())
	_, err = c.Do(&Request{Target: "/"}, soon())
	require.NoError(t, err)
	_, err = c.Do(&Request{Target: "/"}, soon())
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNotSent)
	require.EqualValues(t, 2, requests.Load())

	listener.Close()
	<-done
	_, err = c.Do(&Request{Target: "/"}, soon())
	require.ErrorIs(t, err, ErrNotSent)
}

// A server that closes a connection on which nothing is under way has lost nothing, and the next request goes out on a new one.
func TestAnIdleConnectionThatWasClosedIsNotUsed(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := New(server.Listener.Addr().String())
	defer c.Close()
	for i := range 3 {
		_, err := c.Do(&Request{Target: "/"}, soon())
		require.NoError(t, err)
		require.EqualValues(t, i+1, connections.Load())
		server.CloseClientConnections()
		require.Eventually(t, func() bool { return stale(c.conn) }, time.Second, time.Millisecond)
	}
}

func TestADeadlineHolds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	c := New(listener.Addr().String())
	began := time.Now()
	_, err = c.Do(&Request{Target: "/"}, time.Now().Add(50*time.Millisecond))
	require.ErrorContains(t, err, "timeout")
	require.Less(t, time.Since(began), 2*time.Second)
}

func TestAnswersThatAreNotHTTP(t *testing.T) {
	for _, answer := range []string{
		"", "garbage\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20_000) + "\r\n",
	} {
		c := &Client{in: bufio.NewReaderSize(strings.NewReader(answer), 8<<10)}
		_, _, err := c.read(false)
		require.Error(t, err, "%.40q", answer)
	}
	c := &Client{in: bufio.NewReader(strings.NewReader("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end"))}
	got, keep, err := c.read(false)
	require.NoError(t, err)
	require.Equal(t, 200, got.Status)
	require.False(t, keep)
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 2\r\n\r\nab"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nT: v\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 204 None\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, answer []byte, head bool) {
		c := &Client{in: bufio.NewReader(strings.NewReader(string(answer)))}
		got, _, err := c.read(head)
		if err == nil && (got.Status < 200 || got.Status > 999) {
			t.Fatalf("status %d", got.Status)
		}
	})
}
