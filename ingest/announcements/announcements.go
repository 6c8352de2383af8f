// Package announcements writes down what streams said of themselves: up to where they have journaled, what they lost. It is what
// audits hold the table against.
//
// Announcements are cumulative and the table keeps maxima, so writing one twice, or an older one after a newer, changes nothing:
// there is no fence here. One writer serves a process and inserts at most once a second; an offset is committed only after what was
// announced before it is in the table.
package announcements

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/ingest/presence"
	"spillway.dev/ingest/table"
	"spillway.dev/schemas/event"
)

// Parse reads an encoded announcement.
func Parse(encoded []byte) (*event.Announcement, error) {
	a := new(event.Announcement)
	if err := a.UnmarshalVT(encoded); err != nil {
		return nil, fmt.Errorf("announcement is not readable: %w", err)
	}
	return a, nil
}

// Unreadable returns the ranges that a stream announced as lost.
func Unreadable(a *event.Announcement) []presence.Range {
	ranges := make([]presence.Range, 0, len(a.Unreadable))
	for _, r := range a.Unreadable {
		ranges = append(ranges, presence.Range{First: r.First, Last: r.Last})
	}
	return ranges
}

// Ticket tells an announcement's turn: it is in the table when Written has reached its ticket.
type Ticket uint64

type key struct {
	partition int32
	stream    uint64
}

// Writer writes announcements. It is safe for use by several goroutines.
type Writer struct {
	table *table.Table
	log   *slog.Logger
	every time.Duration
	count prometheus.Counter

	mu      sync.Mutex
	pending map[key]*event.Announcement
	given   Ticket // the newest
	written Ticket
}

// NewWriter returns a writer that inserts at most once in the given time; default 1 s.
func NewWriter(t *table.Table, every time.Duration, log *slog.Logger, metrics prometheus.Registerer) *Writer {
	if every <= 0 {
		every = time.Second
	}
	w := &Writer{table: t, log: log, every: every, pending: map[key]*event.Announcement{}, count: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_ingest_announcements_total", Help: "Announcements of streams written to ClickHouse.",
	})}
	metrics.MustRegister(w.count)
	return w
}

// Add hands over an announcement. Of a stream in a partition the newest is kept until it is written.
func (w *Writer) Add(partition int32, stream uint64, a *event.Announcement) Ticket {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := key{partition, stream}
	if before := w.pending[k]; before == nil {
		w.pending[k] = a
	} else {
		w.pending[k] = newer(before, a)
	}
	w.given++
	return w.given
}

// newer merges two announcements as the table would.
func newer(a, b *event.Announcement) *event.Announcement {
	if b.TimeUs < a.TimeUs {
		a, b = b, a
	}
	b.Journaled, b.Dropped = max(a.Journaled, b.Journaled), max(a.Dropped, b.Dropped)
	b.DroppedSinceUs, b.DroppedUntilUs = max(a.DroppedSinceUs, b.DroppedSinceUs), max(a.DroppedUntilUs, b.DroppedUntilUs)
	b.Final = a.Final || b.Final
	known := make(map[presence.Range]bool, len(b.Unreadable))
	for _, r := range b.Unreadable {
		known[presence.Range{First: r.First, Last: r.Last}] = true
	}
	for _, r := range a.Unreadable {
		if !known[presence.Range{First: r.First, Last: r.Last}] {
			b.Unreadable = append(b.Unreadable, r)
		}
	}
	return b
}

// Written returns the ticket up to which everything is in the table.
func (w *Writer) Written() Ticket {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// Run writes until ctx ends, and then once more.
func (w *Writer) Run(ctx context.Context) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := w.Flush(last); err != nil {
				w.log.Warn("announcements are not written; their offsets are not committed", "error", err)
			}
			return nil
		case <-tick.C:
			limited, cancel := context.WithTimeout(ctx, 30*time.Second)
			if err := w.Flush(limited); err != nil && ctx.Err() == nil {
				w.log.Warn("announcements are not written; trying again", "error", err)
			}
			cancel()
		}
	}
}

