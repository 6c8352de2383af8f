package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"spillway.dev/schemas/event"
)

// Stream is what one start of one process wrote: the live one, which grows, or one that has ended and waits to be shipped. Its
// methods may be called from any goroutine.
type Stream struct {
	j       *Journal
	id      uint64
	seed    uint32
	lanes   event.Lanes
	beganUs int64

	// Guarded by Journal.mu, and used by the live stream only.
	active  *segment   // records go here; nil before the first one
	ready   []*segment // the next ones
	floorUs int64      // the newest Mark's time: whatever is appended from now on is later
	dropped Dropped
	over    bool // ended

	last         atomic.Uint64 // k of the newest event appended; of an older stream, read. 0: none
	ended        atomic.Bool   // nothing will be appended
	acknowledged atomic.Uint64 // as in state
	relinquished atomic.Bool   // nothing acknowledged is kept: there is no room

	mu       sync.Mutex // guards what follows
	state    state
	segments []*segment // by number
	dirty    bool       // state differs from what was written

	retiring sync.Mutex // one at a time gives segments back; guards gone
	gone     bool       // a segment was given back, and the directory is not synced since
	saving   sync.Mutex // one writer of the state file at a time; guards file
	file     *stateFile
}

// ID is the stream's random number, never zero.
func (s *Stream) ID() uint64 { return s.id }

// Lanes says which partition and sequence each event has.
func (s *Stream) Lanes() event.Lanes { return s.lanes }

// Ended reports whether nothing will be appended any more.
func (s *Stream) Ended() bool { return s.ended.Load() }

// Last returns the number of the newest event that was appended; of a stream of an earlier start, the newest one that was read.
func (s *Stream) Last() uint64 { return s.last.Load() }

// Acknowledged returns the number up to which everything is in Kafka or known to be unreadable.
func (s *Stream) Acknowledged() uint64 { return s.acknowledged.Load() }

// Mark is a moment of a stream, to be announced.
type Mark struct {
	// K is the newest event's number at that moment. Zero: there was none yet.
	K uint64
	// TimeUs is the moment, in microseconds since the Unix epoch, UTC. Every event of the stream whose time is at or before it
	// has a number at or below K, or is in Dropped: events that are appended later get a later time. It never goes back.
	TimeUs int64
	// BeganUs is when the stream began, in microseconds since the Unix epoch, UTC.
	BeganUs int64
	// Dropped is what got no number.
	Dropped Dropped
	// Final says that the stream has ended with K.
	Final bool
	// Origin names the writer to people.
	Origin string
	// Unreadable are the numbers up to K that the journal can no longer read, as far as the reader has come.
	Unreadable []Range
}

// Mark takes a mark and writes it down, so that even if the tail of the stream is lost the next start knows that it was longer.
// The mark is good even if there is an error: it says that the writing down failed.
//
// Why a Mark's promise holds exactly: the time is taken and the newest number read under the lock that numbers are given under, and
// from then on this lock gives no event a time at or before it. A clock that is set back stops the marks' time and has the
// events of that while stamped just behind it; if it is more than two seconds, the journal ends the stream and begins another
// one, whose time is the new clock's.
func (s *Stream) Mark() (Mark, error) {
	j := s.j
	now := j.o.Clock().UnixMicro()
	j.mu.Lock()
	if s == j.live && !s.over {
		if now+setBack < s.floorUs {
			j.roll.Store(true)
			j.wake()
		}
		s.floorUs = max(now, s.floorUs)
		now = s.floorUs
	}
	k, over, dropped := s.last.Load(), s.over, s.dropped
	j.mu.Unlock()

	s.mu.Lock()
	if over {
		s.endStateLocked(k)
	}
	final := s.state.flags&flagEnded != 0
	if final {
		k = s.state.end
	}
	s.state.announced = max(s.state.announced, k)
	s.state.announcedUs = max(s.state.announcedUs, now)
	if dropped.Count > s.state.dropped.Count {
		s.state.dropped = dropped
	}
	m := Mark{K: k, TimeUs: s.state.announcedUs, BeganUs: s.state.beganUs, Dropped: s.state.dropped, Final: final, Origin: s.state.origin,
		Unreadable: append([]Range(nil), s.state.unreadable...)}
	s.dirty = true
	s.mu.Unlock()
	return m, s.save(true)
}

// setBack is how far the clock may go back before another stream is begun, in microseconds.
const setBack = 2_000_000

