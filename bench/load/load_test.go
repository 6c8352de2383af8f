package load

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// redirectors answers as a redirector does and remembers the markers that it answered.
type redirectors struct {
	mu      sync.Mutex
	markers map[string]int
	before  func(*http.Request)
}

func (s *redirectors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.before != nil {
		s.before(r)
	}
	s.mu.Lock()
	s.markers[r.URL.Query().Get("utm_content")]++
	s.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/l/") {
		http.Redirect(w, r, "https://example.com/", http.StatusFound)
	}
}

func serve(t *testing.T, before func(*http.Request)) (*redirectors, *httptest.Server) {
	s := &redirectors{markers: map[string]int{}, before: before}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server
}

func config(addresses ...string) Config {
	c := Config{
		Targets: addresses, Handle: "demo", Rate: 2000, Duration: 500 * time.Millisecond, Connections: 16,
		Views: 0.2, Heads: 0.05, Prefetches: 0.05, Run: "t", Seed: 7, Timeout: 2 * time.Second, Zipf: 1.1,
	}
	for i := range 50 {
		c.Links = append(c.Links, Link{ID: strconv.Itoa(i + 1), Code: "code" + strconv.Itoa(i)})
	}
	return c
}

func run(t *testing.T, c Config) (*Result, []Record) {
	var ledger bytes.Buffer
	l, err := New(c, &ledger)
	require.NoError(t, err)
	result, err := l.Run(t.Context())
	require.NoError(t, err)
	var records []Record
	require.NoError(t, ReadLedger(&ledger, func(r Record) error {
		records = append(records, r)
		return nil
	}))
	return result, records
}

func TestTheLedgerHasWhatTheServerAnswered(t *testing.T) {
	s, server := serve(t, nil)
	result, records := run(t, config(server.Listener.Addr().String()))
	require.InDelta(t, 1000, result.Visitors, 5*math.Sqrt(1000))
	require.Equal(t, result.Visitors, result.Answered)
	require.Len(t, records, int(result.Answered))
	require.EqualValues(t, result.Visitors, result.Waits.TotalCount())
	kinds := map[string]int{}
	for _, r := range records {
		require.True(t, r.Answered())
		require.Equal(t, 1, s.markers[r.Marker], r.Marker)
		delete(s.markers, r.Marker)
		kinds[r.Kind+r.Method]++
	}
	require.Empty(t, s.markers)
	require.Positive(t, kinds["viewGET"])
	require.Positive(t, kinds["clickHEAD"])
	require.Zero(t, kinds["viewHEAD"])
	require.Greater(t, kinds["clickGET"], kinds["viewGET"])
}

func TestTheSameSeedBringsTheSameVisitors(t *testing.T) {
	draw := func(seed uint64) (all []arrival) {
		c := config("127.0.0.1:1")
		c.Seed = seed
		for crowd := newCrowd(c); ; {
			a := crowd.next()
			if a == nil {
				return all
			}
			all = append(all, *a)
		}
	}
	require.Equal(t, draw(1), draw(1))
	require.NotEqual(t, draw(1), draw(2))
	first, last := 0, 0
	for _, a := range draw(3) {
		switch a.link.ID {
		case "1":
			first++
		case "50":
			last++
		}
	}
	require.Greater(t, first, 5*max(last, 1))
}

// Every tenth of a second the server stands still for 50 ms. Most requests never meet that: they are the ones that a generator
// would not have sent meanwhile. Corrected for it, a third of the visitors had to wait.
func TestAStandstillIsSeenByAllWhoCameMeanwhile(t *testing.T) {
	var gate sync.RWMutex
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			gate.Lock()
			time.Sleep(50 * time.Millisecond)
			gate.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	_, server := serve(t, func(*http.Request) {
		gate.RLock()
		defer gate.RUnlock()
	})
	c := config(server.Listener.Addr().String())
	c.Connections, c.Rate, c.Duration, c.Even, c.Slow = 2, 400, 2*time.Second, true, 10*time.Millisecond
	result, _ := run(t, c)
	require.EqualValues(t, 800, result.Visitors)
	require.Greater(t, result.Slow, result.Visitors/4)
	require.Greater(t, result.Waits.ValueAtQuantile(80), int64(10_000))
	require.Less(t, result.Service.ValueAtQuantile(80), int64(10_000))
}

