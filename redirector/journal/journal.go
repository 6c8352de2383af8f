// Package journal keeps every answered view and click on this machine's disk until Kafka has it.
//
// Appending is a short lock, an encoding straight into a memory-mapped file and a commit word published last. It makes no
// system call and waits for no disk, so the visitor is never slowed; and because the page cache is the kernel's, what was
// appended survives a kill -9 of the process. What the kernel had not written yet when the machine lost its power is lost: at
// most Options.SyncInterval.
//
// # Use
//
//	j, err := journal.Open(journal.Options{Dir: dir, Lanes: lanes, Logger: logger, Registerer: registerer})
//	k, ok := j.Append(&e)       // from any goroutine; ok is false if it was dropped and counted
//	for _, s := range j.Streams() { r := s.Reader(); … }   // the shipper's side
//	err = j.Close()             // after the last Append
//
// # Streams
//
// One start writes one stream, under a fresh random id that is never zero and never continued: the name (stream, k) of an event
// is never used twice, not even after a lost tail, a restored backup or a cloned disk. The streams of older starts that the
// directory still holds are read under their own ids. A stream is forgotten (Stream.Finish) when all of it and its final
// announcement are acknowledged. Should the clock be set back while the process runs, the stream ends there and the next one
// begins: a stream's time never goes back (see Stream.Mark).
//
// # Files
//
//	<number>-<stream>.segment   records of a stream; the numbers of a directory only grow, so names sort by age
//	<number>.spare              an allocated file that waits for its next use
//	<stream>.stream             what is known of a stream beside its records: cursor, announced end, drops, unreadable ranges
//	lock                        the process that holds the directory, for people; the lock itself is on the directory
//
// (number and stream as 16 hexadecimal digits.) All integers in the files are little endian.
//
// # A segment
//
//	0        4096     8192                                                        SegmentBytes
//	┌────────┬────────┬────────┬────────┬─────┬────────┬──────────────┬────────┬──────┐
//	│ header │ header │ record │ record │  …  │ record │ rest of page │ record │  …   │
//	│        │ (copy) │        │        │     │        │ (after sync) │        │      │
//	└────────┴────────┴────────┴────────┴─────┴────────┴──────────────┴────────┴──────┘
//
// The header is there twice, in two pages, so that one torn or bad page does not hide what the segment is. It is written when
// the first record is, and never again:
//
//	 0  8  "SPILLWAY"
//	 8  4  format version, 1
//	12  4  CRC-32C of bytes 0 … 11 and 16 … 95
//	16  8  stream                   both must agree with the file's name: what an older use left in a
//	24  8  segment number           recycled file is not taken for this segment's
//	32  8  k of the first record    so that a missing segment before this one is noticed at once
//	40  4  P, partitions            lanes of the stream: without them an event has no name in Kafka,
//	44  4  R, run                   so they survive the loss of the state file
//	48  8  when the stream began, µs since 1970
//	56  8  acknowledged k when the segment was begun: a lost cursor costs no more than the segments still here
//	64 32  zero
//
// A record begins at a multiple of 8:
//
//		┌───────────┬───────────┬────────────────────┬────────────────────┬─────────────────────────────┬─────────┐
//		│ commit  4 │ CRC-32C 4 │ segment number   8 │ k                8 │ payload                     │ padding │
//		└───────────┴───────────┴────────────────────┴────────────────────┴─────────────────────────────┴─────────┘
//
//	  - commit: length of the payload in bytes, stored last and atomically. A process killed before leaves no record; the bytes that
//	    a recycled file has here are sorted out by the next two fields.
//	  - CRC-32C over (the stream, segment number, k, payload). The stream is only in the checksum: nobody who writes into an event,
//	    and no other journal's file, can make a record that fits here.
//	  - segment number: a recycled file still holds its older use's records, whole and with good checksums; they carry another number.
//	  - k: the event's number within the stream. After an unreadable stretch it tells exactly which events were in it.
//	  - payload: the event, encoded as one element of the field `events` of an EventBatch; the shipper copies it as it is.
//
// Appending goes on at the next page after each sync: a page that the disk is writing can make the next store into it wait.
//
// # Reading
//
// A reader takes the next valid record at each multiple of 8. Where there is none (a torn tail, flipped bits, a bad sector, the rest
// of a synced page) it looks on until it finds one; if that one's k is not the expected one, the events between are unreadable, and
// reported as such, exactly. Segments that are missing show in the same way. Where an older stream ends is where its last
// valid record is, or its last announced one if that is higher.
//
// # Segments come and go
//
// Segments are reserved, written through and mapped ahead, by a goroutine of the journal: a store into a mapped file finds a full disk
// out by a SIGBUS. When all of a segment is acknowledged, and the cursor that says so is on the disk, the file becomes a spare. When
// there is no room for another segment, events are dropped, counted and announced; the visitor does not notice. The live stream's last few
// acknowledged segments stay for a while (Options.Keep), for the case that Kafka loses what it acknowledged.
package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

