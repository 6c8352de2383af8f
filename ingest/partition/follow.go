package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/ingest/announcements"
	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/deadletter"
	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/presence"
	"spillway.dev/ingest/topic"
	"spillway.dev/schemas/event"
)

// following is the time between a take and the next doubt.
type following struct {
	*Owner
	node
	term    fence.Term
	there   *presence.Partition
	bounds  topic.Bounds // when it was taken
	whole   bool         // it began at the log's beginning
	letters *deadletter.Sender

	position topic.Position   // what was read
	done     topic.Position   // what of that is answered, or was there before
	rows     int              // read, and not inserted yet: of waiting and of the block
	bytes    int              // of their batches
	oldest   time.Time        // of their records, by Kafka
	waiting  []waiting        // read, and not in the block yet
	unread   int64            // records in Kafka behind the position, when it was read
	wanted   []presence.Range // of all waiting batches
	block    *columns.Block   // that is held; nil: none

	inserted time.Time     // when the last insert was answered
	took     time.Duration // by the last insert

	announced announcements.Ticket
	mark      *mark // to be committed when it may be
	marked    int64 // offset committed last
	marks     time.Time
	looked    time.Time
}

// waiting is a batch of which some events are not there.
type waiting struct {
	batch  event.Batch
	record *kgo.Record
	wanted []presence.Range
}

// mark is a position that may be committed once the announcements up to a ticket and so many dead letters are written.
type mark struct {
	at        topic.Position
	announced announcements.Ticket
	letters   uint64
}

// follow reads Kafka from a position, and inserts what is not there.
func (o *Owner) follow(ctx context.Context, at node, term fence.Term, there *presence.Partition, from topic.Position, bounds topic.Bounds) error {
	reader, err := o.Topic.Read(o.partition, from)
	if err != nil {
		return doubtful(causeFetch, err)
	}
	defer reader.Close()
	letters := o.Letters.Sender(ctx)
	defer letters.Close()
	now := time.Now()
	f := &following{Owner: o, node: at, term: term, there: there, bounds: bounds, whole: from.Offset <= bounds.Start, letters: letters, position: from, done: from, marked: -1, marks: now, looked: now, took: 2 * time.Millisecond}
	defer f.giveBack()
	for {
		if err := f.rewound(); err != nil {
			return err
		}
		records, err := reader.Poll(ctx, f.patience())
		if ctx.Err() != nil {
			f.commitLast()
			return ctx.Err()
		}
		if err != nil {
			return doubtful(causeFetch, err)
		}
		now := time.Now()
		for _, r := range records {
			f.unread = reader.High() - r.Offset
			if err := f.read(r, now); err != nil {
				return err
			}
			if f.bytes > much {
				if err := f.fill(ctx); err != nil {
					return err
				}
			}
			if f.rows >= f.options.Rows || f.bytes >= f.options.Bytes {
				if err := f.insert(ctx); err != nil {
					return err
				}
			}
		}
		if now = time.Now(); f.rows > 0 && now.Sub(f.inserted) >= f.pause() {
			if err := f.insert(ctx); err != nil {
				return err
			}
		}
		f.observe(reader.High(), time.Now())
		f.commit(time.Now())
		if err := f.look(ctx, time.Now()); err != nil {
			return err
		}
	}
}

// much is how many bytes an owner gathers without holding a block. What comes beyond is decoded at once, while it is in the processor's cache,
// and its records are let go.
const much = 1 << 20

// pause is the least time between two inserts. It is ten times what an insert takes, so that inserting takes a tenth of the time at
// most while little comes, but never so long that a creator would notice. After a pause the first click is inserted at once; when
// much comes, Rows is reached long before.
//
// Who reads what is late already, with more behind it, waits longer: nobody sees it sooner for being inserted in small pieces, and fewer and larger
// inserts cost ClickHouse less and end the delay earlier.
func (f *following) pause() time.Duration {
	if f.unread > backlog && time.Since(f.position.Time) > 4*f.options.Age {
		return 4 * f.options.Age
	}
	return min(10*f.took, f.options.Age)
}

// backlog is how many records must be waiting in Kafka for an owner to count as behind.
const backlog = 32

// patience is how long to wait for records.
func (f *following) patience() time.Duration {
	if f.rows > 0 {
		return max(time.Until(f.inserted.Add(f.pause())), time.Millisecond)
	}
	return min(f.options.Commit, f.options.Look)
}

// read takes one record: what of it is there already is skipped, for which the batch's header is enough.
func (f *following) read(r *kgo.Record, now time.Time) error {
	f.position = topic.Position{Offset: r.Offset + 1, Epoch: r.LeaderEpoch, Time: r.Timestamp}
	f.Metrics.batches.Inc()
	batch, err := event.ParseBatch(r.Value)
	var announcement *event.Announcement
	if err == nil && batch.Announcement != nil {
		announcement, err = announcements.Parse(batch.Announcement)
	}
	if err != nil {
		if err := f.letters.Send(r, deadletter.Unreadable, err); err != nil {
			return err
		}
	} else {
		stream := f.there.Stream(batch.Stream)
		if announcement != nil {
			stream.Announce(now, announcement.Journaled, announcements.Unreadable(announcement)...)
			f.announced = f.Announcements.Add(f.partition, batch.Stream, announcement)
		}
		if batch.Count > 0 {
			stream.Hear(now)
			f.want(batch, r, stream)
		}
	}
	if f.rows == 0 {
		f.done = f.position
	}
	return nil
}