func TestVisitorsGoToTheNextTarget(t *testing.T) {
	_, good := serve(t, nil)
	_, gone := serve(t, nil)
	away := gone.Listener.Addr().String()
	gone.Close()
	_, broken := serve(t, func(*http.Request) { panic(http.ErrAbortHandler) })
	_, busy := serve(t, nil)
	busy.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })

	for name, first := range map[string]string{"not sent": away, "no answer": broken.Listener.Addr().String(), "503": busy.Listener.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			c := config(first, good.Listener.Addr().String())
			c.Duration = 200 * time.Millisecond
			result, records := run(t, c)
			require.Equal(t, result.Visitors, result.Answered)
			require.Positive(t, result.Retried)
			require.Len(t, records, int(result.Visitors+result.Retried))
			seen := map[string]bool{}
			for _, r := range records {
				require.False(t, seen[r.Marker], "a marker was used twice")
				seen[r.Marker] = true
				require.Equal(t, r.Target == 1, r.Answered())
				if r.Target == 0 {
					require.Equal(t, name == "not sent", r.NotSent)
				}
			}
		})
	}
	c := config(away)
	c.Duration = 50 * time.Millisecond
	result, _ := run(t, c)
	require.Equal(t, result.Visitors, result.Unanswered)
}

func TestOnlyThisMachineIsLoaded(t *testing.T) {
	for _, address := range []string{"192.0.2.1:80", "10.0.0.1:80", "example.com:80", "[2001:db8::1]:80", "0.0.0.0:80"} {
		_, err := New(config(address), nil)
		require.ErrorIs(t, err, ErrElsewhere, address)
		c := config(address)
		c.Elsewhere = true
		_, err = New(c, nil)
		require.NoError(t, err)
	}
	for _, address := range []string{"127.0.0.1:80", "127.3.2.1:80", "[::1]:80", "localhost:80"} {
		_, err := New(config(address), nil)
		require.NoError(t, err, address)
	}
}

func TestTheConfigurationIsChecked(t *testing.T) {
	for cure, spoil := range map[string]func(*Config){
		"target":      func(c *Config) { c.Targets = nil },
		"host:port":   func(c *Config) { c.Targets = []string{"127.0.0.1"} },
		"rate":        func(c *Config) { c.Rate = 0 },
		"duration":    func(c *Config) { c.Duration = 2 * time.Hour },
		"connections": func(c *Config) { c.Connections = -1 },
		"shares":      func(c *Config) { c.Views = 1.5 },
		"handle":      func(c *Config) { c.Handle = "" },
		"links":       func(c *Config) { c.Links = nil },
		"exponent":    func(c *Config) { c.Zipf = 1 },
	} {
		c := config("127.0.0.1:80")
		spoil(&c)
		_, err := New(c, nil)
		require.ErrorContains(t, err, cure)
	}
}

func TestALedgerThatCannotBeWrittenIsSaid(t *testing.T) {
	_, server := serve(t, nil)
	c := config(server.Listener.Addr().String())
	c.Duration = 20 * time.Millisecond
	in, out := io.Pipe()
	in.CloseWithError(errors.New("disk is full"))
	l, err := New(c, out)
	require.NoError(t, err)
	_, err = l.Run(t.Context())
	require.ErrorContains(t, err, "disk is full")
}

func FuzzReadLedger(f *testing.F) {
	f.Add(header + "1\tclick\t2\tGET\t302\tm.1\t0\t55\n2\tview\t\tGET\t-\t\t1\t0\n")
	f.Fuzz(func(t *testing.T, text string) {
		var records []Record
		if ReadLedger(strings.NewReader(text), func(r Record) error { records = append(records, r); return nil }) != nil {
			return
		}
		var again bytes.Buffer
		p := NewLedger(&again).page()
		for i := range records {
			p.write(&records[i])
		}
		p.close()
		n := 0
		if err := ReadLedger(&again, func(Record) error { n++; return nil }); err != nil || n != len(records) {
			t.Fatalf("%d records became %d: %v", len(records), n, err)
		}
	})
}
