package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// The keeper is the goroutine that does for the visitor's path what may wait for a disk: it makes segments ready, recycles what
// is acknowledged and writes cursors down.

// saveInterval is how long a moved cursor may stay unwritten. A lost one costs sending that much again.
const saveInterval = 100 * time.Millisecond

// backoff spaces the attempts at something that fails.
type backoff struct {
	wait  time.Duration
	until time.Time
	err   error // what was logged
}

func (b *backoff) failed(now time.Time, err error) (first bool) {
	first = b.err == nil
	b.err = err
	b.wait = min(max(2*b.wait, 50*time.Millisecond), 2*time.Second)
	b.until = now.Add(b.wait)
	return first
}

func (j *Journal) keep() {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.kick:
		case <-tick.C:
			j.saveAll()
		}
		j.attend()
	}
}

// attend does what is to be done now.
func (j *Journal) attend() {
	if j.roll.Load() {
		j.begin()
	}
	j.recycle()
	j.prepare(ahead)
}

// saveAll writes down the states that changed.
func (j *Journal) saveAll() {
	for _, s := range j.Streams() {
		j.mu.Lock()
		dropped := s.dropped
		j.mu.Unlock()
		s.mu.Lock()
		if dropped.Count > s.state.dropped.Count {
			s.state.dropped = dropped
			s.dirty = true
		}
		dirty := s.dirty
		s.mu.Unlock()
		if dirty {
			j.save(s, false)
		}
	}
}

// save writes a stream's state down and reports a failure: for the keeper, who has nobody to return it to.
func (j *Journal) save(s *Stream, sync bool) bool {
	if err := s.save(sync); err != nil {
		if j.counters.failures.Add(1); j.counters.stateFailing.CompareAndSwap(false, true) {
			j.log.Error("journal: cannot write a stream's state; a restart will send again what was sent since. Check the disk", "err", err)
		}
		return false
	}
	if j.counters.stateFailing.CompareAndSwap(true, false) {
		j.log.Info("journal: streams' states can be written again")
	}
	return true
}

// prepare makes up to want segments ready for the live stream.
func (j *Journal) prepare(want int) {
	j.files.Lock()
	defer j.files.Unlock()
	for !j.closed {
		j.mu.Lock()
		s, have, over := j.live, len(j.live.ready), j.live.over
		j.mu.Unlock()
		if over {
			return
		}
		if have >= want {
			j.trim()
			return
		}
		now := time.Now()
		if now.Before(j.backoff.until) && !j.o.manual {
			return
		}
		g, err := j.makeSegment(s)
		if err != nil {
			j.counters.failures.Add(1)
			if j.backoff.failed(now, err) {
				j.log.Error("journal: cannot make another segment; when the present ones are full, events are dropped. Free space on the journal's disk", "err", err)
			}
			return
		}
		if g == nil { // at the limit
			if s.keep() == 0 || !j.relinquish(s) {
				return // the next acknowledgement makes room
			}
			continue
		}
		if j.backoff.err != nil {
			j.log.Info("journal: segments can be made again")
		}
		j.backoff = backoff{}
		s.mu.Lock()
		s.segments = append(s.segments, g)
		s.mu.Unlock()
		j.mu.Lock()
		if s == j.live && !s.over {
			s.ready = append(s.ready, g)
			g = nil
		}
		j.mu.Unlock()
		if g != nil { // the stream ended meanwhile; its unused segments go when it does
			return
		}
	}
}

