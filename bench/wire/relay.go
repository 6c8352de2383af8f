// Package wire stands between two processes and does to their connection what networks, proxies and gateways do: makes it slow, lets
// it hang, resets it, is away. A Relay knows only bytes; Kafka and ClickHouse are relays that understand just enough of the
// protocol to keep the clients from going around them, and to strike between a commit and its answer.
package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Relay passes TCP connections on to another address. All its methods are safe for concurrent use; a fault holds for connections
// that are there as for those that come, until Heal.
type Relay struct {
	listener net.Listener
	target   string
	filter   func(client, server net.Conn) (up, down func(dst io.Writer, src io.Reader) error) // nil: copy

	mu      sync.Mutex
	pairs   map[*pair]struct{} // guarded by mu
	closed  bool               // guarded by mu
	state   state              // guarded by mu
	changed chan struct{}      // guarded by mu; closed and replaced when state changes
	wait    sync.WaitGroup
}

type state struct {
	away  bool
	stuck bool
	delay time.Duration
}

type pair struct{ client, server net.Conn }

// NewRelay listens on a free port of the loopback and passes connections on to target (host:port).
func NewRelay(target string) (*Relay, error) { return newRelay(target, nil) }

func newRelay(target string, filter func(client, server net.Conn) (up, down func(io.Writer, io.Reader) error)) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay to %s: %w", target, err)
	}
	r := &Relay{listener: listener, target: target, filter: filter, pairs: map[*pair]struct{}{}, changed: make(chan struct{})}
	r.wait.Go(r.accept)
	return r, nil
}

// Address is where the relay listens, host:port.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Aim passes connections on to another address from now on. Those that are there stay where they are.
func (r *Relay) Aim(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// Close ends the relay and every connection through it.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	r.set(state{})
	r.mu.Unlock()
	err := r.listener.Close()
	r.Reset()
	r.wait.Wait()
	return err
}

func (r *Relay) set(s state) {
	r.state = s
	close(r.changed)
	r.changed = make(chan struct{})
}

// Heal ends every fault.
func (r *Relay) Heal() { r.change(func(*state) state { return state{} }) }

// Away resets every connection, and each that comes, as if nobody listened.
func (r *Relay) Away() {
	r.change(func(s *state) state { s.away = true; return *s })
	r.Reset()
}

// Stick lets nothing pass any more, in either direction, without a word: what a dead route looks like.
func (r *Relay) Stick() { r.change(func(s *state) state { s.stuck = true; return *s }) }

// Delay makes everything arrive so much later, in each direction.
func (r *Relay) Delay(d time.Duration) { r.change(func(s *state) state { s.delay = d; return *s }) }

func (r *Relay) change(f func(*state) state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	r.set(f(&s))
}

func (r *Relay) now() (state, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.changed
}

// Reset ends every connection at once with a reset, and lets new ones come. It returns how many there were.
func (r *Relay) Reset() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		p.reset()
	}
	return len(r.pairs)
}

func (p *pair) reset() {
	for _, c := range []net.Conn{p.client, p.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of an orderly end
		}
		_ = c.Close()
	}
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // too many open files: they come and go
			continue
		}
		r.wait.Go(func() { r.serve(client) })
	}
}

func (r *Relay) serve(client net.Conn) {
	p := &pair{client: client}
	r.mu.Lock()
	away, target := r.state.away, r.target
	r.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil || away {
		if server != nil {
			server.Close()
		}
		p.server = client
		p.reset()
		return
	}
	p.server = server
	r.mu.Lock()
	if r.closed || r.state.away {
		r.mu.Unlock()
		p.reset()
		return
	}
	r.pairs[p] = struct{}{}
	r.mu.Unlock()

	up, down := copyAll, copyAll
	if r.filter != nil {
		up, down = r.filter(client, server)
	}
	var both sync.WaitGroup
	pass := func(dst, src net.Conn, how func(io.Writer, io.Reader) error) {
		err := how(&gate{relay: r, out: dst}, src)
		if tcp, ok := dst.(*net.TCPConn); ok && err == nil {
			_ = tcp.CloseWrite()
			return
		}
		p.reset()
	}
	both.Go(func() { pass(server, client, up) })
	both.Go(func() { pass(client, server, down) })
	both.Wait()
	r.mu.Lock()
	delete(r.pairs, p)
	r.mu.Unlock()
	client.Close()
	server.Close()
}

func copyAll(dst io.Writer, src io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{dst}, src)
	return err
}

// gate lets bytes out as the relay's state allows. One goroutine uses it.
type gate struct {
	relay *Relay
	out   io.Writer
}

func (g *gate) Write(b []byte) (int, error) {
	came := time.Now()
	for {
		s, changed := g.relay.now()
		if s.stuck {
			<-changed
			continue
		}
		early := s.delay - time.Since(came)
		if early <= 0 {
			return g.out.Write(b)
		}
		timer := time.NewTimer(early)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		}
	}
}
