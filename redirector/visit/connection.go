package visit

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// connections are those that a listener has accepted and nobody has closed.
type connections struct {
	net.Listener
	handler *Handler
	limits  Limits
	closed  atomic.Bool // the listener is
	ending  atomic.Bool // the server is about to end: no request takes the lane any more

	mu   sync.Mutex // guards open
	open map[*connection]struct{}
}

func newConnections(listener net.Listener, h *Handler, l Limits) *connections {
	return &connections{Listener: listener, handler: h, limits: l, open: map[*connection]struct{}{}}
}

// Accept returns the next connection.
func (s *connections) Accept() (net.Conn, error) {
	accepted, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := accepted.(*net.TCPConn)
	if !ok {
		return accepted, nil // served as any other server would
	}
	c := &connection{TCPConn: tcp, all: s, remote: peer(tcp.RemoteAddr()), between: true}
	c.wire.open(tcp)
	s.mu.Lock()
	s.open[c] = struct{}{}
	s.mu.Unlock()
	return c, nil
}

// Close stops accepting; once is enough.
func (s *connections) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.Listener.Close()
}

// leave closes the connections that wait for a request which the lane has answered one of before. The server closes those that it has answered itself, and gives
// the others their time.
func (s *connections) leave() {
	s.mu.Lock()
	var idle []*connection
	for c := range s.open {
		if c.laned.Load() {
			idle = append(idle, c)
		}
	}
	s.mu.Unlock()
	for _, c := range idle {
		_ = c.Close() // it is the visitor's next request that needs another connection
	}
}

// watch ends what takes too long, until done.
func (s *connections) watch(done <-chan struct{}) {
	// A limit is kept to within a tenth, or half a second.
	tick := time.NewTicker(max(min(s.limits.Request, s.limits.Idle, s.limits.Answer, 5*time.Second)/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.mu.Lock()
			for c := range s.open {
				c.readBy.expire(now, c.TCPConn.SetReadDeadline)
				c.writeBy.expire(now, c.TCPConn.SetWriteDeadline)
			}
			s.mu.Unlock()
		case <-done:
			return
		}
	}
}

// deadline is a moment that is set with every request and hardly ever reached. Setting it is one store: a timer of the runtime's for each costs more
// than what a request is looked up and recorded for. Somebody looks now and then whether it has passed, and only then tells the connection.
type deadline struct {
	at     atomic.Int64 // nanoseconds since the Unix epoch; 0: none
	passed atomic.Bool  // the connection was told

	mu sync.Mutex // guards telling the connection
}

func (d *deadline) set(at time.Time, tell func(time.Time) error) error {
	if at.IsZero() {
		d.at.Store(0)
	} else {
		d.at.Store(at.UnixNano())
	}
	if !d.passed.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passed.Store(false)
	return tell(time.Time{})
}

func (d *deadline) expire(now time.Time, tell func(time.Time) error) {
	if at := d.at.Load(); at == 0 || now.UnixNano() < at || d.passed.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.at.Load(); at == 0 || now.UnixNano() < at { // set anew meanwhile
		return
	}
	d.passed.Store(true)
	_ = tell(now) // a connection that is closed needs no telling
}

// What a connection is about to do. A request that has been read is answered before the connection is closed, whoever closes it: it may have been
// recorded already.
const (
	waiting   = iota // for a request
	answering        // by the lane or by the server
	leaving          // close it after the answer
	closed
)

// connection is a visitor's TCP connection. Requests that the lane can answer never reach the server behind it.
type connection struct {
	*net.TCPConn
	all     *connections
	remote  netip.Addr
	wire    wire
	readBy  deadline
	writeBy deadline
	state   atomic.Int32
	laned   atomic.Bool // the lane has answered, and the server has not been given anything yet

	// between says that the server has answered everything that it was given, and waits for the first byte of the next request; fed, that it
	// was given something. Only the connection's own goroutine uses them.
	between, fed bool
}

// note hears from the server what it is doing with a connection.
func note(conn net.Conn, state fasthttp.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case fasthttp.StateActive:
		c.between = !c.fed // before its first request the server says so without having read
	case fasthttp.StateIdle:
		c.between = true
		c.answered()
	case fasthttp.StateClosed:
		if c.state.Swap(closed) != closed {
			_ = c.close()
		}
	}
}

// answered says that a request has been answered; false if the connection was to be closed then.
func (c *connection) answered() bool {
	if c.state.CompareAndSwap(answering, waiting) {
		return true
	}
	if c.state.CompareAndSwap(leaving, closed) {
		_ = c.close()
	}
	return false
}

// Read returns what the server is to answer. What the lane can answer is answered here.
func (c *connection) Read(p []byte) (int, error) {
	for {
		n, err := c.wire.read(c.TCPConn, p)
		if err != nil {
			if c.laned.Load() {
				err = io.EOF // the visitor was answered and is gone; the server takes him for one who never asked, and would complain
			}
			return n, err
		}
		// The rest of a request that the server has begun to read finds the connection answering, or leaving.
		if !c.state.CompareAndSwap(waiting, answering) && c.state.Load() == closed {
			return 0, net.ErrClosed
		}
		taken := false
		if c.between && !c.all.ending.Load() {
			taken, err = c.all.handler.take(c, p[:n])
		}
		if !taken {
			c.between, c.fed = false, true
			if c.laned.Load() {
				c.laned.Store(false)
				c.readBy.at.Store(time.Now().Add(c.all.limits.Request).UnixNano()) // the server set it when the connection was new
			}
			return n, nil // answering, until the server says that it waits again
		}
		if !c.fed && !c.laned.Load() {
			c.laned.Store(true)
		}
		if !c.answered() {
			return 0, net.ErrClosed
		}
		if err != nil {
			return 0, err
		}
		if !c.fed && c.all.ending.Load() {
			return 0, io.EOF // leave may have come by too early
		}
	}
}

// Close closes the connection, after the answer that is on its way.
func (c *connection) Close() error {
	for {
		switch state := c.state.Load(); {
		case state == waiting && c.state.CompareAndSwap(waiting, closed):
			return c.close()
		case state == answering && c.state.CompareAndSwap(answering, leaving), state == leaving, state == closed:
			return nil
		}
	}
}

func (c *connection) close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.TCPConn.Close()
}

// SetReadDeadline sets until when a Read may wait, to within some tenths of the limits.
func (c *connection) SetReadDeadline(t time.Time) error {
	return c.readBy.set(t, c.TCPConn.SetReadDeadline)
}

// SetWriteDeadline sets until when a Write may wait, to within some tenths of the limits.
func (c *connection) SetWriteDeadline(t time.Time) error {
	return c.writeBy.set(t, c.TCPConn.SetWriteDeadline)
}

// SetDeadline sets both.
func (c *connection) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