// makeSegment returns a segment for s that is reserved, mapped and durable under its name: nil if the limit is reached. files is held.
func (j *Journal) makeSegment(s *Stream) (*segment, error) {
	size := j.o.SegmentBytes
	from := ""
	for len(j.spares) > 0 && from == "" {
		last := len(j.spares) - 1
		if j.spares[last].size == size {
			from = j.spares[last].name
		} else if err := j.removeSpare(last); err != nil {
			return nil, err
		} else {
			continue
		}
		j.spares = j.spares[:last]
	}
	if from == "" {
		if j.used.Load()+size > j.o.MaxBytes {
			return nil, nil
		}
		name, err := j.allocate(size)
		if err != nil {
			return nil, err
		}
		from = name
	}
	j.number++
	g := &segment{name: segmentName(j.number, s.id), stream: s.id, seed: s.seed, number: j.number, size: size, own: true}
	back := func(name string, err error) (*segment, error) {
		j.spares = append(j.spares, spare{name, size})
		return nil, err
	}
	if err := j.dir.Rename(from, g.name); err != nil {
		return back(from, fmt.Errorf("name segment: %w", err))
	}
	// Records are only read in a file with the right name. So the name is durable before there are any.
	if err := j.dir.Sync(); err != nil {
		return back(g.name, fmt.Errorf("sync directory: %w", err))
	}
	f, err := j.dir.Open(g.name)
	if err != nil {
		return back(g.name, fmt.Errorf("open segment: %w", err))
	}
	defer f.Close()
	if g.mapping, err = f.Map(); err != nil {
		return back(g.name, fmt.Errorf("map segment: %w", err))
	}
	if is := int64(len(g.mapping.Bytes())); is != size {
		j.spares = append(j.spares, spare{g.name, is}) // of a wrong size, so it is removed next
		j.used.Add(is - size)
		return nil, errors.Join(fmt.Errorf("segment %s is %d bytes, not %d: somebody changed it", g.name, is, size), g.mapping.Unmap())
	}
	_ = g.mapping.Touch(0, touchAhead)
	if !j.o.manual {
		j.running.Go(func() { j.touch(g) })
	}
	return g, nil
}

// pause lets visitors go first: making a segment takes the kernel some ten milliseconds, and where there is one processor they would wait for it. It does
// not when the segment is needed at once. A goroutine that merely yields would not do: the runtime looks for visitors' requests when nobody else is left to run.
func (j *Journal) pause() {
	j.mu.Lock()
	ready := j.live != nil && len(j.live.ready) > 0
	j.mu.Unlock()
	if ready {
		time.Sleep(time.Millisecond)
	}
}

// touch makes a segment's pages ready to be written to, a few at a time.
func (j *Journal) touch(g *segment) {
	const step = 64 << 10
	for at := touchAhead; at < int(g.size); at += step {
		select {
		case <-j.stop:
			return
		default:
			j.pause()
		}
		if !g.touch(at, at+step) {
			return // nobody will write to it
		}
	}
}

// allocate makes a spare. files is held.
func (j *Journal) allocate(size int64) (string, error) {
	j.number++
	name := spareName(j.number)
	f, err := j.dir.Create(name)
	if err != nil {
		return "", fmt.Errorf("make segment: %w", err)
	}
	defer f.Close()
	if err = f.Allocate(size, j.pause); err == nil {
		err = f.Sync()
	}
	if err != nil {
		if gone := j.dir.Remove(name); gone != nil {
			j.log.Error("journal: cannot remove a half-made segment", "name", name, "err", gone)
		}
		return "", fmt.Errorf("make segment of %d bytes: %w", size, err)
	}
	j.used.Add(size)
	return name, nil
}

// trim removes the spares that nobody will need soon. files is held.
func (j *Journal) trim() {
	for len(j.spares) > keptSpares {
		if err := j.removeSpare(len(j.spares) - 1); err != nil {
			j.log.Error("journal: cannot remove a spare segment", "err", err)
			return
		}
	}
}

func (j *Journal) removeSpare(i int) error {
	x := j.spares[i]
	if err := j.dir.Remove(x.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove spare: %w", err)
	}
	j.spares = append(j.spares[:i], j.spares[i+1:]...)
	j.used.Add(-x.size)
	return nil
}

// retire makes a segment that is not needed any more a spare.
func (j *Journal) retire(g *segment) error {
	free, err := g.release()
	if err != nil {
		return fmt.Errorf("unmap %s: %w", g.name, err)
	}
	if !free {
		return fmt.Errorf("BUG: segment %s is given back while it is read", g.name)
	}
	j.files.Lock()
	defer j.files.Unlock()
	if g.size == j.o.SegmentBytes && len(j.spares) < ahead+keptSpares {
		j.number++
		name := spareName(j.number)
		switch err := j.dir.Rename(g.name, name); {
		case err == nil:
			j.spares = append(j.spares, spare{name, g.size})
			j.backoff.until = time.Time{}
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("recycle segment: %w", err)
		}
	} else if err := j.dir.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove segment: %w", err)
	}
	j.used.Add(-g.size)
	j.backoff.until = time.Time{}
	return nil
}

