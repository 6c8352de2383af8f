package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

// The walk appends, reads, acknowledges, syncs, kills, cuts the power, damages files and starts again, in an order that a seed
// decides, and compares what the journal says with what it was told.
//
//	SPILLWAY_WALK_SEED=n     one seed, with every step printed
//	SPILLWAY_WALK_SECONDS=n  for so long

// told is what the walk knows of a stream.
type told struct {
	id        uint64
	events    map[uint64][]byte // every name that was given, with its bytes
	last      uint64
	kept      uint64 // everything up to here must be found again: in memory, or synced if the power was cut
	announced uint64 // a Mark that was written down spoke of so many
	acked     uint64
	read      map[uint64]bool // by any reader since the last start
	lost      map[uint64]bool // destroyed by the walk's own hand, perhaps
	damaged   bool            // files were damaged while it was there
	torn      bool            // the power was cut, perhaps through its unsynced tail
	reader    *Reader
	start     uint64 // where the present reader began
	ended     bool
	finished  bool
}

type walk struct {
	r       *rand.Rand
	files   *disk.Memory
	j       *Journal
	now     int64
	streams map[uint64]*told
	ids     uint64
	size    int64
	keep    int
	broken  int    // the disk fails once in so many operations; 0: never
	crash   *after // a crash in the middle of an operation
	trace   func(string, ...any)
	steps   int
}

type after struct {
	left  int
	power bool
	files *disk.Memory
}

type violation string