// Options of a journal.
type Options struct {
	// Dir is the directory, made if it does not exist. One process at a time.
	Dir string
	// SegmentBytes is the size of a segment file, a multiple of 4096, at least 16384. Zero: 32 MiB.
	SegmentBytes int64
	// MaxBytes bounds the segments and spares of the directory, in bytes; beyond it events are dropped. At least three segments.
	// Zero: 4 GiB. Files that are already there count, but are never deleted for it.
	MaxBytes int64
	// Keep is how many of the live stream's segments are kept after all of them is acknowledged, as long as there is room: should the
	// broker lose what it had acknowledged, Stream.Rewind has it sent again. Zero: 2. Negative: none.
	Keep int
	// SyncInterval is how often appended bytes are forced to the disk: the most that a power failure can take. Zero: 1 s.
	// Negative: never, the kernel writes when it likes (some 30 s).
	SyncInterval time.Duration
	// Lanes of the stream that is begun. Partitions must not be more than the topic has. Zero values: 4 partitions, runs of 128.
	Lanes event.Lanes
	// Origin names this writer to people, in announcements; cut to 128 bytes. Empty: host name and directory.
	Origin string
	// Clock tells the time. Nil: time.Now.
	Clock func() time.Time
	// Files is the file system. Nil: the directory Dir of the real one.
	Files disk.FS
	// Logger takes what happens in the background. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: none are registered.
	Registerer prometheus.Registerer

	manual bool          // tests: no goroutines; what they do is called by hand
	ids    func() uint64 // tests: instead of random ones
}

const (
	defaultSegment = 32 << 20
	defaultMax     = 4 << 30
	defaultSync    = time.Second
	defaultKeep    = 2
	defaultLanes   = 4
	defaultRun     = 128
)

const (
	// ahead is how many segments are kept ready beside the one that is written: two, so that one is made while another fills.
	ahead = 2
	// keptSpares is how many recycled files are kept beside these when there is nothing to ship.
	keptSpares = 1
)

func (o *Options) check() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegment
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMax
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = defaultSync
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Lanes.Partitions == 0 {
		o.Lanes.Partitions = defaultLanes
	}
	if o.Lanes.Run == 0 {
		o.Lanes.Run = defaultRun
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ids == nil {
		o.ids = randomID
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Dir == "" && o.Files == nil:
		return errors.New("journal directory is not set: name one that survives restarts")
	case o.SegmentBytes < 16<<10 || o.SegmentBytes%disk.PageSize != 0 || o.SegmentBytes > 1<<30:
		return fmt.Errorf("journal segment of %d bytes: use a multiple of %d from 16384 to 1 GiB", o.SegmentBytes, disk.PageSize)
	case o.MaxBytes < 3*o.SegmentBytes:
		return fmt.Errorf("journal limit of %d bytes is below three segments of %d: raise the limit or make segments smaller", o.MaxBytes, o.SegmentBytes)
	case o.Lanes.Partitions > 1<<16 || o.Lanes.Run > 1<<20:
		return fmt.Errorf("lanes of %d partitions and runs of %d: use at most 65536 and 1048576", o.Lanes.Partitions, o.Lanes.Run)
	}
	return nil
}

// Journal is an open journal directory. Its methods may be called from any goroutine.
type Journal struct {
	o      Options
	dir    disk.FS
	log    *slog.Logger
	unlock io.Closer

	mu       sync.Mutex // the visitor's lock: guards live and what Stream says it guards; held for no call to the file system
	live     *Stream
	appended uint64
	written  uint64
	dropped  uint64

	waiting atomic.Bool   // somebody wants to hear of the next append
	arrived chan struct{} // and hears it here

	listing sync.Mutex // guards streams
	streams []*Stream  // oldest first, the live one last

	files   sync.Mutex // guards what follows; held while files are made and renamed
	spares  []spare
	number  uint64 // the highest segment number in the directory
	backoff backoff
	closed  bool

	used      atomic.Int64 // bytes of segments and spares
	roll      atomic.Bool  // the clock was set back: begin another stream
	kick      chan struct{}
	stop      chan struct{}
	running   sync.WaitGroup
	counters  counters
	collector prometheus.Collector
}

type spare struct {
	name string
	size int64
}

