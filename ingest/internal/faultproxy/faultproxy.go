// Package faultproxy stands between ingest and ClickHouse in tests and does what networks, proxies and dying servers do: it cuts
// connections before and after a statement was carried out, answers errors for what has succeeded, and keeps requests for later,
// also when their sender is long gone.
package faultproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Request is a statement on its way.
type Request struct {
	Tag  string // log_comment
	Text string // the statement, or its beginning
}

// Insert says whether the request inserts events.
func (r Request) Insert() bool { return strings.HasPrefix(r.Tag, "spillway insert ") }

// Term says whether the request writes a term.
func (r Request) Term() bool {
	return strings.HasPrefix(r.Text, "INSERT INTO ") && strings.Contains(r.Text[:min(len(r.Text), 60)], ".terms ")
}

// Change says whether the request changes anything.
func (r Request) Change() bool { return strings.HasPrefix(r.Text, "INSERT ") }

// Fate is what happens to a request. The zero value lets it through.
type Fate struct {
	Hold  time.Duration // before it is passed on; it is passed on also if its sender goes away
	Never bool          // it is not passed on
	Slow  time.Duration // before its answer is passed back
	Cut   bool          // instead of an answer the connection is cut
	Error bool          // instead of its answer an error 500 is sent
	// After is called, if set, with the engine held still, between the statement and its answer.
	After func()
}

// Server is a ClickHouse behind any number of proxies. It can be held still: nothing is carried out then.
type Server struct {
	address *url.URL
	client  *http.Client
	still   sync.RWMutex
}

// NewServer is for the ClickHouse at a URL.
func NewServer(t testing.TB, address string) *Server {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{address: u, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// Still holds the engine still while what is called: what runs has ended, nothing begins.
func (s *Server) Still(what func()) {
	s.still.Lock()
	defer s.still.Unlock()
	what()
}

// Look lets what is called look at the engine at a moment at which no fault is half done.
func (s *Server) Look(what func()) {
	s.still.RLock()
	defer s.still.RUnlock()
	what()
}

// Proxy is one way to the server.
type Proxy struct {
	server *Server
	http   *httptest.Server

	mu     sync.Mutex
	decide func(Request) Fate
	down   bool
	busy   int        // requests on their way: not a WaitGroup, which must not be added to while it is waited for
	idle   *sync.Cond // that there are none, with mu
}

// New opens a proxy to the server.
func (s *Server) New(t testing.TB) *Proxy {
	t.Helper()
	p := &Proxy{server: s}
	p.idle = sync.NewCond(&p.mu)
	p.http = httptest.NewServer(p)
	t.Cleanup(func() {
		p.http.CloseClientConnections()
		p.http.Close()
		p.Wait()
	})
	return p
}

// URL is the proxy's address with the server's database.
func (p *Proxy) URL() string { return p.http.URL + p.server.address.Path }

// Decide sets who decides on each request; nil lets everything through. It may be called by several requests at once.
func (p *Proxy) Decide(decide func(Request) Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = decide
}

// Down refuses everything from now on, or no longer.
func (p *Proxy) Down(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	if down {
		p.http.CloseClientConnections()
	}
}

// Wait returns when nothing is on its way any more.
func (p *Proxy) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.busy > 0 {
		p.idle.Wait()
	}
}

func (p *Proxy) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy++
}

func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy--; p.busy == 0 {
		p.idle.Broadcast()
	}
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.begin()
	defer p.end()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q := r.URL.Query()
	request := Request{Tag: q.Get("log_comment"), Text: q.Get("query")}
	if request.Text == "" {
		request.Text = string(body)
	}
	p.mu.Lock()
	decide, down := p.decide, p.down
	p.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	var fate Fate
	if decide != nil {
		fate = decide(request)
	}
	time.Sleep(fate.Hold)
	var (
		answer *http.Response
		text   []byte
	)
	if !fate.Never {
		if fate.After != nil {
			p.server.still.Lock()
		} else {
			p.server.still.RLock()
		}
		answer, text, err = p.forward(r, body)
		if fate.After != nil {
			fate.After()
			p.server.still.Unlock()
		} else {
			p.server.still.RUnlock()
		}
	}
	time.Sleep(fate.Slow)
	switch {
	case fate.Cut || err != nil || answer == nil && !fate.Error:
		panic(http.ErrAbortHandler)
	case fate.Error:
		http.Error(w, "Code: 999. DB::Exception: a fault of the test", http.StatusInternalServerError)
		return
	}
	for k, v := range answer.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(text)
}

// forward passes a request on whether or not its sender still waits.
func (p *Proxy) forward(r *http.Request, body []byte) (*http.Response, []byte, error) {
	to := *p.server.address
	to.Path, to.RawQuery = "/", r.URL.RawQuery
	onward, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("pass a request on: %w", err)
	}
	onward.GetBody = nil
	onward.Header = r.Header.Clone()
	answer, err := p.server.client.Do(onward)
	if err != nil {
		return nil, nil, fmt.Errorf("pass a request on: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, text, err
}
