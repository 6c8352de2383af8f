package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

const (
	headerCopies = 2
	recordsStart = headerCopies * disk.PageSize
	headerSize   = 96
	magic        = "SPILLWAY"
	version      = 1
)

const (
	segmentSuffix = ".segment"
	spareSuffix   = ".spare"
)

// errNewer says that a file's format is of a version that this program does not know.
var errNewer = errors.New("written by a newer version of Spillway; run that one until the journal is shipped")

// segmentName orders a directory's listing by age: numbers only grow.
func segmentName(number, stream uint64) string {
	return fmt.Sprintf("%016x-%016x%s", number, stream, segmentSuffix)
}

func spareName(number uint64) string { return fmt.Sprintf("%016x%s", number, spareSuffix) }

func parseSegmentName(name string) (number, stream uint64, ok bool) {
	name, ok = strings.CutSuffix(name, segmentSuffix)
	if !ok || len(name) != 33 || name[16] != '-' {
		return 0, 0, false
	}
	number, err1 := strconv.ParseUint(name[:16], 16, 64)
	stream, err2 := strconv.ParseUint(name[17:], 16, 64)
	return number, stream, err1 == nil && err2 == nil && stream != 0
}

func parseSpareName(name string) (number uint64, ok bool) {
	name, ok = strings.CutSuffix(name, spareSuffix)
	if !ok || len(name) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(name, 16, 64)
	return number, err == nil
}

// header is what stands in the first two pages of a segment that was begun.
type header struct {
	stream       uint64
	number       uint64
	first        uint64 // k of the segment's first record
	lanes        event.Lanes
	beganUs      int64  // when the stream began
	acknowledged uint64 // everything up to here was acknowledged when the segment was begun
}

func (h header) put(b []byte) {
	b = b[:headerSize]
	clear(b)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint64(b[16:], h.stream)
	binary.LittleEndian.PutUint64(b[24:], h.number)
	binary.LittleEndian.PutUint64(b[32:], h.first)
	binary.LittleEndian.PutUint32(b[40:], h.lanes.Partitions)
	binary.LittleEndian.PutUint32(b[44:], h.lanes.Run)
	binary.LittleEndian.PutUint64(b[48:], uint64(h.beganUs))
	binary.LittleEndian.PutUint64(b[56:], h.acknowledged)
	binary.LittleEndian.PutUint32(b[12:], checksum(b))
}

// checksum is over all of b but the four bytes at 12, where it stands. Every version of the formats keeps the magic, the version and
// this checksum where they are.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:])
}

func parseHeader(b []byte) (header, bool) {
	if len(b) < headerSize {
		return header{}, false
	}
	b = b[:headerSize]
	if string(b[:8]) != magic || binary.LittleEndian.Uint32(b[8:]) != version || binary.LittleEndian.Uint32(b[12:]) != checksum(b) {
		return header{}, false
	}
	h := header{
		stream:       binary.LittleEndian.Uint64(b[16:]),
		number:       binary.LittleEndian.Uint64(b[24:]),
		first:        binary.LittleEndian.Uint64(b[32:]),
		lanes:        event.Lanes{Partitions: binary.LittleEndian.Uint32(b[40:]), Run: binary.LittleEndian.Uint32(b[44:])},
		beganUs:      int64(binary.LittleEndian.Uint64(b[48:])),
		acknowledged: binary.LittleEndian.Uint64(b[56:]),
	}
	return h, h.first != 0 && h.lanes.Partitions != 0 && h.lanes.Run != 0
}

// segment is one file of one stream. A segment that this process writes (own) is mapped from its making on; one that was found
// is mapped when its reader arrives.
type segment struct {
	name   string
	stream uint64
	seed   uint32
	number uint64
	size   int64
	own    bool

	mu      sync.Mutex // guards mapping against its end while a reader or a sync uses it
	pins    int
	gone    bool // unmapped for good: the file is somebody else's
	mapping disk.Mapping

	// What the appending side tells the reading one. Of a found segment only first (0: not known) and last, when read, are set.
	first     atomic.Uint64 // k of the first record; 0: not begun
	committed atomic.Int64  // every record before this offset is whole
	sealed    atomic.Bool   // nothing will be appended; set after the last change of committed
	last      atomic.Uint64 // no record has a higher k, once sealed; in a found segment, once read
	read      atomic.Bool   // a reader has been through

	tail   int // where the next record goes; guarded by Journal.mu
	synced int // everything before is on the disk; of a found segment all, if it is not 0. Used by the syncer only
}

