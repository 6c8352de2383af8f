//go:build unix

package visit

import (
	"net"
	"syscall"
)

// stale says whether the server has ended the connection while nothing was under way: known before anything is sent on it.
func stale(conn net.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	alive := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		alive = err == syscall.EAGAIN // neither the end, nor bytes that nobody asked for
		return true
	})
	return err != nil || !alive
}