func (w *walk) fail(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

func newWalk(seed uint64, lies bool, trace func(string, ...any)) *walk {
	w := &walk{r: rand.New(rand.NewPCG(seed, 1)), files: disk.NewMemory(), now: 1e15, streams: map[uint64]*told{}, trace: trace}
	w.files.Lies = lies
	w.size = int64(16<<10) << w.r.IntN(2)
	w.keep = w.r.IntN(4) - 1
	w.open()
	return w
}

func (w *walk) fault(disk.Operation, string) error {
	if c := w.crash; c != nil && c.files == nil {
		if c.left--; c.left <= 0 {
			c.files = w.files.Kill()
			if c.power {
				c.files = w.files.Cut(w.r)
			}
		}
	}
	if w.broken > 0 && w.r.IntN(w.broken) == 0 {
		return []error{syscall.EIO, syscall.ENOSPC}[w.r.IntN(2)]
	}
	return nil
}

// open starts on the present files until it works.
func (w *walk) open() {
	for try := 0; ; try++ {
		w.files.Fault = w.fault
		j, err := Open(Options{
			Files: w.files, SegmentBytes: w.size, MaxBytes: 6 * w.size, Lanes: event.Lanes{Partitions: 2, Run: 3}, Origin: "walk", Keep: w.keep,
			Clock: func() time.Time { return time.UnixMicro(w.now) }, manual: true,
			ids: func() uint64 { w.ids++; return w.ids },
		})
		if err == nil {
			w.j = j
			break
		}
		if w.broken == 0 || try > 100 {
			w.fail("cannot open: %v", err)
		}
		w.broken *= 2
	}
	present := map[uint64]bool{}
	for _, s := range w.j.Streams() {
		present[s.ID()] = true
		t := w.streams[s.ID()]
		if t == nil {
			t = &told{id: s.ID(), events: map[uint64][]byte{}, lost: map[uint64]bool{}}
			w.streams[s.ID()] = t
		}
		if t.finished {
			// A finished stream may come back if the removal of its files was not on the disk yet; it says the same again.
			t.finished = false
		}
		t.reader, t.read, t.start, t.ended = s.Reader(), map[uint64]bool{}, s.Acknowledged()+1, false
		if s.Acknowledged() > t.acked && !t.damaged && !t.torn {
			w.fail("stream %d: acknowledged %d, but only %d was", t.id, s.Acknowledged(), t.acked)
		}
	}
	w.files.Fault = nil
	names, _ := w.files.List()
	w.files.Fault = w.fault
	for _, name := range names { // what could not be read is left alone
		if _, id, ok := parseSegmentName(name); ok && w.broken > 0 {
			present[id] = true
		}
		if id, ok := parseStateName(name); ok && w.broken > 0 {
			present[id] = true
		}
	}
	for _, id := range w.known() {
		if t := w.streams[id]; !present[id] && !t.finished {
			if !t.damaged && (t.kept > t.acked || t.announced > t.acked) {
				w.fail("stream %d is gone; %d events were kept, %d announced, %d acknowledged", id, t.kept, t.announced, t.acked)
			}
			t.finished = true
		}
	}
	w.trace("open: %d streams", len(w.j.Streams()))
}

// known returns the walk's streams in a fixed order.
func (w *walk) known() []uint64 {
	ids := make([]uint64, 0, len(w.streams))
	for id := range w.streams {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (w *walk) append() {
	s := w.j.Live()
	t := w.streams[s.ID()]
	n := 1 + w.r.IntN(30)
	for range n {
		w.now += int64(w.r.IntN(1000))
		e := &event.Event{TimeUs: w.now - int64(w.r.IntN(50)), LinkId: w.r.Uint64(), UserAgent: strings.Repeat("x", w.r.IntN(300))}
		k, ok := w.j.Append(e)
		if !ok {
			break
		}
		b, err := event.AppendEvent(nil, e)
		if err != nil {
			w.fail("encode: %v", err)
		}
		if t.events[k] != nil {
			w.fail("stream %d: the name %d is given twice", t.id, k)
		}
		if k != t.last+1 {
			w.fail("stream %d: %d after %d", t.id, k, t.last)
		}
		t.events[k], t.last = b, k
	}
	w.trace("stream %d: appended up to %d", t.id, t.last)
}

func (w *walk) pick() (*Stream, *told) {
	streams := w.j.Streams()
	s := streams[w.r.IntN(len(streams))]
	t := w.streams[s.ID()]
	if t == nil { // the journal began another stream: the clock was set back
		t = &told{id: s.ID(), events: map[uint64][]byte{}, lost: map[uint64]bool{}, read: map[uint64]bool{}, start: 1}
		t.reader = s.Reader()
		w.streams[s.ID()] = t
	}
	return s, t
}

func (w *walk) read() {
	s, t := w.pick()
	n := w.r.IntN(100)
	for range n {
		rec, err := t.reader.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				w.atEnd(s, t)
			} else if errors.Is(err, ErrNothing) {
				if s.Ended() {
					w.fail("stream %d has ended, and the reader waits", t.id)
				}
				if t.reader.Position() != t.last {
					w.fail("stream %d: nothing further at %d of %d", t.id, t.reader.Position(), t.last)
				}
			} else if w.broken == 0 {
				w.fail("stream %d: read: %v", t.id, err)
			}
			break
		}
		want := t.events[rec.K]
		if want == nil {
			w.fail("stream %d: event %d was never appended", t.id, rec.K)
		}
		if !bytes.Equal(want, rec.Event) {
			w.fail("stream %d: event %d has other bytes", t.id, rec.K)
		}
		if t.read[rec.K] {
			w.fail("stream %d: event %d is read twice by one reader", t.id, rec.K)
		}
		t.read[rec.K] = true
	}
	w.trace("stream %d: read up to %d", t.id, t.reader.Position())
	w.judge(s, t)
}

// judge compares what was read and reported so far with what was appended.
func (w *walk) judge(s *Stream, t *told) {
	s.mu.Lock()
	unreadable := append([]Range(nil), s.state.unreadable...)
	s.mu.Unlock()
	bad := map[uint64]bool{}
	for _, r := range unreadable {
		if r.Last > t.last && r.Last > t.announced {
			w.fail("stream %d: %d–%d is called unreadable, but only %d were appended", t.id, r.First, r.Last, t.last)
		}
		for k := r.First; k <= r.Last; k++ {
			bad[k] = true
		}
	}
	for k := t.start; k <= t.reader.Position(); k++ {
		if bad[k] == t.read[k] && (!t.damaged || !bad[k]) {
			w.fail("stream %d: event %d: read %v, called unreadable %v", t.id, k, t.read[k], bad[k])
		}
		if bad[k] && !t.damaged && (!t.torn || k <= t.kept) {
			w.fail("stream %d: event %d must be there (up to %d), and is called unreadable", t.id, k, t.kept)
		}
	}
}

func (w *walk) atEnd(s *Stream, t *told) {
	end := t.reader.Position()
	if !t.damaged && end < t.kept {
		w.fail("stream %d ends at %d; everything up to %d was to be kept", t.id, end, t.kept)
	}
	if !t.damaged && end < t.announced {
		w.fail("stream %d ends at %d; %d was announced", t.id, end, t.announced)
	}
	if end > t.last && end > t.announced {
		w.fail("stream %d ends at %d; only %d were appended", t.id, end, t.last)
	}
	t.ended = true
}

func (w *walk) acknowledge() {
	s, t := w.pick()
	low, high := s.Acknowledged(), t.reader.Position()
	if high > low {
		k := low + 1 + w.r.Uint64N(high-low)
		t.acked = max(t.acked, k)
		s.Acknowledge(k)
		w.trace("stream %d: acknowledged %d", t.id, k)
	}
}

// rewind has the broker lose what it acknowledged.
func (w *walk) rewind() {
	s, t := w.pick()
	t.reader.Close()
	n := s.Rewind()
	t.reader, t.read, t.start, t.ended = s.Reader(), map[uint64]bool{}, s.Acknowledged()+1, false
	w.trace("stream %d: rewound by %d to %d", t.id, n, s.Acknowledged())
}

func (w *walk) mark() {
	s, t := w.pick()
	if s != w.j.Live() && !t.ended {
		return
	}
	m, err := s.Mark()
	if m.K > t.last && m.K > t.announced {
		w.fail("stream %d: a mark at %d, but only %d were appended", t.id, m.K, t.last)
	}
	if err == nil && w.crash == nil {
		t.announced = max(t.announced, m.K)
	}
	w.trace("stream %d: mark %d (%v)", t.id, m.K, err)
}

func (w *walk) finish() {
	s, t := w.pick()
	if !t.ended || s == w.j.Live() || s.Acknowledged() < t.reader.Position() {
		return
	}
	t.reader.Close()
	err := s.Finish()
	w.trace("stream %d: finish (%v)", t.id, err)
	t.finished = true
	if len(w.j.Streams()) > 0 && slices.Contains(w.j.Streams(), s) { // the state could not be written
		t.finished = false
		t.reader, t.read, t.start, t.ended = s.Reader(), map[uint64]bool{}, s.Acknowledged()+1, false
	}
}

func (w *walk) sync() {
	err := w.j.sync()
	w.trace("sync (%v)", err)
	if err == nil && w.crash == nil {
		for _, s := range w.j.Streams() {
			if t := w.streams[s.ID()]; t != nil && !t.torn {
				t.kept = t.last
			}
		}
	}
}

func (w *walk) step() {
	w.steps++
	if w.crash != nil && w.crash.files != nil {
		w.restart()
		return
	}
	switch x := w.r.IntN(100); {
	case x < 30 && w.crash == nil:
		w.append()
	case x < 50:
		w.read()
	case x < 62:
		w.acknowledge()
	case x < 72:
		w.j.attend()
		w.trace("attend")
	case x < 76:
		w.j.saveAll()
		w.trace("save")
	case x < 82:
		w.sync()
	case x < 86:
		w.mark()
	case x < 92:
		w.finish()
	case x < 93:
		w.rewind()
	case x < 94:
		w.now -= int64(w.r.IntN(10_000_000))
		w.trace("clock back")
	case x < 95:
		if w.broken = []int{0, 3, 10, 50}[w.r.IntN(4)]; w.broken > 0 {
			w.trace("the disk fails 1 in %d", w.broken)
		}
	case x < 97:
		if w.crash == nil {
			w.crash = &after{left: 1 + w.r.IntN(12), power: w.r.IntN(2) == 0}
			w.trace("to crash after %d operations", w.crash.left)
		}
	default:
		w.restart()
	}
	for _, s := range w.j.Streams() { // the journal may have begun another one
		if w.streams[s.ID()] == nil {
			t := &told{id: s.ID(), events: map[uint64][]byte{}, lost: map[uint64]bool{}, read: map[uint64]bool{}, start: 1}
			t.reader = s.Reader()
			w.streams[s.ID()] = t
		}
	}
}

// heal has everything read and finished, with a disk that works.
func (w *walk) heal() {
	w.broken, w.crash = 0, nil
	w.files.Fault = nil
	w.files = w.files.Kill()
	w.open()
	for _, s := range w.j.Streams() {
		if s == w.j.Live() {
			continue
		}
		t := w.streams[s.ID()]
		for {
			rec, err := t.reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.fail("stream %d: read: %v", t.id, err)
			}
			if !bytes.Equal(t.events[rec.K], rec.Event) {
				w.fail("stream %d: event %d has other bytes", t.id, rec.K)
			}
			t.read[rec.K] = true
		}
		w.atEnd(s, t)
		w.judge(s, t)
		t.reader.Close()
		t.acked = t.reader.Position()
		s.Acknowledge(t.acked)
		if _, err := s.Mark(); err != nil {
			w.fail("stream %d: mark: %v", t.id, err)
		}
		if err := s.Finish(); err != nil {
			w.fail("stream %d: finish: %v", t.id, err)
		}
		t.finished = true
	}
	if n := len(w.j.Streams()); n != 1 {
		w.fail("%d streams are left", n)
	}
	w.j.attend()
	names, _ := w.files.List()
	for _, name := range names {
		if _, id, ok := parseSegmentName(name); ok && id != w.j.Live().ID() {
			w.fail("%s is left", name)
		}
		if id, ok := parseStateName(name); ok && id != w.j.Live().ID() {
			w.fail("%s is left", name)
		}
	}
	if used, max := w.j.used.Load(), 6*w.size; used > max {
		w.fail("%d bytes used after all is shipped, %d allowed: %v", used, max, names)
	}
}

