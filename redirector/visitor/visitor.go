// Package visitor makes the daily visitor id: enough to count unique visitors within a creator's day, and nothing more.
//
// The id is SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF") keyed by the salt of the profile's local date,
// over the profile, the client's address and its user agent. So one visitor has another id at every profile and on every day.
//
// A date's salt is random and shared by all redirectors through PostgreSQL. At most three dates are alive at once, somewhere on
// Earth; when a date is over everywhere (at 12:00 UTC of the next day), its salt is destroyed, and nobody can tell any more
// whether an id of that date belongs to a given address. Salts are kept in memory and in that one table, nowhere else.
package visitor

import (
	"encoding/binary"
	"net/netip"
	"time"

	_ "time/tzdata" // profiles name time zones that the machine may not know

	"github.com/dchest/siphash"
)

const day = 24 * time.Hour

// Date returns the local date of t in a time zone, in days since 1970-01-01.
func Date(t time.Time, zone *time.Location) uint32 {
	_, offset := t.In(zone).Zone()
	return days(t.Add(time.Duration(offset) * time.Second))
}

// days returns the UTC date of t. Before 1970 it is zero: a clock that far off counts for nothing.
func days(t time.Time) uint32 {
	seconds := t.Unix()
	if seconds < 0 {
		return 0
	}
	return uint32(seconds / int64(day/time.Second))
}

// salt is the key of one date's ids.
type salt struct {
	date   uint32
	k0, k1 uint64
	shared bool // the one in PostgreSQL, and not one of our own for the time being
}

func newSalt(date uint32, value [16]byte, shared bool) salt {
	return salt{date: date, k0: binary.LittleEndian.Uint64(value[:8]), k1: binary.LittleEndian.Uint64(value[8:]), shared: shared}
}

// id hashes a visitor. Zero means "unknown" and is never returned.
//
// Of an IPv6 address the network's 64 bits count: the other half is the device's own, and changes several times a day by itself
// (RFC 8981), so one visitor would be several. Of the user agent the first maxAgent bytes count.
func (s salt) id(profile uint64, client netip.Addr, agent, scratch []byte) (uint64, []byte) {
	b := binary.LittleEndian.AppendUint64(scratch, profile)
	address := client.Unmap().As16()
	if client.Is6() && !client.Is4In6() {
		clear(address[8:])
	}
	b = append(b, address[:]...)
	b = append(b, agent[:min(len(agent), maxAgent)]...)
	id := siphash.Hash(s.k0, s.k1, b[len(scratch):])
	if id == 0 {
		id = 1
	}
	return id, b
}

const maxAgent = 1024
