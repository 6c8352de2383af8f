package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Strike is what happens to an insert on its way to ClickHouse or back.
type Strike int

// Strikes.
const (
	// Spare lets it pass.
	Spare Strike = iota
	// CutBefore ends the connection before ClickHouse has seen anything.
	CutBefore
	// CutHalfway ends both connections when half of the request has reached ClickHouse.
	CutHalfway
	// CutAfter ends the connection when ClickHouse has answered, and keeps the answer.
	CutAfter
	// FailAfter answers 500 in place of ClickHouse's own answer, whatever that was.
	FailAfter
	// HoldBefore waits for Held before ClickHouse sees anything.
	HoldBefore
	// HoldAfter waits for Held before the answer goes out.
	HoldAfter
)

func (s Strike) String() string {
	return [...]string{"spare", "cut before", "cut halfway", "cut after", "500 after", "hold before", "hold after"}[s]
}

// ClickHouse is an HTTP proxy in front of ClickHouse that never repeats a request. Beside its strikes it has the faults of a Relay,
// which it listens through.
type ClickHouse struct {
	*Relay
	server *http.Server
	inner  net.Listener
	client *http.Client
	base   string

	mu     sync.Mutex
	left   int           // guarded by mu: so many inserts are struck yet
	strike Strike        // guarded by mu
	table  string        // guarded by mu
	hold   time.Duration // guarded by mu
	struck int           // guarded by mu
}

// NewClickHouse stands before the server at target (host:port).
func NewClickHouse(target string) (*ClickHouse, error) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for ClickHouse: %w", err)
	}
	relay, err := NewRelay(inner.Addr().String())
	if err != nil {
		inner.Close()
		return nil, err
	}
	c := &ClickHouse{Relay: relay, inner: inner, base: "http://" + target, client: &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 2 * time.Second, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = c.server.Serve(inner) }() // ends with Close
	return c, nil
}

// Close ends the proxy.
func (c *ClickHouse) Close() error {
	return errors.Join(c.Relay.Close(), c.server.Close())
}

// StrikeInserts does s to the next n inserts into table. Held says how long the two holds last.
func (c *ClickHouse) StrikeInserts(table string, s Strike, n int, held time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table, c.strike, c.left, c.hold = table, s, n, held
}

// Struck is how many inserts were struck so far.
func (c *ClickHouse) Struck() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.struck
}

func (c *ClickHouse) draw(query string, body []byte) (Strike, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || !inserts(query, c.table) && !inserts(string(body[:min(len(body), 4096)]), c.table) {
		return Spare, 0
	}
	c.left--
	c.struck++
	return c.strike, c.hold
}

// inserts says whether text is a statement that inserts into the table, with or without its database.
func inserts(text, table string) bool {
	words := strings.Fields(text)
	for i, word := range words {
		if strings.EqualFold(word, "INTO") && i > 0 && strings.EqualFold(words[i-1], "INSERT") && i+1 < len(words) {
			name, _, _ := strings.Cut(words[i+1], "(")
			if strings.EqualFold(name, "TABLE") && i+2 < len(words) {
				name, _, _ = strings.Cut(words[i+2], "(")
			}
			name = strings.NewReplacer("`", "", `"`, "").Replace(name)
			return name == table || strings.HasSuffix(name, "."+table)
		}
	}
	return false
}

// The largest request that is looked into; inserts of Spillway are a tenth of it.
const maxRequest = 512 << 20

func (c *ClickHouse) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away
	}
	strike, held := c.draw(r.URL.Query().Get("query"), body)
	var in io.Reader = bytes.NewReader(body)
	switch strike {
	case CutBefore:
		panic(http.ErrAbortHandler)
	case HoldBefore:
		time.Sleep(held)
	case CutHalfway:
		in = io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{})
	}
	// A reader that is nothing but a reader cannot be read twice, so that the transport does not try.
	request, err := http.NewRequestWithContext(r.Context(), r.Method, c.base+r.URL.RequestURI(), struct{ io.Reader }{in})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	request.Header = r.Header.Clone()
	request.ContentLength = int64(len(body))
	if len(body) == 0 {
		request.Body = http.NoBody
	}
	answer, err := c.client.Do(request)
	if err != nil || strike == CutHalfway {
		if err == nil {
			answer.Body.Close()
		}
		panic(http.ErrAbortHandler)
	}
	defer answer.Body.Close()
	out := io.Reader(answer.Body)
	if strike != Spare && strike != HoldBefore {
		whole, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		out = bytes.NewReader(whole)
		switch strike {
		case CutAfter:
			panic(http.ErrAbortHandler)
		case FailAfter:
			w.Header().Set("X-ClickHouse-Exception-Code", "999")
			http.Error(w, "Code: 999. DB::Exception: Keeper session expired. (KEEPER_EXCEPTION)", http.StatusInternalServerError)
			return
		case HoldAfter:
			time.Sleep(held)
		}
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if _, err := io.Copy(flushing{w}, out); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// broken is where half of a request ends.
type broken struct{}

func (broken) Read([]byte) (int, error) {
	time.Sleep(20 * time.Millisecond) // let the first half arrive
	return 0, io.ErrUnexpectedEOF
}

// flushing passes on at once what comes, so that long answers stream.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
