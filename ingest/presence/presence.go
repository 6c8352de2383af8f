// Package presence knows what the table has of a partition: of each stream the highest sequence, and the holes below it.
//
// It is read anew from the table whenever a partition is taken, and goes along with what its owner inserts. What is on its way counts
// as there; an insert without an answer makes the owner take again, and then all of this is thrown away and read anew. So the
// table alone decides what is there.
package presence

import (
	"context"
	"fmt"
	"strings"
	"time"

	"spillway.dev/ingest/table"
	"spillway.dev/schemas/sequence"
)

// Stream is what is known of one stream in one partition.
type Stream struct {
	Set
	// Announced is the highest sequence that the stream announced to have journaled here.
	Announced uint64
	// unreadable is what the stream announced as lost. It is not there: a copy of the journal may still send it. But there is
	// no use in reading Kafka again for it.
	unreadable Set
	// heard is when events of the stream were last read from Kafka: then more of them may be on their way.
	heard time.Time
	// due is the highest sequence that was announced long enough ago to be missed; next was announced at noted, and falls due in its turn.
	due, next uint64
	noted     time.Time
}

// Partition is what is known of one partition. It is not safe for use by several goroutines.
type Partition struct {
	streams map[uint64]*Stream
	loaded  time.Time
}

// New returns a partition of which nothing is there.
func New(now time.Time) *Partition {
	return &Partition{streams: map[uint64]*Stream{}, loaded: now}
}

// Stream returns what is known of a stream, to be added to.
func (p *Partition) Stream(id uint64) *Stream {
	s := p.streams[id]
	if s == nil {
		s = &Stream{heard: p.loaded}
		p.streams[id] = s
	}
	return s
}

// Hear notes that events of the stream were read just now. Announcements do not count: a live stream makes one each second, also
// while its events are lost.
func (s *Stream) Hear(now time.Time) { s.heard = now }

// ripen lets what was announced at least settle ago fall due.
func (s *Stream) ripen(now time.Time, settle time.Duration) {
	if s.next <= s.due || now.Sub(s.noted) < settle {
		return
	}
	s.due = s.next
	if s.Announced > s.due {
		s.next, s.noted = s.Announced, now
	}
}

// Announce notes an announcement: up to which sequence the stream has journaled, and what of that is lost.
func (s *Stream) Announce(now time.Time, journaled uint64, unreadable ...Range) {
	s.Announced = max(s.Announced, journaled)
	if s.next <= s.due && s.Announced > s.due {
		s.next, s.noted = s.Announced, now
	}
	for _, r := range unreadable {
		if r.First > 0 && r.First <= r.Last {
			s.unreadable.Add(r.First, r.Last)
		}
	}
}

// Holes returns how many runs of sequences are missing below the highest of their streams.
func (p *Partition) Holes() (n int) {
	for _, s := range p.streams {
		n += s.Holes()
	}
	return n
}

// Streams returns how many streams are known.
func (p *Partition) Streams() int { return len(p.streams) }

// Finding is a fingerprint of what was announced and is not there. Zero: nothing is missing.
type Finding uint64

// Missing returns what was announced and is missing for at least settle. What was announced a moment ago may still be on its way from
// the journal, so of the end of a stream only what was announced so long ago counts, and only after no event of it was read for so
// long; and so much time must have gone since the partition was read from the table: before, it is too early to tell.
func (p *Partition) Missing(now time.Time, settle time.Duration) (finding Finding, events uint64, early bool) {
	if now.Sub(p.loaded) < settle {
		return 0, 0, true
	}
	var missing, gone []Range
	for id, s := range p.streams {
		s.ripen(now, settle)
		upTo := min(s.Announced, s.Highest())
		if now.Sub(s.heard) >= settle {
			upTo = max(upTo, s.due)
		}
		if upTo == 0 {
			continue
		}
		missing = s.AppendMissing(missing[:0], 1, upTo)
		gone = gone[:0]
		for _, m := range missing {
			gone = s.unreadable.AppendMissing(gone, m.First, m.Last)
		}
		for _, g := range gone {
			events += g.Last - g.First + 1
			// The streams come in any order, so what they add must not depend on it.
			finding += Finding(mix(mix(mix(id)^g.First) ^ g.Last))
		}
	}
	if events > 0 && finding == 0 {
		finding = 1
	}
	return finding, events, false
}

// mix scatters a number's bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// Load reads from the table what is there of a partition. The caller must have made sure that nobody else writes to it: a row that
// appears later is not noticed.
func Load(ctx context.Context, t *table.Table, partition int32) (*Partition, error) {
	p := New(time.Now())
	l := loader{table: t, partition: partition, into: p}
	for _, step := range []func(context.Context) error{l.sync, l.counts, l.holes, l.expired, l.announcements} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("read what is there of partition %d: %w", partition, err)
		}
	}
	return p, nil
}

type loader struct {
	table     *table.Table
	partition int32
	into      *Partition
	withHoles []uint64 // streams whose counts do not say all
}

