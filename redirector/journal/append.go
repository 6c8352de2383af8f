package journal

import (
	"math/bits"
	"runtime/debug"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

// tagEvents is the tag of EventBatch.events on the wire: field 3, length-delimited.
const tagEvents = 3<<3 | 2

// Append journals e and returns its number in the live stream; the first is 1. ok is false if there was no room for it, or e is larger
// than MaxEvent: then it is counted as dropped, and the caller goes on all the same. Append never waits for the disk and
// allocates nothing; e is not kept.
//
// e.TimeUs is when the visitor was answered. Zero is set to the present, and a time at or before the newest Mark of the stream is set
// just behind it, in e too: that is what makes a Mark's promise exact.
func (j *Journal) Append(e *event.Event) (k uint64, ok bool) {
	if e.TimeUs == 0 {
		e.TimeUs = j.o.Clock().UnixMicro()
	}
	k, ok = j.append(e)
	j.announceArrival()
	return k, ok
}

func (j *Journal) append(e *event.Event) (k uint64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.live
	if e.TimeUs <= s.floorUs {
		e.TimeUs = s.floorUs + 1
	}
	size := e.SizeVT()
	n := 1 + varint(size) + size
	if n > MaxEvent || s.over || !s.roomLocked(padded(n)) {
		j.dropped++
		if s.dropped.Count == 0 {
			s.dropped.SinceUs = e.TimeUs
		}
		s.dropped.Count++
		s.dropped.SinceUs = min(s.dropped.SinceUs, e.TimeUs)
		s.dropped.UntilUs = max(s.dropped.UntilUs, e.TimeUs)
		if s.dropped.Count&(s.dropped.Count-1) == 0 { // now and then: the keeper writes the count down
			j.wake()
		}
		return 0, false
	}
	k = s.last.Load() + 1
	if !s.putLocked(e, size, n, k) {
		j.dropped++
		return 0, false
	}
	j.appended++
	j.written += uint64(n)
	return k, true
}

func varint(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }

// roomLocked makes sure that the active segment has room for a record, and goes on to the next segment if need be.
func (s *Stream) roomLocked(room int) bool {
	if g := s.active; g != nil {
		if int64(g.tail+room) <= g.size {
			return true
		}
		if int64(recordsStart+room) > g.size || len(s.ready) == 0 {
			return false
		}
		s.sealLocked()
	}
	if len(s.ready) == 0 {
		return false
	}
	g := s.ready[0]
	if int64(recordsStart+room) > g.size {
		return false
	}
	s.ready = s.ready[1:]
	g.tail = recordsStart
	g.first.Store(s.last.Load() + 1)
	s.active = g
	h := header{stream: s.id, number: g.number, first: g.first.Load(), lanes: s.lanes, beganUs: s.beganUs, acknowledged: s.acknowledged.Load()}
	if !guard(func() {
		b := g.mapping.Bytes()
		h.put(b)
		h.put(b[disk.PageSize:])
	}) {
		s.sealLocked()
		return false
	}
	s.j.wake() // another one to make ready
	return true
}

// sealLocked closes the active segment.
func (s *Stream) sealLocked() {
	g := s.active
	s.active = nil
	if g.committed.Load() < recordsStart {
		g.committed.Store(recordsStart)
	}
	g.last.Store(s.last.Load())
	g.sealed.Store(true)
}

// endLocked ends the stream.
func (s *Stream) endLocked() {
	if s.over {
		return
	}
	s.over = true
	if s.active != nil {
		s.sealLocked()
	}
	s.ended.Store(true)
}

// putLocked writes one record at the tail of the active segment. A disk that fails under a mapped page raises a SIGBUS: the event is
// lost, as a drop, and the segment is left.
func (s *Stream) putLocked(e *event.Event, size, n int, k uint64) (ok bool) {
	g := s.active
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if ok {
			return
		}
		v := recover()
		if _, fault := faultPage(v, g.mapping.Bytes()); v != nil && !fault {
			panic(v)
		}
		if s.dropped.Count == 0 {
			s.dropped.SinceUs = e.TimeUs
		}
		s.dropped.Count++
		s.dropped.UntilUs = max(s.dropped.UntilUs, e.TimeUs)
		s.sealLocked()
		s.j.wake()
	}()
	b := g.mapping.Bytes()[g.tail : g.tail+padded(n)]
	p := b[recordHeader : recordHeader+n]
	p[0] = tagEvents
	at := 1
	for rest := size; ; at++ {
		if rest < 0x80 {
			p[at] = byte(rest)
			at++
			break
		}
		p[at] = byte(rest) | 0x80
		rest >>= 7
	}
	if _, err := e.MarshalToSizedBufferVT(p[at:]); err != nil {
		return false
	}
	seal(b, n, s.seed, g.number, k)
	g.tail += len(b)
	g.committed.Store(int64(g.tail))
	s.last.Store(k)
	return true
}

// guard calls f and returns false if a page that it touched could not be had.
func guard(f func()) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			if _, fault := v.(interface{ Addr() uintptr }); !fault {
				panic(v)
			}
			ok = false
		}
	}()
	f()
	return true
}
