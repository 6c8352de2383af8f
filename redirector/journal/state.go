package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

// A stream's state file has two slots, each with a generation and a checksum; the valid one of the higher generation counts.
// The slot that was synced last is never written over, so whatever happens to a write, what was durable stays readable.
const (
	stateSuffix = ".stream"
	stateMagic  = "SPILLSTR"
	slotSize    = 64 << 10
	slotHeader  = 144
	maxOrigin   = 128
	maxRanges   = 1000 // what is announced each second must stay small
)

func stateName(stream uint64) string { return fmt.Sprintf("%016x%s", stream, stateSuffix) }

func parseStateName(name string) (stream uint64, ok bool) {
	name, ok = strings.CutSuffix(name, stateSuffix)
	if !ok || len(name) != 16 {
		return 0, false
	}
	stream, err := strconv.ParseUint(name, 16, 64)
	return stream, err == nil && stream != 0
}

const (
	flagEnded    = 1 << iota // nothing will be appended, and end says where
	flagFinished             // all is acknowledged, the final announcement too: only files are left to be removed
)

// state is what is kept about a stream beside its segments.
type state struct {
	lanes        event.Lanes
	beganUs      int64
	acknowledged uint64 // every event up to here is in Kafka, or known to be unreadable
	announced    uint64 // the highest k that was told to anybody
	announcedUs  int64  // and the time that was told with it
	end          uint64 // the last k, once flagEnded
	dropped      Dropped
	flags        uint32
	origin       string
	unreadable   []Range
}

// Dropped counts the events that got no name because the journal had no room. Since and Until are microseconds since the
// Unix epoch, UTC; zero while Count is.
type Dropped struct {
	Count            uint64
	SinceUs, UntilUs int64
}

func (s *state) encode(stream, generation uint64) []byte {
	origin := s.origin[:min(len(s.origin), maxOrigin)]
	ranges := s.unreadable
	b := make([]byte, slotHeader+maxOrigin+16*len(ranges))
	copy(b, stateMagic)
	binary.LittleEndian.PutUint32(b[8:], version)
	le := binary.LittleEndian
	le.PutUint32(b[16:], uint32(len(b)))
	le.PutUint32(b[20:], s.flags)
	le.PutUint64(b[24:], generation)
	le.PutUint64(b[32:], stream)
	le.PutUint32(b[40:], s.lanes.Partitions)
	le.PutUint32(b[44:], s.lanes.Run)
	le.PutUint64(b[48:], uint64(s.beganUs))
	le.PutUint64(b[56:], s.acknowledged)
	le.PutUint64(b[64:], s.announced)
	le.PutUint64(b[72:], uint64(s.announcedUs))
	le.PutUint64(b[80:], s.end)
	le.PutUint64(b[88:], s.dropped.Count)
	le.PutUint64(b[96:], uint64(s.dropped.SinceUs))
	le.PutUint64(b[104:], uint64(s.dropped.UntilUs))
	le.PutUint32(b[112:], uint32(len(origin)))
	le.PutUint32(b[116:], uint32(len(ranges)))
	copy(b[slotHeader:], origin)
	for i, r := range ranges {
		le.PutUint64(b[slotHeader+maxOrigin+16*i:], r.First)
		le.PutUint64(b[slotHeader+maxOrigin+16*i+8:], r.Last)
	}
	le.PutUint32(b[12:], checksum(b))
	return b
}

// stateVersion tells which version of the format a slot is of.
func stateVersion(b []byte) (v uint32, valid bool) {
	le := binary.LittleEndian
	if len(b) < 20 || string(b[:8]) != stateMagic {
		return 0, false
	}
	size := le.Uint32(b[16:])
	if size < 20 || int(size) > len(b) || le.Uint32(b[12:]) != checksum(b[:size]) {
		return 0, false
	}
	return le.Uint32(b[8:]), true
}

