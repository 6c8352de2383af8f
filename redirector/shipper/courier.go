package shipper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/redirector/journal"
	"spillway.dev/schemas/event"
)

var errStalled = errors.New("nothing was acknowledged for too long")

// courier ships one stream with one client. It is one goroutine, but for the answers, which come from the client's.
type courier struct {
	s      *Shipper
	client *kgo.Client
	stream *journal.Stream
	reader *journal.Reader
	id     uint64
	places event.Lanes
	limit  int // bytes in flight

	lanes    []lane
	inflight int // bytes sent and not acknowledged
	flights  int // records
	free     [][]byte

	sent      time.Time // when the lanes were emptied last
	stall     time.Duration
	moved     time.Time // when something was acknowledged last, or began to be waited for
	oldest    *atomic.Int64
	announced time.Time     // when the last mark was asked for
	asking    chan marked   // a mark is on its way
	mark      *journal.Mark // to be announced when the reader has come to it
	marks     int           // announcements in flight
	final     bool          // the final announcement is sent

	mu       sync.Mutex // guards answers
	answers  []answer
	answered chan struct{}
}

// lane is one partition's batch in the making, and the batches on their way.
type lane struct {
	buf    []byte // header and events; empty: no batch
	events int
	next   uint64 // the sequence that would continue it
	firstK uint64
	timeUs int64 // of the first event

	sent []*flight // not acknowledged, in order
}

// flight is a record on its way.
type flight struct {
	lane   uint32
	firstK uint64 // of its events; 0 if it has none
	timeUs int64  // of its first event
	events int
	mark   bool
	value  []byte
	done   bool
}

type answer struct {
	f   *flight
	err error
}

type marked struct {
	mark journal.Mark
	err  error
}

func newCourier(s *Shipper, client *kgo.Client, x *journal.Stream, stall time.Duration, oldest *atomic.Int64) *courier {
	return &courier{
		s: s, client: client, stream: x, reader: x.Reader(), id: x.ID(), places: x.Lanes(), limit: s.o.MaxInflight / 2,
		lanes: make([]lane, x.Lanes().Partitions), stall: stall, oldest: oldest, answered: make(chan struct{}, 1),
	}
}

// crowded is how many records of a partition may be on their way before batches wait to be full: when the broker is slow, or was away,
// fewer and fuller batches are what helps.
const crowded = 4

// After an outage there is much to read, and where there is one processor visitors would wait until all of it is read: for 10 ms and more. So a courier
// reads a portion and then pauses. A goroutine that merely yields would not do: the runtime looks for visitors' requests when nobody else is left to run.
const (
	portion = 256 << 10 // bytes of events: a third of a millisecond
	pause   = 100 * time.Microsecond
)

// run ships until all of the stream and its final announcement are acknowledged.
func (c *courier) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var arrived <-chan struct{}
		if !c.stream.Ended() {
			arrived = c.s.j.Appended()
		}
		caughtUp, ended, err := c.read()
		if err != nil {
			return err
		}
		c.announce(ended)
		now := time.Now()
		if due := c.sent.Add(c.s.o.Linger); !now.Before(due) {
			c.sendWaiting(now)
		}
		if c.final && c.flights == 0 {
			c.stream.Acknowledge(c.reader.Position())
			c.oldest.Store(0)
			return nil
		}

		c.acknowledge()
		wait := time.Hour
		if c.waiting() {
			wait = time.Until(c.sent.Add(c.s.o.Linger))
			arrived = nil // one look per Linger is enough
		} else if !caughtUp {
			arrived = nil
		}
		if !caughtUp && c.inflight < c.limit {
			wait = min(wait, pause)
		}
		if c.askable() {
			wait = min(wait, time.Until(c.announced.Add(c.s.o.AnnounceInterval)))
		}
		if c.flights > 0 {
			idle := time.Until(c.moved.Add(c.stall))
			if idle <= 0 {
				return errStalled
			}
			wait = min(wait, idle)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-arrived:
		case <-c.answered:
			if err := c.settle(); err != nil {
				return err
			}
		case m := <-c.asking:
			c.asking = nil
			c.take(m)
		case <-timer.C:
		}
	}
}

// read takes events into their lanes until there are none, or a portion is read, or too many are in flight.
func (c *courier) read() (caughtUp, ended bool, err error) {
	for bytes := 0; bytes < portion && c.inflight < c.limit; {
		rec, err := c.reader.Next()
		switch {
		case errors.Is(err, journal.ErrNothing):
			return true, false, nil
		case errors.Is(err, io.EOF):
			return true, true, nil
		case err != nil:
			return false, false, err
		}
		c.add(rec)
		bytes += len(rec.Event)
	}
	return false, false, nil
}

