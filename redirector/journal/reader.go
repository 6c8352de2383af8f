package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// ErrNothing is returned by Reader.Next while the stream has no further record but has not ended.
var ErrNothing = errors.New("nothing further in the journal yet")

// Record is one event of a stream.
type Record struct {
	// K is its number in the stream, from 1; Stream.Lanes tells the partition and sequence.
	K uint64
	// Event is the event, encoded as one element of EventBatch.events. It points into the journal and is good until K is
	// acknowledged or the Reader is closed.
	Event []byte
}

// Reader reads a stream in order, from the first event that is not acknowledged. It is for one goroutine.
type Reader struct {
	s      *Stream
	g      *segment
	b      []byte
	at     int
	number uint64 // of the segment that was read last
	next   uint64 // the k that is expected
	over   bool
}

// Reader returns a new reader. Close it.
func (s *Stream) Reader() *Reader { return &Reader{s: s, next: s.acknowledged.Load() + 1} }

// Position returns the number up to which everything was returned by Next or reported unreadable.
func (r *Reader) Position() uint64 { return r.next - 1 }

// Close lets the journal recycle what the reader was looking at.
func (r *Reader) Close() { r.leave() }

func (r *Reader) leave() {
	if r.g != nil {
		r.g.unpin()
		r.g, r.b = nil, nil
	}
}

// Next returns the next event. Events that cannot be read are passed over and reported (Mark.Unreadable). The error is ErrNothing
// when there is none yet, io.EOF when the stream has ended and all was returned, and anything else when a file cannot be opened,
// which trying again may cure.
func (r *Reader) Next() (Record, error) {
	s := r.s
	for !r.over {
		if r.g == nil {
			ended := s.ended.Load() // before the look, or what was appended in between would be taken for lost
			if ok, err := r.enter(); err != nil {
				return Record{}, err
			} else if !ok && ended {
				return r.atEnd()
			} else if !ok {
				return Record{}, ErrNothing
			}
		}
		g := r.g
		// In this order: a record is whole before last says so, and committed is changed no more once sealed is set.
		last, sealed := s.last.Load(), g.sealed.Load()
		limit := len(r.b) &^ (alignment - 1)
		if g.own {
			limit = int(g.committed.Load())
		}
		if rec, ok := g.find(r.b, r.at, limit); ok {
			r.at = rec.end
			if rec.k < r.next {
				continue // acknowledged before, or in two files
			}
			r.pass(rec.k - 1)
			r.next = rec.k + 1
			if !g.own {
				s.last.Store(rec.k)
			}
			return Record{K: rec.k, Event: rec.event}, nil
		}
		r.at = max(r.at, limit)
		if g.own && !sealed {
			r.pass(last)
			return Record{}, ErrNothing
		}
		if g.own {
			r.pass(g.last.Load())
		} else {
			g.last.Store(r.next - 1)
		}
		g.read.Store(true)
		r.number = g.number
		r.leave()
	}
	return Record{}, io.EOF
}

// pass reports everything from the expected event up to k as unreadable, if it was not returned.
func (r *Reader) pass(k uint64) {
	if k >= r.next {
		r.s.gap(Range{r.next, k})
		r.next = k + 1
	}
}

// enter opens the next segment that has records; false if there is none.
func (r *Reader) enter() (bool, error) {
	s := r.s
	for {
		g, next := s.after(r.number, r.next)
		if g == nil || g.own && g.first.Load() == 0 {
			return false, nil
		}
		if next != nil && next.first.Load() != 0 && next.first.Load() <= r.next {
			g.read.Store(true) // all of it is acknowledged
			g.last.Store(next.first.Load() - 1)
			r.number = g.number
			continue
		}
		b, err := g.pin(s.j.dir)
		if errors.Is(err, fs.ErrNotExist) {
			// Somebody took it away. What was in it shows as a gap.
			g.read.Store(true)
			g.last.Store(r.next - 1)
			r.number = g.number
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read stream %016x: %w", s.id, err)
		}
		r.g, r.b, r.at = g, b, recordsStart
		if first := g.first.Load(); first > r.next {
			r.pass(first - 1)
		}
		return true, nil
	}
}

// after returns the first segment with a number above n, and the one behind it; none if the stream is known to end before event k.
func (s *Stream) after(n, k uint64) (g, next *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.flags&flagEnded != 0 && k > s.state.end {
		return nil, nil
	}
	for i, g := range s.segments {
		if g.number > n {
			if i+1 < len(s.segments) {
				next = s.segments[i+1]
			}
			return g, next
		}
	}
	return nil, nil
}

// atEnd is what Next answers when no segment is left.
func (r *Reader) atEnd() (Record, error) {
	s := r.s
	s.mu.Lock()
	s.endStateLocked(max(s.last.Load(), r.next-1))
	end := s.state.end
	s.mu.Unlock()
	r.pass(end)
	if s.last.Load() < end {
		s.last.Store(end)
	}
	r.over = true
	return Record{}, io.EOF
}
