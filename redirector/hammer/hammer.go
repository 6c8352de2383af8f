// Package hammer marks a visitor id that comes far more often than a person does. It is a mark and never a verdict: behind a carrier's address
// thousands of people share an id, most of all in a spike.
package hammer

import (
	"sync/atomic"
	"time"
)

// Most is how many events a minute, by the clock, a visitor id may have before the next are marked: one a second.
const Most = 60

const places = 1 << 15

// Table counts each visitor id's events of the running minute. It holds 256 KiB, whoever comes: ids that fall on the same place drive each other out,
// so that some who hammer are not seen, and nobody is marked for what another did. It is safe for concurrent use, and counts about
// right then. The zero value is empty.
type Table struct {
	// A place holds 24 bits each of an id and of the minute, and a count of 16.
	at [places]atomic.Uint64
}

// Note counts an event of the visitor id, and tells whether there were too many of them. The id 0 is nobody's.
func (t *Table) Note(visitor uint64, now time.Time) bool {
	if visitor == 0 {
		return false
	}
	place := &t.at[visitor%places]
	const count = 1<<16 - 1
	mine := visitor>>40<<40 | uint64(now.Unix()/60)&(1<<24-1)<<16
	had := place.Load()
	if had&^count != mine {
		place.Store(mine | 1)
		return false
	}
	if had&count < count {
		place.CompareAndSwap(had, had+1)
	}
	return had&count >= Most
}
