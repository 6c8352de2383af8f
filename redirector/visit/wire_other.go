//go:build !unix

package visit

import "net"

// wire reads from a connection and writes to it.
type wire struct{}

func (r *wire) open(*net.TCPConn) {}

func (r *wire) read(c *net.TCPConn, p []byte) (int, error) { return c.Read(p) }

func (r *wire) write(c *net.TCPConn, p []byte) error {
	_, err := c.Write(p)
	return err
}
