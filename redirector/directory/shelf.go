package directory

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// shelves are where links are known: a link's hash says on which shelf it is, if it is known. A shelf has room for a few dozen links, and
// when it is full those that are asked for least make room for the one that comes: as good as one cache for all (docs/decisions/0013).
//
// A visitor finds a link without a lock. Shelves are replaced under the directory's lock, at once and for everybody: there is no moment
// in which a link that will be served is nowhere to be found.
type shelves struct {
	table []atomic.Pointer[shelf] // nil: an empty shelf
	bytes atomic.Int64            // that the shelves take
	links atomic.Int64
}

const (
	shelfBytes = 4 << 10 // of what is on a shelf
	shelfLinks = 64      // a bit of a word each
	// shelfItself is what a shelf takes beside what is on it: its place in the table, its struct, and what the allocator rounds up.
	shelfItself = 8 + 96 + 128
	// maxRecord is the largest link that comes on a shelf, in bytes. There are few larger ones; they are in the cache, as profiles are.
	maxRecord = shelfBytes / 4
	// mostUses is how often a link's use is counted until it has to make up for it.
	mostUses = 3
)

// shelf holds links. What is on it is not changed any more; the marks are.
//
//	prints  a byte of each link's hash, so that a look at eight or more at once tells where it may be
//	ends    where each link's record ends, two bytes each, behind the ends
//	records one after the other
//
// The order of links is that of who came first, or was spared last.
type shelf struct {
	content []byte
	count   int
	recent  atomic.Uint64           // links asked for since the last snapshot, a bit each
	uses    [mostUses]atomic.Uint64 // links asked for at least once, twice, … since they came or were spared: bits are set from the first word on
	doubt   uint64                  // links that may have changed, to be loaded again; guarded by the directory's mu
}

// newShelves returns empty shelves that take at most so many bytes.
func newShelves(most int64) *shelves {
	return &shelves{table: make([]atomic.Pointer[shelf], max(most/(shelfBytes+shelfItself), 1))}
}

// place returns a hash's place in the table.
func (s *shelves) place(hash uint64) *atomic.Pointer[shelf] {
	place, _ := bits.Mul64(hash, uint64(len(s.table)))
	return &s.table[place]
}

// find returns a link for a visitor, and notes that it was asked for.
func (s *shelves) find(hash uint64, host string, code []byte) (record, bool) {
	shelf := s.place(hash).Load()
	r, i := shelf.look(hash, host, code)
	if i < 0 {
		return nil, false
	}
	shelf.use(i)
	return r, true
}

// each yields every shelf that is not empty.
func (s *shelves) each(yield func(*shelf)) {
	for i := range s.table {
		if shelf := s.table[i].Load(); shelf != nil {
			yield(shelf)
		}
	}
}

// find returns where a link is on a shelf; -1 if it is not. A nil shelf is empty.
func (s *shelf) find(hash uint64, host string, code []byte) int {
	_, i := s.look(hash, host, code)
	return i
}

// look returns a link and where it is on a shelf; -1 if it is not. A nil shelf is empty.
func (s *shelf) look(hash uint64, host string, code []byte) (record, int) {
	if s == nil {
		return nil, -1
	}
	prints := s.content[:s.count]
	for from := 0; ; {
		i := bytes.IndexByte(prints[from:], byte(hash))
		if i < 0 {
			return nil, -1
		}
		i += from
		if r := s.at(i); r.is(host, code) {
			return r, i
		}
		from = i + 1
	}
}

// at returns the i-th link.
func (s *shelf) at(i int) record {
	ends := s.content[s.count : 3*s.count]
	records := s.content[3*s.count:]
	end := binary.LittleEndian.Uint16(ends[2*i:])
	var begin uint16
	if i > 0 {
		begin = binary.LittleEndian.Uint16(ends[2*i-2:])
	}
	return record(records[begin:end:end])
}

// use notes that a visitor asked for the i-th link. Reading first keeps a viral link's line shared between processors.
func (s *shelf) use(i int) {
	bit := uint64(1) << i
	if s.recent.Load()&bit == 0 {
		s.recent.Or(bit)
	}
	if s.uses[mostUses-1].Load()&bit != 0 {
		return
	}
	for n := range s.uses {
		if s.uses[n].Load()&bit == 0 {
			s.uses[n].Or(bit)
			return
		}
	}
}