// recycle gives back the segments of which everything is acknowledged. The cursor that says so must be on the disk first: a start that
// found an older cursor and no segment would report their events as lost.
func (j *Journal) recycle() {
	for _, s := range j.Streams() {
		err := j.recycleStream(s)
		if err != nil {
			if j.counters.failures.Add(1); j.counters.recycleFailing.CompareAndSwap(false, true) {
				j.log.Error("journal: cannot recycle a segment. Check the disk", "err", err)
			}
			return
		}
	}
	if j.counters.recycleFailing.CompareAndSwap(true, false) {
		j.log.Info("journal: segments can be recycled again")
	}
}

func (j *Journal) recycleStream(s *Stream) error {
	s.retiring.Lock()
	defer s.retiring.Unlock()
	k, keep := s.acknowledged.Load(), s.keep()
	s.mu.Lock()
	some := s.doneLocked(k) > keep
	s.mu.Unlock()
	if !some || !j.save(s, true) {
		return nil
	}
	for {
		s.mu.Lock()
		if s.doneLocked(k) <= keep {
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		// One after the other, also on the disk: after a power cut that took some of the names only, a stream that is rewound would come to a
		// hole, and call acknowledged events unreadable.
		if s.gone {
			if err := j.dir.Sync(); err != nil {
				return fmt.Errorf("sync directory: %w", err)
			}
			s.gone = false
		}
		s.mu.Lock()
		g := s.segments[0]
		if free, _ := g.release(); !free { // a reader is about to leave it
			s.mu.Unlock()
			return nil
		}
		s.segments = s.segments[1:]
		s.mu.Unlock()
		s.gone = true
		if err := j.retire(g); err != nil {
			// It is tried again. What is left behind when its stream is forgotten would be taken for all of that stream.
			s.mu.Lock()
			s.segments = slices.Insert(s.segments, 0, g)
			s.mu.Unlock()
			return err
		}
	}
}

// keep is how many acknowledged segments the stream keeps.
func (s *Stream) keep() int {
	if s.j.o.Keep < 0 || s.ended.Load() || s.relinquished.Load() {
		return 0
	}
	return s.j.o.Keep
}

// doneLocked returns how many of the first segments hold nothing above event k.
func (s *Stream) doneLocked(k uint64) int {
	for i, g := range s.segments {
		if !g.doneAt(k) {
			return i
		}
	}
	return len(s.segments)
}

// relinquish has the stream keep nothing until it has been given back what it kept; true if there was something. files is held.
func (j *Journal) relinquish(s *Stream) bool {
	s.mu.Lock()
	some := s.doneLocked(s.acknowledged.Load()) > 0
	s.mu.Unlock()
	if !some {
		return false
	}
	j.files.Unlock()
	s.relinquished.Store(true)
	err := j.recycleStream(s)
	s.relinquished.Store(false)
	j.files.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && s.doneLocked(s.acknowledged.Load()) == 0
}

// discardReady gives back the segments that an ended stream will not use.
func (j *Journal) discardReady(s *Stream) error {
	j.mu.Lock()
	ready := s.ready
	s.ready = nil
	j.mu.Unlock()
	var errs []error
	for _, g := range ready {
		s.mu.Lock()
		for i, x := range s.segments {
			if x == g {
				s.segments = append(s.segments[:i:i], s.segments[i+1:]...)
				break
			}
		}
		s.mu.Unlock()
		if err := j.retire(g); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// begin ends the live stream and begins another one.
func (j *Journal) begin() {
	j.mu.Lock()
	old, over := j.live, j.live.over
	j.mu.Unlock()
	j.roll.Store(false)
	if over {
		return
	}
	s := j.newStream()
	if !j.save(s, true) {
		return // the next mark asks again; until then events are stamped behind the last one
	}
	j.files.Lock()
	g, err := j.makeSegment(s)
	j.files.Unlock()
	if err != nil {
		j.log.Error("journal: the clock was set back, and there is no segment for a new stream", "err", err)
	} else if g != nil {
		s.segments, s.ready = []*segment{g}, []*segment{g}
	}
	j.listing.Lock()
	j.streams = append(j.streams, s)
	j.listing.Unlock()
	j.mu.Lock()
	old.endLocked()
	j.live = s
	j.mu.Unlock()
	j.announceArrival()
	j.log.Warn("journal: the clock was set back; the stream ends and another one begins", "ended", fmt.Sprintf("%016x", old.id), "begun", fmt.Sprintf("%016x", s.id))
	if err := j.discardReady(old); err != nil {
		j.log.Error("journal: cannot give back the segments of an ended stream", "err", err)
	}
}
