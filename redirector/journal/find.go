package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"spillway.dev/schemas/event"
)

// damagedSuffix marks a segment whose records have no names any more: its stream's state and all headers are gone.
const damagedSuffix = ".damaged"

// find reads the directory: spares, and the streams that older starts left. It reads no records. The error is that of a directory that
// cannot be used at all.
func (j *Journal) find() error {
	names, err := j.dir.List()
	if err != nil {
		return fmt.Errorf("list directory: %w", err)
	}
	segments := map[uint64][]*segment{}
	ids, left := map[uint64]bool{}, map[uint64]bool{}
	for _, name := range names {
		if number, stream, ok := parseSegmentName(name); ok {
			size, err := j.size(name)
			if err != nil {
				j.leave(stream, err)
				left[stream] = true
			}
			g := &segment{name: name, stream: stream, seed: seed(stream), number: number, size: size}
			g.sealed.Store(true)
			segments[stream] = append(segments[stream], g)
			ids[stream] = true
			j.number = max(j.number, number)
			j.used.Add(size)
		} else if number, ok := parseSpareName(name); ok {
			size, err := j.size(name)
			j.number = max(j.number, number)
			if err != nil {
				j.log.Error("journal: a spare segment cannot be opened and is left alone", "err", err)
				continue
			}
			j.spares = append(j.spares, spare{name, size})
			j.used.Add(size)
		} else if stream, ok := parseStateName(name); ok {
			ids[stream] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if left[id] {
			continue
		}
		s, err := j.adopt(id, segments[id])
		if err != nil {
			j.leave(id, err)
			continue
		}
		if s != nil {
			j.streams = append(j.streams, s)
		}
	}
	slices.SortStableFunc(j.streams, func(a, b *Stream) int {
		return cmp.Or(cmp.Compare(a.age(), b.age()), cmp.Compare(a.beganUs, b.beganUs))
	})
	return nil
}

// leave says that a stream is not touched by this start. Visitors are not turned away for it, and nothing is done on half a
// knowledge: the next start may be able to read it.
func (j *Journal) leave(stream uint64, err error) {
	j.counters.failures.Add(1)
	j.log.Error("journal: a stream cannot be read and is left as it is until the next start. Check the disk; if the stream's state file is beyond "+
		"repair, remove it, and the stream is sent again from its oldest segment", "file", stateName(stream), "err", err)
}

// age orders streams: by their first segment. One without segments has nothing but its last announcement to send.
func (s *Stream) age() uint64 {
	if len(s.segments) == 0 {
		return 0
	}
	return s.segments[0].number
}

func (j *Journal) size(name string) (int64, error) {
	f, err := j.dir.Open(name)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", name, err)
	}
	return size, nil
}

// adopt makes a Stream of what an older start left. It returns nil if there is nothing left to do for it.
func (j *Journal) adopt(id uint64, segments []*segment) (*Stream, error) {
	slices.SortFunc(segments, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	known, file, ok, sure, err := readState(j.dir, id)
	if err != nil {
		return nil, err
	}
	s := &Stream{j: j, id: id, seed: seed(id), segments: segments, file: file, state: known, over: true}
	s.ended.Store(true)
	if known.flags&flagFinished != 0 {
		return nil, s.remove()
	}
	lanes, hint := known.lanes, uint64(0)
	var failed error
	for i, g := range segments {
		h, valid, err := g.readHeader(j.dir)
		if errors.Is(err, errNewer) {
			return nil, err
		}
		if err != nil {
			failed = err // needed only if nothing else tells the lanes
		}
		if !valid {
			continue
		}
		g.first.Store(h.first)
		lanes = h.lanes
		hint = max(hint, h.acknowledged)
		if !ok {
			s.state.beganUs = h.beganUs
		}
		if !sure && i == 0 {
			// What came before was acknowledged, or is lost without a trace here: the announcements tell.
			hint = max(hint, h.first-1)
		}
	}
	if lanes == (event.Lanes{}) && failed != nil {
		return nil, failed
	}
	if lanes == (event.Lanes{}) {
		return nil, j.setAside(s)
	}
	s.lanes, s.beganUs = lanes, s.state.beganUs
	s.state.lanes = lanes
	s.state.acknowledged = max(s.state.acknowledged, hint)
	s.acknowledged.Store(s.state.acknowledged)
	s.last.Store(s.state.acknowledged)
	if !ok {
		j.log.Error("journal: the state of a stream is lost; it is sent again from its oldest segment", "stream", fmt.Sprintf("%016x", id))
		j.save(s, true)
	}
	return s, nil
}

// setAside deals with a stream of which neither state nor any header is left. Without its lanes its events have no names. Usually it has
// none: a segment that was made ready and never begun.
func (j *Journal) setAside(s *Stream) error {
	for _, g := range s.segments {
		b, err := g.pin(j.dir)
		if err != nil {
			return fmt.Errorf("read %s: %w", g.name, err)
		}
		_, some := g.find(b, recordsStart, len(b)&^(alignment-1))
		g.unpin()
		if !some {
			if err := j.retire(g); err != nil {
				return err
			}
			continue
		}
		if _, err := g.release(); err != nil {
			return fmt.Errorf("unmap %s: %w", g.name, err)
		}
		if err := j.dir.Rename(g.name, g.name+damagedSuffix); err != nil {
			return fmt.Errorf("set %s aside: %w", g.name, err)
		}
		j.log.Error("journal: a segment's stream is unknown, its state and headers are gone; the file is set aside", "file", g.name+damagedSuffix)
	}
	s.segments = nil
	return s.remove()
}
