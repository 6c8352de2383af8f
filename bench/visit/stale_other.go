//go:build !unix

package visit

import "net"

func stale(net.Conn) bool { return false }