// runWalk walks one seed and returns what was violated.
func runWalk(seed uint64, lies bool, trace func(string, ...any)) (steps int, err error) {
	w := newWalk(seed, lies, trace)
	defer func() {
		steps = w.steps
		if v := recover(); v != nil {
			text, ok := v.(violation)
			if !ok {
				panic(v)
			}
			err = errors.New(string(text))
		}
	}()
	for range 60 + w.r.IntN(200) {
		w.step()
	}
	w.heal()
	return w.steps, nil
}

func TestWalk(t *testing.T) {
	if text := os.Getenv("SPILLWAY_WALK_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := runWalk(seed, false, t.Logf); err != nil {
			t.Fatal(err)
		}
		return
	}
	seconds := 3
	if text := os.Getenv("SPILLWAY_WALK_SECONDS"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	first := rand.Uint64N(1 << 40)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	walks, steps := 0, 0
	for ; time.Now().Before(end); walks++ {
		seed := first + uint64(walks)
		n, err := runWalk(seed, false, func(string, ...any) {})
		if err != nil {
			t.Fatalf("%v\nwalk it again with SPILLWAY_WALK_SEED=%d go test ./journal -run TestWalk -v", err, seed)
		}
		steps += n
	}
	t.Logf("%d walks of %d steps", walks, steps)
}

// A disk that lies about its syncs must be found out, or the walk proves nothing.
func TestWalkFindsADiskThatLies(t *testing.T) {
	for seed := range uint64(2000) {
		if _, err := runWalk(seed, true, func(string, ...any) {}); err != nil {
			return
		}
	}
	t.Fatal("2000 walks over a disk that forgets what it said to have synced, and nothing was missed")
}