func decodeState(b []byte) (s state, stream, generation uint64, ok bool) {
	le := binary.LittleEndian
	v, valid := stateVersion(b)
	if !valid || v != version || le.Uint32(b[16:]) < slotHeader+maxOrigin {
		return state{}, 0, 0, false
	}
	size := le.Uint32(b[16:])
	originSize, ranges := le.Uint32(b[112:]), le.Uint32(b[116:])
	if originSize > maxOrigin || uint64(size) != slotHeader+maxOrigin+16*uint64(ranges) {
		return state{}, 0, 0, false
	}
	s = state{
		flags:        le.Uint32(b[20:]),
		lanes:        event.Lanes{Partitions: le.Uint32(b[40:]), Run: le.Uint32(b[44:])},
		beganUs:      int64(le.Uint64(b[48:])),
		acknowledged: le.Uint64(b[56:]),
		announced:    le.Uint64(b[64:]),
		announcedUs:  int64(le.Uint64(b[72:])),
		end:          le.Uint64(b[80:]),
		dropped: Dropped{Count: le.Uint64(b[88:]),
			SinceUs: int64(le.Uint64(b[96:])), UntilUs: int64(le.Uint64(b[104:]))},
		origin: string(b[slotHeader : slotHeader+originSize]),
	}
	for i := range int(ranges) {
		at := slotHeader + maxOrigin + 16*i
		s.unreadable = append(s.unreadable, Range{le.Uint64(b[at:]), le.Uint64(b[at+8:])})
	}
	return s, le.Uint64(b[32:]), le.Uint64(b[24:]), s.lanes.Partitions != 0 && s.lanes.Run != 0
}

// stateFile writes a stream's state. It is not safe for concurrent use.
type stateFile struct {
	dir        disk.FS
	stream     uint64
	file       disk.File
	generation uint64
	durable    int  // the slot that was synced last; -1: none
	named      bool // the file's name is durable
}

// readState reads the newest valid state of a stream; ok is false if there is none. sure is false if a newer one may have been there.
func readState(dir disk.FS, stream uint64) (s state, file *stateFile, ok, sure bool, err error) {
	file, sure = &stateFile{dir: dir, stream: stream, durable: -1}, true
	f, err := dir.Open(stateName(stream))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, file, false, false, nil
	}
	if err != nil {
		return state{}, nil, false, false, fmt.Errorf("open state of stream %016x: %w", stream, err)
	}
	file.file = f
	b := make([]byte, slotSize)
	for slot := range 2 {
		n, err := f.ReadAt(b, int64(slot)*slotSize)
		if err != nil && !errors.Is(err, io.EOF) {
			f.Close() // the other slot may be older: better none than that
			return state{}, nil, false, false, fmt.Errorf("read state of stream %016x: %w", stream, err)
		}
		if v, valid := stateVersion(b[:n]); valid && v > version {
			f.Close()
			return state{}, nil, false, false, fmt.Errorf("state of stream %016x: %w", stream, errNewer)
		}
		if t, of, generation, valid := decodeState(b[:n]); valid && of == stream && generation >= file.generation {
			s, ok = t, true
			file.generation, file.durable = generation, slot
		} else if !valid && strings.Trim(string(b[:n]), "\x00") != "" {
			sure = false
		}
	}
	// What was found may be in the page cache only: after a kill the newest slot is not yet the durable one. If this fails the disk
	// is failing, and the next write says so.
	_ = f.Sync()
	return s, file, ok, sure && ok, nil
}

// write puts s where the next process finds it, also after a kill. With sync it is on the disk before write returns.
func (f *stateFile) write(s *state, sync bool) error {
	if f.file == nil {
		file, err := f.dir.Create(stateName(f.stream))
		if errors.Is(err, fs.ErrExist) {
			file, err = f.dir.Open(stateName(f.stream))
		}
		if err != nil {
			return fmt.Errorf("make state of stream %016x: %w", f.stream, err)
		}
		f.file = file
	}
	slot := 0
	if f.durable == 0 {
		slot = 1
	}
	if _, err := f.file.WriteAt(s.encode(f.stream, f.generation+1), int64(slot)*slotSize); err != nil {
		return fmt.Errorf("write state of stream %016x: %w", f.stream, err)
	}
	f.generation++
	if !sync {
		return nil
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("sync state of stream %016x: %w", f.stream, err)
	}
	if !f.named {
		if err := f.dir.Sync(); err != nil {
			return fmt.Errorf("sync directory for the state of stream %016x: %w", f.stream, err)
		}
		f.named = true
	}
	f.durable = slot
	return nil
}

func (f *stateFile) close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}
