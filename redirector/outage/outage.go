// Package outage gives tests a door in front of a server: shut it, and the server is away; open it, and it is back, at the same
// address.
package outage

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Door passes TCP connections on to a server while it is open.
type Door struct {
	address string
	server  string

	mu          sync.Mutex
	listener    net.Listener
	silent      bool
	connections map[net.Conn]struct{}
}

// Postgres puts a door, which is open, before the server of a postgres:// URL and returns the URL that leads through it.
func Postgres(t testing.TB, address string) (*Door, string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("address of PostgreSQL: %v", err)
	}
	d := &Door{address: "127.0.0.1:0", server: u.Host, connections: map[net.Conn]struct{}{}}
	d.Open(t)
	d.address = d.listener.Addr().String()
	t.Cleanup(d.Shut)
	u.Host = d.address
	return d, u.String()
}

// Open lets connections through.
func (d *Door) Open(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", d.address)
	if err != nil {
		t.Fatalf("open the door: %v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener, d.silent = listener, false
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go d.pass(c)
		}
	}()
}

// Shut cuts the connections and refuses new ones, as a server does that was killed.
func (d *Door) Shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	for c := range d.connections {
		c.Close()
	}
	clear(d.connections)
}

// Silence lets nothing through any more but keeps the connections, as a network does that drops everything.
func (d *Door) Silence() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = true
}

func (d *Door) pass(client net.Conn) {
	server, err := net.Dial("tcp", d.server)
	if err != nil {
		client.Close()
		return
	}
	d.mu.Lock()
	d.connections[client], d.connections[server] = struct{}{}, struct{}{}
	d.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { d.copy(server, client) })
	both.Go(func() { d.copy(client, server) })
	both.Wait()
}

func (d *Door) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		d.mu.Lock()
		silent := d.silent
		d.mu.Unlock()
		if silent {
			n = 0
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}