// endStateLocked writes down where the stream ended.
func (s *Stream) endStateLocked(k uint64) {
	if s.state.flags&flagEnded == 0 {
		s.state.flags |= flagEnded
		s.state.end = max(k, s.state.announced)
		s.dirty = true
	}
}

// Acknowledge says that everything up to k is in Kafka, or was reported unreadable. Never call it before that is so: what is
// acknowledged is not kept. A k below an earlier one changes nothing. The cursor is written within moments; should that be
// lost, events are sent again, which is harmless.
func (s *Stream) Acknowledge(k uint64) {
	s.mu.Lock()
	if k <= s.state.acknowledged {
		s.mu.Unlock()
		return
	}
	s.state.acknowledged = k
	s.acknowledged.Store(k)
	s.dirty = true
	recyclable := s.doneLocked(k) > s.keep()
	s.mu.Unlock()
	if recyclable {
		s.j.wake()
	}
}

// Rewind takes acknowledgements back as far as the journal still holds what was acknowledged, and returns how many events are to be sent
// again: for a broker that lost data after it had acknowledged it. Readers that exist do not notice; make new ones.
func (s *Stream) Rewind() uint64 {
	s.retiring.Lock()
	defer s.retiring.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	first := uint64(0)
	for _, g := range s.segments {
		if !g.released() { // not one that is about to be recycled
			first = g.first.Load()
			break
		}
	}
	if first == 0 || first > s.state.acknowledged {
		return 0
	}
	n := s.state.acknowledged - (first - 1)
	s.state.acknowledged = first - 1
	s.acknowledged.Store(first - 1)
	s.dirty = true
	return n
}

// doneAt reports whether no event above k can be in the segment.
func (g *segment) doneAt(k uint64) bool {
	return g.sealed.Load() && (g.own || g.read.Load()) && g.last.Load() <= k
}

// Finish forgets the stream: all of it is acknowledged, and so is its final announcement. An error leaves files behind, which the next
// start removes.
func (s *Stream) Finish() error {
	s.mu.Lock()
	if s.state.flags&flagEnded == 0 || s.state.acknowledged < s.state.end {
		s.mu.Unlock()
		return fmt.Errorf("BUG: finish stream %016x, which is not shipped", s.id)
	}
	s.state.flags |= flagFinished
	s.dirty = true
	s.mu.Unlock()
	if err := s.save(true); err != nil {
		return fmt.Errorf("finish stream: %w", err)
	}
	j := s.j
	j.listing.Lock()
	for i, x := range j.streams {
		if x == s {
			j.streams = append(j.streams[:i:i], j.streams[i+1:]...)
			break
		}
	}
	j.listing.Unlock()
	return s.remove()
}

// remove gives the files of a finished stream back. The state goes last, and only after the names of the segments are surely gone: a
// segment without its state would be shipped as a stream of its own length.
func (s *Stream) remove() error {
	j := s.j
	if err := j.discardReady(s); err != nil {
		return err
	}
	s.retiring.Lock()
	defer s.retiring.Unlock()
	s.mu.Lock()
	segments := s.segments
	s.mu.Unlock()
	for _, g := range segments {
		if err := j.retire(g); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.segments = nil
	s.mu.Unlock()
	if err := j.dir.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.file.close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	if err := j.dir.Remove(stateName(s.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	j.wake()
	return nil
}

// save writes the state down. With sync it is on the disk afterwards.
func (s *Stream) save(sync bool) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	state := s.state
	state.unreadable = append([]Range(nil), s.state.unreadable...)
	s.dirty = false
	s.mu.Unlock()
	if err := s.file.write(&state, sync); err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
		return err
	}
	return nil
}

// gap reports events that cannot be read. It is what a Reader found.
func (s *Stream) gap(r Range) {
	s.mu.Lock()
	s.state.unreadable = coarsen(addRange(s.state.unreadable, r), maxRanges)
	s.dirty = true
	s.mu.Unlock()
	s.j.counters.unreadable.Add(r.Last - r.First + 1)
	s.j.log.Error("journal: events cannot be read; they are announced as unreadable", "stream", fmt.Sprintf("%016x", s.id),
		"first", r.First, "last", r.Last)
}

// release unmaps and closes what the stream holds.
func (s *Stream) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, g := range s.segments {
		if _, err := g.release(); err != nil {
			errs = append(errs, fmt.Errorf("unmap %s: %w", g.name, err))
		}
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.file.close(); err != nil {
		errs = append(errs, fmt.Errorf("close state: %w", err))
	}
	return errors.Join(errs...)
}
