package visit

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/address"
	"spillway.dev/redirector/directory"
	"spillway.dev/redirector/page"
	"spillway.dev/redirector/target"
	"spillway.dev/redirector/visitor"
	"spillway.dev/schemas/event"
)

// names is what the visitors of these tests can ask for.
type names struct {
	links    map[string]*directory.Link
	profiles map[string]*directory.Profile
}

func (n names) Link(host string, code []byte) (directory.Link, error) {
	if l := n.links[host+"/"+string(code)]; l != nil {
		return *l, nil
	}
	if string(code) == "away" {
		return directory.Link{}, directory.ErrAway
	}
	if string(code) == "panic" {
		panic("a mistake")
	}
	return directory.Link{}, directory.ErrUnknown
}

func (n names) Profile(handle []byte) (*directory.Profile, error) {
	if p := n.profiles[string(handle)]; p != nil {
		return p, nil
	}
	if string(handle) == "away" {
		return nil, directory.ErrAway
	}
	return nil, directory.ErrUnknown
}

func (n names) Domain(host []byte) string {
	if string(host) == "go.example" {
		return "go.example"
	}
	return ""
}

// owners knows one token of each purpose.
type owners struct{}

func (owners) Owns(token []byte, profile uint64, _ time.Time) bool {
	return string(token) == "1.1.9.good" && profile == 1
}

func (owners) Claim(token []byte, profile uint64, now time.Time) (string, time.Time, bool) {
	switch {
	case profile == 1 && string(token) == "claim.1.9.good":
		return "1.1.9.good", now.Add(time.Hour), true
	case profile == 1 && string(token) == "release.1.9.good":
		return "", time.Time{}, true
	}
	return "", time.Time{}, false
}

// keeper keeps events the way the journal does: encoded, at once.
type keeper struct {
	mu     sync.Mutex
	events []*event.Event
	full   bool
}

func (k *keeper) Append(e *event.Event) (uint64, bool) {
	b, err := e.MarshalVT()
	if err != nil {
		panic(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.full {
		return 0, false
	}
	kept := &event.Event{}
	if err := kept.UnmarshalVT(b); err != nil {
		panic(err) // invalid UTF-8
	}
	k.events = append(k.events, kept)
	return uint64(len(k.events)), true
}

func (k *keeper) take() []*event.Event {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := k.events
	k.events = nil
	return taken
}

var late = time.Date(2025, 3, 14, 23, 30, 0, 123456000, time.UTC)

func options(t testing.TB, journal Journal, views page.Views) Options {
	prepare := func(s target.Settings) target.Target {
		prepared, err := target.Prepare(s)
		require.NoError(t, err)
		return prepared
	}
	tokyo, err := time.LoadLocation("Asia/Tokyo")
	require.NoError(t, err)
	pages, err := page.NewRenderer("http://spill.example", views)
	require.NoError(t, err)
	trusted, err := address.ParseNetworks([]string{"127.0.0.1"})
	require.NoError(t, err)
	now := func() time.Time { return late }
	return Options{
		Names: names{
			links: map[string]*directory.Link{
				"/off":         {ID: 11, ProfileID: 1, Zone: tokyo, Target: prepare(target.Settings{URL: "https://example.com/off?a=1#f"})},
				"/append":      {ID: 12, ProfileID: 1, Zone: time.UTC, Target: prepare(target.Settings{URL: "https://example.com/?a=1#f", Mode: target.Append})},
				"go.example/x": {ID: 13, ProfileID: 1, Zone: time.UTC, Target: prepare(target.Settings{URL: "https://example.com/own"})},
			},
			profiles: map[string]*directory.Profile{
				"aurora": directory.NewProfile(1, page.Profile{Handle: "aurora", Title: "Aurora", Layout: 7, Links: []page.Link{{Code: "off", Title: "Off"}}}, tokyo),
			},
		},
		Journal: journal, Visitors: visitor.NewSalts(nil, now, slog.New(slog.DiscardHandler)), Owners: owners{}, Pages: pages, Trusted: trusted,
		CountryHeader: "CF-IPCountry", Now: now, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	}
}

// site is a running server.
type site struct {
	t       testing.TB
	address string
	journal *keeper
	handler *Handler
	client  *http.Client
	stop    func() // ends the server and waits for it
}

// listening returns a server that does not run yet, and what it is to listen on.
func listening(t testing.TB, journal Journal, views page.Views, limits Limits) (*Server, net.Listener) {
	t.Helper()
	h, err := NewHandler(options(t, journal, views))
	require.NoError(t, err)
	server, err := NewServer(h, limits)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return server, listener
}

func serve(t testing.TB, views page.Views, limits Limits) *site {
	s := &site{t: t, journal: &keeper{}}
	server, listener := listening(t, s.journal, views, limits)
	s.handler, s.address = server.handler, listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener, time.Second) }()
	transport := &http.Transport{DisableCompression: true}
	s.client = &http.Client{Transport: transport, Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.stop = sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(s.stop)
	return s
}

// do sends a request; headers are "Name: value".
func (s *site) do(method, path string, headers ...string) (*http.Response, []byte) {
	s.t.Helper()
	request, err := http.NewRequest(method, "http://"+s.address+path, nil)
	require.NoError(s.t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			request.Host = value
		} else {
			request.Header.Add(name, value)
		}
	}
	response, err := s.client.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response, body
}

// raw sends bytes and returns what comes back until the server closes, or falls silent.
func (s *site) raw(request string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.address)
	require.NoError(s.t, err)
	defer c.Close()
	_, err = io.WriteString(c, request)
	require.NoError(s.t, err)
	require.NoError(s.t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// silent is a journal that takes everything.
type silent struct{}

func (silent) Append(*event.Event) (uint64, bool) { return 1, true }

// request makes a request as the server hands it to the handler.
func request(method, uri string, headers map[string]string) *fasthttp.RequestCtx {
	r := &fasthttp.Request{}
	r.Header.SetMethod(method)
	r.SetRequestURI(uri)
	r.Header.SetHost("spill.example")
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(r, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}, nil)
	return ctx
}
