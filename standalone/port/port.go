// Package port explains why an address cannot be listened on.
package port

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Cure says how an address is moved.
type Cure struct {
	What string // who wants it: "ClickHouse"
	Flag string // "--clickhouse-listen"
	Env  string // "SPILLWAY_CLICKHOUSE_LISTEN"
}

// Explain turns a failure to listen on an address into one line that says who has it, if that can be known, and what to do.
func (c Cure) Explain(address string, err error) error {
	move := fmt.Sprintf("choose another address with %s or %s", c.Flag, c.Env)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		who := "another process, perhaps another Spillway"
		if owner := Owner(address); owner != "" {
			who = owner
		}
		return fmt.Errorf("%s cannot use %s, which is taken by %s: stop it, or %s", c.What, address, who, move)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s may not use %s (ports below 1024 are reserved): %s", c.What, address, move)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s cannot use %s, which is no address of this machine: %s", c.What, address, move)
	}
	return fmt.Errorf("%s cannot use %s: %w: %s", c.What, address, err, move)
}

// Owner names the process that listens on an address, "process 123 (name)", or is empty if that cannot be known (it is another
// user's, or this is not Linux).
func Owner(address string) string {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return ""
	}
	var sockets []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		sockets = append(sockets, listening(table, uint16(number))...)
	}
	for _, inode := range sockets {
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil || target != "socket:["+inode+"]" {
				continue
			}
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// listening returns the inodes of the sockets that listen on a port (proc_net_tcp in the kernel's documentation: state 0A).
func listening(table string, port uint16) (inodes []string) {
	file, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer file.Close()
	want := ":" + strings.ToUpper(hex.EncodeToString([]byte{byte(port >> 8), byte(port)}))
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[3] == "0A" && strings.HasSuffix(fields[1], want) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes
}