// Open takes the directory, finds what older streams left and begins a stream. A full disk is no error: events are dropped and counted
// until there is room. Errors: the directory cannot be made, read or locked, or an option makes no sense; the text names the cure.
func Open(o Options) (*Journal, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Files == nil {
		dir, err := disk.OpenDirectory(o.Dir)
		if err != nil {
			return nil, err
		}
		o.Files = dir
	}
	if o.Origin == "" {
		host, _ := os.Hostname()
		o.Origin = host + ":" + o.Files.String()
	}
	unlock, err := o.Files.Lock()
	if errors.Is(err, disk.ErrLocked) {
		return nil, fmt.Errorf("journal %s: %w; stop it, or give each redirector a directory of its own", o.Files, err)
	} else if err != nil {
		return nil, fmt.Errorf("journal %s: %w", o.Files, err)
	}
	j := &Journal{
		o: o, dir: o.Files, log: o.Logger, unlock: unlock,
		arrived: make(chan struct{}, 1), kick: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if err := j.find(); err != nil {
		unlock.Close()
		return nil, fmt.Errorf("journal %s: %w", o.Files, err)
	}
	s := j.newStream()
	j.live = s
	j.streams = append(j.streams, s)
	j.save(s, true)
	j.prepare(1)
	if o.Registerer != nil {
		j.collector = newCollector(j)
		if err := o.Registerer.Register(j.collector); err != nil {
			unlock.Close()
			return nil, fmt.Errorf("journal metrics: %w", err)
		}
	}
	if !o.manual {
		j.running.Go(j.keep)
		if o.SyncInterval > 0 {
			j.running.Go(j.syncLoop)
		}
		j.wake()
	}
	return j, nil
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// newStream begins a stream in memory.
func (j *Journal) newStream() *Stream {
	id := uint64(0)
	for id == 0 || j.stream(id) != nil {
		id = j.o.ids()
	}
	s := &Stream{j: j, id: id, seed: seed(id), lanes: j.o.Lanes, beganUs: j.o.Clock().UnixMicro()}
	s.file = &stateFile{dir: j.dir, stream: id, durable: -1}
	s.state = state{lanes: s.lanes, beganUs: s.beganUs, origin: j.o.Origin}
	return s
}

func (j *Journal) stream(id uint64) *Stream {
	j.listing.Lock()
	defer j.listing.Unlock()
	for _, s := range j.streams {
		if s.id == id {
			return s
		}
	}
	return nil
}

// Streams returns the streams that are not finished, oldest first. The last one is the live one.
func (j *Journal) Streams() []*Stream {
	j.listing.Lock()
	defer j.listing.Unlock()
	return append([]*Stream(nil), j.streams...)
}

// Live returns the stream that Append writes to.
func (j *Journal) Live() *Stream {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.live
}

// Appended returns a channel that receives once something is appended, or the live stream ends, after this call. Look for records
// after calling it and before waiting, or one may be missed. It is for one waiter.
func (j *Journal) Appended() <-chan struct{} {
	select {
	case <-j.arrived:
	default:
	}
	j.waiting.Store(true)
	return j.arrived
}

func (j *Journal) announceArrival() {
	if j.waiting.Load() && j.waiting.CompareAndSwap(true, false) {
		select {
		case j.arrived <- struct{}{}:
		default:
		}
	}
}

// wake has the keeper look.
func (j *Journal) wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// End ends the live stream: what is appended afterwards is dropped. The shipper can then send all of it and say that this is all.
func (j *Journal) End() {
	j.mu.Lock()
	j.live.endLocked()
	j.mu.Unlock()
	j.announceArrival()
	j.wake()
}

// Close ends the live stream, puts everything on the disk and gives the directory back. Call it after the last Append and after the
// readers have stopped. What is not acknowledged is there for the next start. An error says what may not be on the disk.
func (j *Journal) Close() error {
	j.files.Lock()
	if j.closed {
		j.files.Unlock()
		return nil
	}
	j.closed = true
	j.files.Unlock()
	j.End()
	close(j.stop)
	j.running.Wait()
	var errs []error
	if err := j.sync(); err != nil {
		errs = append(errs, err)
	}
	for _, s := range j.Streams() {
		if err := j.discardReady(s); err != nil {
			errs = append(errs, err)
		}
		if err := s.save(true); err != nil {
			errs = append(errs, err)
		}
		if err := s.release(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := j.dir.Sync(); err != nil {
		errs = append(errs, fmt.Errorf("sync directory: %w", err))
	}
	if j.collector != nil {
		j.o.Registerer.Unregister(j.collector)
	}
	if err := j.unlock.Close(); err != nil {
		errs = append(errs, fmt.Errorf("unlock: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close journal %s: %w", j.dir, err)
	}
	return nil
}