func (c *courier) add(rec journal.Record) {
	partition, sequence := c.places.Place(rec.K)
	l := &c.lanes[partition]
	if len(l.buf) > 0 && (sequence != l.next || len(l.buf)+len(rec.Event) > c.s.batch+event.MaxHeader) {
		c.send(partition, nil)
	}
	if len(l.buf) == 0 {
		l.buf = event.AppendHeader(c.buffer(), c.id, sequence)
		l.firstK, l.timeUs, l.events = rec.K, eventTime(rec.Event), 0
	}
	l.buf = append(l.buf, rec.Event...)
	l.events++
	l.next = sequence + 1
	if len(l.buf) >= c.s.batch {
		c.send(partition, nil)
	}
}

// buffer returns room for a batch.
func (c *courier) buffer() []byte {
	if n := len(c.free); n > 0 {
		b := c.free[n-1]
		c.free = c.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, 4<<10)
}

// waiting reports whether some lane holds what could be sent.
func (c *courier) waiting() bool {
	for i := range c.lanes {
		if l := &c.lanes[i]; len(l.buf) > 0 && len(l.sent) < crowded {
			return true
		}
	}
	return false
}

// sendWaiting sends the batches that are not full, but where many are on their way.
func (c *courier) sendWaiting(now time.Time) {
	for i := range c.lanes {
		if l := &c.lanes[i]; len(l.buf) > 0 && len(l.sent) < crowded {
			c.send(uint32(i), nil)
			c.sent = now
		}
	}
}

// send sends a lane's batch, with an announcement behind it if there is one.
func (c *courier) send(partition uint32, announcement *event.Announcement) {
	l := &c.lanes[partition]
	f := &flight{lane: partition}
	if len(l.buf) > 0 {
		f.firstK, f.timeUs, f.events, f.value = l.firstK, l.timeUs, l.events, l.buf
		l.buf = nil
	} else {
		f.value = event.AppendHeader(c.buffer(), c.id, 0)
	}
	if announcement != nil {
		f.mark = true
		c.marks++
		f.value, _ = event.AppendAnnouncement(f.value, announcement) // it has no way to fail
	}
	if c.flights == 0 {
		c.moved = time.Now()
	}
	c.flights++
	c.inflight += len(f.value)
	l.sent = append(l.sent, f)
	c.client.Produce(context.Background(), &kgo.Record{Partition: int32(partition), Value: f.value}, func(r *kgo.Record, err error) {
		if err == nil { // a partition's records are answered in the order of their offsets
			err = c.s.given(r.Partition, r.Offset)
		}
		c.mu.Lock()
		c.answers = append(c.answers, answer{f, err})
		c.mu.Unlock()
		select {
		case c.answered <- struct{}{}:
		default:
		}
	})
}

// settle takes the answers in.
func (c *courier) settle() error {
	c.mu.Lock()
	answers := c.answers
	c.answers = nil
	c.mu.Unlock()
	now := c.s.o.Clock()
	for _, a := range answers {
		if a.err != nil {
			return fmt.Errorf("produce to %s, partition %d: %w", c.s.o.Topic, a.f.lane, a.err)
		}
		f := a.f
		f.done = true
		c.moved = time.Now()
		c.flights--
		c.inflight -= len(f.value)
		if f.mark {
			c.marks--
			c.s.metrics.announcements.Inc()
		}
		if f.events > 0 {
			c.s.metrics.events.Add(float64(f.events))
			c.s.metrics.batches.Inc()
			c.s.metrics.latency.Observe(now.Sub(time.UnixMicro(f.timeUs)).Seconds())
		}
		c.s.metrics.bytes.Add(float64(len(f.value)))
		if len(c.free) < 2*len(c.lanes) {
			c.free = append(c.free, f.value)
		}
		f.value = nil
		l := &c.lanes[f.lane]
		for len(l.sent) > 0 && l.sent[0].done {
			l.sent = l.sent[1:]
		}
	}
	c.s.progress.Add(int64(len(answers)))
	return nil
}

// acknowledge tells the journal up to which event everything is acknowledged.
func (c *courier) acknowledge() {
	k, oldest := c.reader.Position(), int64(0)
	first := func(firstK uint64, timeUs int64) {
		if firstK != 0 && firstK <= k {
			k, oldest = firstK-1, timeUs
		}
	}
	for i := range c.lanes {
		l := &c.lanes[i]
		for _, f := range l.sent {
			if !f.done && f.firstK != 0 {
				first(f.firstK, f.timeUs)
				break
			}
		}
		if len(l.buf) > 0 {
			first(l.firstK, l.timeUs)
		}
	}
	c.oldest.Store(oldest)
	c.stream.Acknowledge(k)
}
