// Package address finds the client's own address behind the proxies that are trusted to name it.
package address

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"unsafe"
)

// Networks are the networks whose word about a client's address is taken. The zero value trusts nobody.
type Networks struct {
	prefixes []netip.Prefix
}

// ParseNetworks reads networks ("10.0.0.0/8", "fd00::/8") and single addresses ("127.0.0.1"). Empty entries are left out.
func ParseNetworks(list []string) (Networks, error) {
	var n Networks
	for _, entry := range list {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			address, addressErr := netip.ParseAddr(entry)
			if addressErr != nil || address.Zone() != "" {
				return Networks{}, fmt.Errorf("trusted network %q: write it as 10.0.0.0/8, fd00::/8 or 192.0.2.1", entry)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		if a := prefix.Addr(); a.Is4In6() {
			if prefix.Bits() < 96 {
				return Networks{}, fmt.Errorf("trusted network %q: write an IPv4 network as IPv4", entry)
			}
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		n.prefixes = append(n.prefixes, prefix.Masked())
	}
	return n, nil
}

// Contains tells whether a is in one of the networks.
func (n Networks) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range n.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Client returns the client's address: remote, unless remote is trusted. Then X-Forwarded-For is read from its right end, where
// each proxy added whom it saw, and the first address that is not trusted is the client. What stands left of it was sent by
// the client and means nothing. An entry that is not an address ends the search at the last hop that was understood.
//
// forwarded holds the header's lines in their order; an entry may carry a port, and an IPv6 address its brackets. Nothing is allocated.
func (n Networks) Client(remote netip.Addr, forwarded [][]byte) netip.Addr {
	client := plain(remote)
	for i := len(forwarded) - 1; i >= 0; i-- {
		line := forwarded[i]
		for len(line) > 0 {
			if !n.Contains(client) {
				return client
			}
			hop := line
			if comma := bytes.LastIndexByte(line, ','); comma >= 0 {
				hop, line = line[comma+1:], line[:comma]
			} else {
				line = nil
			}
			hop = bytes.Trim(hop, " \t")
			if len(hop) == 0 {
				continue // an empty list element means nothing (RFC 9110, 5.6.1)
			}
			address, ok := parseHop(hop)
			if !ok {
				return client
			}
			client = address
		}
	}
	return client
}

// longest is the longest hop that can be an address: brackets, a full IPv6 address with an IPv4 tail, a port.
const longest = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")

func parseHop(hop []byte) (netip.Addr, bool) {
	if len(hop) > longest {
		return netip.Addr{}, false
	}
	switch {
	case hop[0] == '[': // [2001:db8::1] or [2001:db8::1]:443
		end := bytes.IndexByte(hop, ']')
		if end < 0 || !isPort(hop[end+1:]) {
			return netip.Addr{}, false
		}
		hop = hop[1:end]
	case bytes.Count(hop, []byte{':'}) == 1: // 192.0.2.1:443
		colon := bytes.IndexByte(hop, ':')
		if !isPort(hop[colon:]) {
			return netip.Addr{}, false
		}
		hop = hop[:colon]
	}
	if len(hop) == 0 || bytes.IndexByte(hop, '%') >= 0 {
		return netip.Addr{}, false // a zone means something on the proxy's own machine only
	}
	// ParseAddr keeps no part of a string without a zone.
	address, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(hop), len(hop)))
	if err != nil || address.IsUnspecified() {
		return netip.Addr{}, false
	}
	return plain(address), true
}

// isPort tells whether b is empty or a colon and a port.
func isPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' || len(b) > 6 {
		return false
	}
	for _, c := range b[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