// pin maps the segment if it is not mapped and keeps it so until unpin.
func (g *segment) pin(dir disk.FS) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return nil, fs.ErrNotExist
	}
	if g.mapping == nil {
		f, err := dir.Open(g.name)
		if err != nil {
			return nil, fmt.Errorf("open segment: %w", err)
		}
		defer f.Close()
		m, err := f.Map()
		if err != nil {
			return nil, fmt.Errorf("map segment: %w", err)
		}
		g.mapping = m
	}
	g.pins++
	return g.mapping.Bytes(), nil
}

func (g *segment) unpin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pins--
}

// release unmaps the segment for good; false if somebody still reads it.
func (g *segment) release() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pins > 0 {
		return false, nil
	}
	g.gone = true
	if g.mapping == nil {
		return true, nil
	}
	err := g.mapping.Unmap()
	g.mapping = nil
	return true, err
}

// touch makes some of the segment's pages ready to be written to; false if it is unmapped for good.
func (g *segment) touch(from, to int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return false
	}
	_ = g.mapping.Touch(from, to) // what is not ready becomes so at the first write
	return true
}

func (g *segment) released() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

// readHeader returns the first valid copy of the segment's header that agrees with the file's name: the name is made durable
// before a segment is written, so a header that differs is what an older use left.
func (g *segment) readHeader(dir disk.FS) (header, bool, error) {
	f, err := dir.Open(g.name)
	if err != nil {
		return header{}, false, err
	}
	defer f.Close()
	var b [headerSize]byte
	var failed error
	for i := range headerCopies {
		n, err := f.ReadAt(b[:], int64(i*disk.PageSize))
		if err != nil && !errors.Is(err, io.EOF) {
			failed = fmt.Errorf("read header of %s: %w", g.name, err) // the copy may do
		}
		if n < len(b) {
			continue
		}
		if string(b[:8]) == magic && binary.LittleEndian.Uint32(b[8:]) > version && binary.LittleEndian.Uint32(b[12:]) == checksum(b[:]) {
			return header{}, false, fmt.Errorf("%s: %w", g.name, errNewer)
		}
		if h, ok := parseHeader(b[:]); ok && h.stream == g.stream && h.number == g.number {
			return h, true, nil
		}
	}
	return header{}, false, failed
}

// find returns the first valid record at or after at and below limit. What cannot be read, because it is damaged or because
// the disk fails, is passed over.
func (g *segment) find(b []byte, at, limit int) (record, bool) {
	for {
		r, ok, fault := g.scan(b, &at, limit)
		if !fault {
			return r, ok
		}
	}
}

// scan is find up to the first page that cannot be read. Such a page is a SIGBUS, which would end the process; here it
// becomes a panic of this goroutine, and the scan goes on behind the page.
func (g *segment) scan(b []byte, at *int, limit int) (r record, ok, fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			page, is := faultPage(v, b)
			if !is {
				panic(v)
			}
			*at = max(page+disk.PageSize, *at+alignment)
			fault = true
		}
	}()
	for ; *at+recordHeader <= limit; *at += alignment {
		if r, ok := recordAt(b, *at, limit, g.seed, g.number); ok {
			return r, true, false
		}
	}
	return record{}, false, false
}

// faultPage tells whether a panic is a failed access to b, and the offset of the page that failed.
func faultPage(v any, b []byte) (int, bool) {
	err, ok := v.(error)
	if !ok {
		return 0, false
	}
	var fault interface {
		error
		Addr() uintptr
	}
	if !errors.As(err, &fault) {
		return 0, false
	}
	offset, ok := offsetIn(b, fault.Addr())
	return offset &^ (disk.PageSize - 1), ok
}