// Flush writes what was handed over. After an error it is still pending: writing it again does no harm.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	batch, upTo := w.pending, w.given
	w.pending = map[key]*event.Announcement{}
	w.mu.Unlock()
	err := w.insert(ctx, batch)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.written = upTo
		w.count.Add(float64(len(batch)))
		return nil
	}
	for k, a := range batch {
		if since := w.pending[k]; since != nil {
			a = newer(a, since)
		}
		w.pending[k] = a
	}
	return err
}

func (w *Writer) insert(ctx context.Context, batch map[key]*event.Announcement) error {
	if len(batch) == 0 {
		return nil
	}
	var (
		partitions, lanes, runs     proto.ColUInt32
		streams, journaled, dropped proto.ColUInt64
		times, since, until, began  proto.ColInt64
		final                       proto.ColUInt8
		origins                     proto.ColStr
		unreadable                  ranges
	)
	for k, a := range batch {
		partitions = append(partitions, uint32(k.partition))
		streams = append(streams, k.stream)
		times = append(times, a.TimeUs)
		journaled = append(journaled, a.Journaled)
		unreadable.append(a.Unreadable)
		dropped = append(dropped, a.Dropped)
		since = append(since, a.DroppedSinceUs)
		until = append(until, a.DroppedUntilUs)
		f := uint8(0)
		if a.Final {
			f = 1
		}
		final = append(final, f)
		began = append(began, a.BeganUs)
		origins.Append(origin(a.Origin))
		lanes = append(lanes, a.Partitions)
		runs = append(runs, a.Run)
	}
	const moment = "DateTime64(6, 'UTC')"
	columns := []proto.InputColumn{
		{Name: "partition", Data: partitions},
		{Name: "stream", Data: streams},
		{Name: "time", Data: proto.Alias(&times, moment)},
		{Name: "journaled", Data: journaled},
		{Name: "unreadable", Data: &unreadable},
		{Name: "dropped", Data: dropped},
		{Name: "dropped_since", Data: proto.Alias(&since, moment)},
		{Name: "dropped_until", Data: proto.Alias(&until, moment)},
		{Name: "final", Data: final},
		{Name: "began", Data: proto.Alias(&began, moment)},
		{Name: "origin", Data: origins},
		{Name: "partitions", Data: lanes},
		{Name: "run", Data: runs},
	}
	var buffer proto.Buffer
	head := proto.Block{Columns: len(columns), Rows: len(batch)}
	if err := head.EncodeRawBlock(&buffer, 0, columns); err != nil {
		return fmt.Errorf("encode announcements: %w", err)
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	err := w.table.Do(ctx, table.Insert{
		Statement: fmt.Sprintf("INSERT INTO %s (%s) FORMAT Native", w.table.Layout.Local("announcements"), strings.Join(names, ", ")),
		Body:      buffer.Buf,
		Tag:       "spillway announcements " + w.table.Layout.Database,
	})
	if err != nil {
		return fmt.Errorf("insert announcements: %w", err)
	}
	return nil
}

// origin cuts what is for people only.
func origin(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	for len(text) > 128 {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return text
}

// ranges is a column of type Array(Tuple(UInt64, UInt64)): where each row's ranges end, then all first and all last sequences.
type ranges struct{ ends, first, last proto.ColUInt64 }

func (r *ranges) append(of []*event.Range) {
	for _, x := range of {
		r.first = append(r.first, x.First)
		r.last = append(r.last, x.Last)
	}
	r.ends = append(r.ends, uint64(len(r.first)))
}

func (r *ranges) Type() proto.ColumnType { return "Array(Tuple(UInt64, UInt64))" }
func (r *ranges) Rows() int              { return len(r.ends) }
func (r *ranges) EncodeColumn(b *proto.Buffer) {
	r.ends.EncodeColumn(b)
	r.first.EncodeColumn(b)
	r.last.EncodeColumn(b)
}
func (r *ranges) WriteColumn(w *proto.Writer) { w.ChainBuffer(r.EncodeColumn) }