// want keeps a batch whose events are not all there for the next insert. They count as there from now on: if their insert is not
// answered, all that is known of the table is thrown away.
func (f *following) want(batch event.Batch, r *kgo.Record, stream *presence.Stream) {
	from := len(f.wanted)
	f.wanted = stream.AppendMissing(f.wanted, batch.First, batch.Last())
	wanted := f.wanted[from:len(f.wanted):len(f.wanted)]
	rows := 0
	for _, w := range wanted {
		rows += int(w.Last - w.First + 1)
	}
	f.Metrics.skipped.Add(float64(batch.Count - rows))
	if rows == 0 {
		return
	}
	if f.rows == 0 {
		f.oldest = r.Timestamp
	}
	stream.Add(batch.First, batch.Last())
	f.waiting = append(f.waiting, waiting{batch, r, wanted})
	f.rows += rows
	f.bytes += len(r.Value)
}

// observe tells how far behind the owner is.
func (f *following) observe(high int64, now time.Time) {
	f.Metrics.lag.WithLabelValues(label(f.partition)).Set(float64(max(max(high, f.position.Offset)-f.done.Offset, 0)))
	behind := time.Duration(0)
	if f.rows > 0 {
		behind = max(now.Sub(f.oldest), 0)
	}
	f.Metrics.lagSeconds.WithLabelValues(label(f.partition)).Set(behind.Seconds())
}

// commit hands over, now and then, a position up to which everything is answered, once the announcements and dead letters before it
// are written too.
func (f *following) commit(now time.Time) {
	if m := f.mark; m != nil && f.Announcements.Written() >= m.announced && f.letters.Acknowledged() >= m.letters {
		f.Commit(f.partition, topic.Commit{Position: m.at, Topic: f.bounds.Topic})
		f.mark, f.marked, f.marks = nil, m.at.Offset, now
	}
	if f.mark == nil && f.done.Offset != f.marked && now.Sub(f.marks) >= f.options.Commit {
		f.mark = &mark{f.done, f.announced, f.letters.Sent()}
	}
}

// commitLast hands over what may be committed at the end.
func (f *following) commitLast() {
	f.mark = &mark{f.done, f.announced, f.letters.Sent()}
	f.commit(time.Now())
}

// rewound notes how far a rewind has come, and ends it at the log's end as it was when the rewind began.
func (f *following) rewound() error {
	r := f.rewind
	if r == nil {
		return nil
	}
	r.next = max(r.next, f.done.Offset)
	if r.next < r.until {
		return nil
	}
	f.log.Info("read again to the end", "cause", r.cause, "offset", r.next)
	if f.term.Healing() {
		r.healed = true // which the next term says to all who follow
		return errAgain
	}
	f.rewind = nil
	return nil
}

// look is what an owner does now and then: is it still one, is it still that topic, is something missing?
func (f *following) look(ctx context.Context, now time.Time) error {
	if now.Sub(f.looked) < f.options.Look {
		return nil
	}
	f.looked = now
	limited, cancel := context.WithTimeout(ctx, f.options.Look)
	defer cancel()
	if now.Sub(f.inserted) >= f.options.Look {
		switch err := f.fence.Check(limited, f.partition, f.term); {
		case errors.Is(err, fence.ErrRefused):
			return err
		case errors.Is(err, fence.ErrNoTerm):
			return doubtful(causeTerm, err)
		case err != nil: // ClickHouse is away; there is nothing to insert, so there is no doubt yet
			f.log.Debug("cannot look whether the partition is still owned", "error", err)
			return nil
		}
	}
	bounds, err := f.Topic.Bounds(limited, f.partition)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return doubtful(causeTopic, err)
	case err != nil: // Kafka is away
		f.log.Debug("cannot look at the topic", "error", err)
		return nil
	case bounds.Topic != f.bounds.Topic:
		return doubtful(causeTopic, fmt.Errorf("topic %s was deleted and made again", f.Topic.Name))
	case bounds.End < f.position.Offset:
		return doubtful(causeFetch, fmt.Errorf("the log ends at offset %d, before offset %d which was read", bounds.End, f.position.Offset))
	}
	f.Metrics.holes.WithLabelValues(label(f.partition)).Set(float64(f.there.Holes()))
	if f.rows > 0 || f.position.Offset < bounds.End || f.rewind != nil {
		return nil
	}
	f.doubts = 0
	finding, events, early := f.there.Missing(now, f.options.Settle)
	if early {
		return nil
	}
	f.Metrics.missing.WithLabelValues(label(f.partition)).Set(float64(events))
	if f.missing.judge(now, finding, f.whole, f.options.Settle) {
		f.log.Warn("events that were announced are missing; reading Kafka again from its beginning", "events", events)
		return errAgain
	}
	return nil
}