// sync lets a replica catch up with what the others have answered.
func (l *loader) sync(ctx context.Context) error {
	if l.table.Layout.Cluster == "" {
		return nil
	}
	return l.table.Each(ctx, "SYSTEM SYNC REPLICA "+l.table.Layout.OnCluster()+" "+l.table.Layout.Local("events"), func(func(...any) error) error { return nil })
}

// counts reads the projection "streams": a row a stream, not an event. A set of different numbers that has as many members as lie
// between its least and its greatest, and their sum and sum of squares, has no holes.
func (l *loader) counts(ctx context.Context) error {
	question := `SELECT stream, count() AS n, min(sequence) AS least, max(sequence) AS greatest, sum(sequence) AS total, sum(sequence * sequence) AS squares
FROM ` + l.table.Layout.All("events") + ` WHERE partition = ` + fmt.Sprint(l.partition) + ` GROUP BY partition, stream`
	return l.table.Each(ctx, question, func(scan func(...any) error) error {
		var id, n, least, greatest, total, squares uint64
		if err := scan(&id, &n, &least, &greatest, &total, &squares); err != nil {
			return err
		}
		if (sequence.Sums{Count: n, Sum: total, Squares: squares}) == sequence.Run(least, greatest) {
			l.into.Stream(id).Add(least, greatest)
		} else {
			l.withHoles = append(l.withHoles, id)
		}
		return nil
	})
}

// streamsAtOnce bounds how many streams with holes are read by one question.
const streamsAtOnce = 256

// holes reads the runs of the streams whose counts do not say all. Only here are rows of events read, and only of these streams.
func (l *loader) holes(ctx context.Context) error {
	for rest := l.withHoles; len(rest) > 0; {
		some := rest[:min(len(rest), streamsAtOnce)]
		rest = rest[len(some):]
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(some), " ", ","), "[]")
		// A run is where the number less its place in the order stays the same.
		question := `SELECT stream, min(sequence) AS first, max(sequence) AS last FROM (
	SELECT stream, sequence, sequence - row_number() OVER (PARTITION BY stream ORDER BY sequence) AS run FROM (
		SELECT DISTINCT stream, sequence FROM ` + l.table.Layout.All("events") + ` WHERE partition = ` + fmt.Sprint(l.partition) + ` AND stream IN (` + list + `)))
GROUP BY stream, run ORDER BY stream, first`
		if err := l.ranges(ctx, question); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) ranges(ctx context.Context, question string) error {
	return l.table.Each(ctx, question, func(scan func(...any) error) error {
		var id, first, last uint64
		if err := scan(&id, &first, &last); err != nil {
			return err
		}
		l.into.Stream(id).Add(first, last)
		return nil
	})
}

// expired adds what was there in the months whose raw events are gone: 1 … highest but the holes that were recorded.
func (l *loader) expired(ctx context.Context) error {
	question := `SELECT stream, highest, holes FROM ` + l.table.Layout.All("expired_streams") + ` FINAL WHERE partition = ` + fmt.Sprint(l.partition)
	return l.table.Each(ctx, question, func(scan func(...any) error) error {
		var (
			id, highest uint64
			holes       [][]any
		)
		if err := scan(&id, &highest, &holes); err != nil {
			return err
		}
		s, next := l.into.Stream(id), uint64(1)
		for _, h := range holes {
			hole, err := rangeOf(h)
			if err != nil {
				return err
			}
			if hole.First > next {
				s.Add(next, hole.First-1)
			}
			next = max(next, hole.Last+1)
		}
		if highest >= next {
			s.Add(next, highest)
		}
		return nil
	})
}

// announcements reads what the streams said of themselves.
func (l *loader) announcements(ctx context.Context) error {
	question := `SELECT stream, max(journaled) AS journaled, groupUniqArrayArray(unreadable) AS unreadable
FROM ` + l.table.Layout.All("announcements") + ` WHERE partition = ` + fmt.Sprint(l.partition) + ` GROUP BY stream`
	return l.table.Each(ctx, question, func(scan func(...any) error) error {
		var (
			id, journaled uint64
			unreadable    [][]any
		)
		if err := scan(&id, &journaled, &unreadable); err != nil {
			return err
		}
		s := l.into.Stream(id)
		s.Announce(l.into.loaded, journaled)
		for _, u := range unreadable {
			lost, err := rangeOf(u)
			if err != nil {
				return err
			}
			s.Announce(l.into.loaded, 0, lost)
		}
		return nil
	})
}

// rangeOf reads a Tuple(UInt64, UInt64) as clickhouse-go returns it.
func rangeOf(tuple []any) (Range, error) {
	if len(tuple) == 2 {
		first, ok := tuple[0].(uint64)
		last, too := tuple[1].(uint64)
		if ok && too {
			return Range{first, last}, nil
		}
	}
	return Range{}, fmt.Errorf("a range of sequences is %v", tuple)
}