// all has a bit for each link.
func (s *shelf) all() uint64 { return ^uint64(0) >> (64 - s.count) }

// shelved is a link on its way to a new shelf.
type shelved struct {
	record
	print  byte
	uses   uint8
	recent bool
	doubt  bool
}

// links appends what is on a shelf, in order.
func (s *shelf) links(to []shelved) []shelved {
	if s == nil {
		return to
	}
	recent := s.recent.Load()
	for i := range s.count {
		l := shelved{record: s.at(i), print: s.content[i], recent: recent>>i&1 != 0, doubt: s.doubt>>i&1 != 0}
		for n := range s.uses {
			l.uses += uint8(s.uses[n].Load() >> i & 1)
		}
		to = append(to, l)
	}
	return to
}

// newShelf returns a shelf of links; nil if there are none.
func newShelf(links []shelved) *shelf {
	if len(links) == 0 {
		return nil
	}
	s := &shelf{count: len(links), content: make([]byte, 3*len(links), size(links))}
	var recent uint64
	var uses [mostUses]uint64
	for i, l := range links {
		s.content[i] = l.print
		s.content = append(s.content, l.record...)
		binary.LittleEndian.PutUint16(s.content[len(links)+2*i:], uint16(len(s.content)-3*len(links)))
		bit := uint64(1) << i
		if l.recent {
			recent |= bit
		}
		if l.doubt {
			s.doubt |= bit
		}
		for n := range l.uses {
			uses[n] |= bit
		}
	}
	s.recent.Store(recent)
	for n := range uses {
		s.uses[n].Store(uses[n])
	}
	return s
}

// size is how many bytes links take on a shelf.
func size(links []shelved) (n int) {
	for _, l := range links {
		n += 3 + len(l.record)
	}
	return n
}

// makeRoom lets go of links until one more has room, and returns the rest. Who came first goes first, unless it was asked for since: then it is
// spared, once for each time up to mostUses, and queues up again behind those that came later.
func makeRoom(links []shelved, room int) (rest []shelved, evicted int) {
	taken := size(links)
	for len(links) > 0 && (taken+room > shelfBytes || len(links) == shelfLinks) {
		first := links[0]
		links = links[1:]
		if first.uses > 0 {
			first.uses--
			links = append(links, first)
			continue
		}
		taken -= 3 + len(first.record)
		evicted++
	}
	return links, evicted
}

// put places a shelf, which may be nil, in place of another one.
func (s *shelves) put(hash uint64, next *shelf) {
	before := s.place(hash).Swap(next)
	s.account(before, -1)
	s.account(next, 1)
}

func (s *shelves) account(shelf *shelf, sign int64) {
	if shelf != nil {
		s.bytes.Add(sign * int64(len(shelf.content)+shelfItself))
		s.links.Add(sign * int64(shelf.count))
	}
}

// add puts a link on its shelf, on which it is not yet. spare says whether others may have to go for it; otherwise it tells whether there was room.
func (s *shelves) add(hash uint64, r record, recent, spare bool) (added bool, evicted int) {
	var room [4 * shelfLinks]shelved // nothing is allocated: links queue up again at most mostUses times
	links := s.place(hash).Load().links(room[:0])
	if full := len(links) == shelfLinks || size(links)+3+len(r) > shelfBytes; full {
		if !spare {
			return false, 0
		}
		links, evicted = makeRoom(links, 3+len(r))
	}
	links = append(links, shelved{record: r, print: byte(hash), recent: recent})
	s.put(hash, newShelf(links))
	return true, evicted
}

// replace puts a link's new record in place of the i-th one, whose marks it keeps; none takes the link from the shelf.
func (s *shelves) replace(hash uint64, i int, r record) (evicted int) {
	var room [4*shelfLinks + 1]shelved
	before := s.place(hash).Load()
	links := before.links(room[:0])
	if len(r) <= len(links[i].record) || r == nil {
		if r == nil {
			links = append(links[:i], links[i+1:]...)
		} else {
			links[i].record = r
		}
	} else {
		l := links[i]
		links = append(links[:i], links[i+1:]...)
		links, evicted = makeRoom(links, 3+len(r))
		l.record = r
		links = append(links, l)
	}
	s.put(hash, newShelf(links))
	return evicted
}

// clear empties all shelves.
func (s *shelves) clear() {
	for i := range s.table {
		if shelf := s.table[i].Swap(nil); shelf != nil {
			s.account(shelf, -1)
		}
	}
}
