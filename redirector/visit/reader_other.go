//go:build !unix

package visit

import "net"

// reader reads from a connection.
type reader struct{}

func (r *reader) open(*net.TCPConn) {}

func (r *reader) read(c *net.TCPConn, p []byte) (int, error) { return c.Read(p) }
