package pump

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/bench/load"
)

// record returns a few visitors' requests.
func record(t *testing.T) [][]byte {
	requests, err := Record(t.Context(), load.Config{Links: []load.Link{{Code: "one"}, {Code: "two"}}, Seed: 7}, 50)
	require.NoError(t, err)
	return requests
}

// server answers after a while, and counts.
func server(t *testing.T, after time.Duration, asked *atomic.Int64) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != Host {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		time.Sleep(after)
		asked.Add(1)
		w.Header().Set("Location", "https://example.com"+r.URL.Path)
		w.Header().Set("Content-Length", "40960")
		w.WriteHeader(http.StatusFound)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 40<<10))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestRecordedRequestsAreTheSameAgain(t *testing.T) {
	first := record(t)
	require.Equal(t, first, record(t))
	require.True(t, bytes.HasPrefix(first[0], []byte("GET /l/")), "%s", first[0])
	require.Contains(t, string(first[0]), "\r\nHost: "+Host+"\r\n")
	require.True(t, bytes.HasSuffix(first[0], []byte("\r\n\r\n")))
}

func TestClosedCountsEveryAnswer(t *testing.T) {
	var asked atomic.Int64
	r, err := Closed(t.Context(), Options{Address: server(t, 0, &asked), Requests: record(t), Wanted: 302, Connections: 4, Duration: 300 * time.Millisecond, Processor: -1})
	require.NoError(t, err)
	require.NoError(t, r.Err())
	require.Positive(t, r.Answered)
	require.Equal(t, asked.Load(), r.Answered)
	require.Equal(t, r.Answered, r.Waits.TotalCount())
}

func TestOnceSendsEachRequestOnce(t *testing.T) {
	var asked atomic.Int64
	requests := record(t)
	r, err := Closed(t.Context(), Options{Address: server(t, 0, &asked), Requests: requests, Wanted: 302, Connections: 4, Once: true, Duration: 10 * time.Second, Processor: -1})
	require.NoError(t, err)
	require.NoError(t, r.Err())
	require.EqualValues(t, len(requests), asked.Load())
	require.Less(t, r.Took, 9*time.Second)
}

// TestOpenCountsFromTheArrival: one connection and a server that takes 20 ms can answer 50 a second; of 200 who come in half a
// second the last waits for all before him.
func TestOpenCountsFromTheArrival(t *testing.T) {
	var asked atomic.Int64
	r, err := Open(t.Context(), Options{Address: server(t, 20*time.Millisecond, &asked), Requests: record(t), Wanted: 302, Connections: 1,
		Duration: 500 * time.Millisecond, Rate: 200, Seed: 1, Processor: -1})
	require.NoError(t, err)
	require.NoError(t, r.Err())
	require.InDelta(t, 100, r.Answered, 40)
	require.Greater(t, r.Waits.Max(), int64(time.Second), "the queue's waiting counts")
}

func TestOtherAnswersAreTold(t *testing.T) {
	var asked atomic.Int64
	address := server(t, 0, &asked)
	r, err := Closed(t.Context(), Options{Address: address, Requests: [][]byte{[]byte("GET / HTTP/1.1\r\nHost: another\r\n\r\n")}, Wanted: 302, Connections: 1, Duration: 50 * time.Millisecond, Processor: -1})
	require.NoError(t, err)
	require.Error(t, r.Err())
	_, err = Closed(t.Context(), Options{Address: "192.0.2.1:80", Requests: record(t), Duration: time.Second})
	require.ErrorContains(t, err, "loopback")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, err = Closed(t.Context(), Options{Address: listener.Addr().String(), Requests: record(t), Duration: time.Second, Processor: -1})
	require.ErrorContains(t, err, "connect")
}
