//go:build unix

package visit

import (
	"io"
	"net"
	"runtime"
	"syscall"
)

// wire reads from a connection and writes to it. Go's own Read asks the kernel first whether there is something, and most often there is not: the visitor has only just
// been answered. On a busy server others have something to do meanwhile, and if they come first, the next request is mostly there when it is
// asked for: one call of the kernel instead of two and a wait. Whether it helps shows each time, and where it does not it is left.
type wire struct {
	raw   syscall.RawConn
	once  func(fd uintptr) bool // reads; bound once, so that reading allocates nothing
	all   func(fd uintptr) bool // writes
	p     []byte
	n     int
	err   error
	tries int // how often the kernel was asked

	skip int // reads to come that do not let others go first
	wait int // how many were skipped after the last time that it did not help
}

// longestSkip is how many reads are done without trying again whether letting others go first helps.
const longestSkip = 63

func (r *wire) open(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed: read says so
	}
	r.raw = raw
	r.once = func(fd uintptr) bool {
		r.tries++
		for {
			r.n, r.err = readNow(int(fd), r.p)
			switch r.err {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			}
			return true
		}
	}
	r.all = func(fd uintptr) bool {
		for {
			r.n, r.err = writeNow(int(fd), r.p)
			switch r.err {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			case nil:
				if r.p = r.p[r.n:]; len(r.p) > 0 {
					continue
				}
			}
			return true
		}
	}
}

// write writes all of p.
func (r *wire) write(c *net.TCPConn, p []byte) error {
	if r.raw == nil {
		_, err := c.Write(p)
		return err
	}
	r.p = p
	err := r.raw.Write(r.all)
	r.p = nil
	switch {
	case err != nil:
		return err
	case r.err != nil:
		return &net.OpError{Op: "write", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: r.err}
	}
	return nil
}

func (r *wire) read(c *net.TCPConn, p []byte) (int, error) {
	if r.raw == nil || len(p) == 0 {
		return c.Read(p)
	}
	yielded := r.skip == 0
	if yielded {
		runtime.Gosched()
	} else {
		r.skip--
	}
	r.p, r.tries = p, 0
	err := r.raw.Read(r.once)
	r.p = nil
	if yielded {
		if r.tries > 1 {
			r.wait = min(2*r.wait+1, longestSkip)
		} else {
			r.wait = 0
		}
		r.skip = r.wait
	}
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: r.err}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}
