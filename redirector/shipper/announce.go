package shipper

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"spillway.dev/redirector/journal"
	"spillway.dev/schemas/event"
)

// announce asks for a mark when one is due, and announces the one that it has when the reader has come to it. One at a time: while the
// broker is away, announcements do not pile up.
func (c *courier) announce(ended bool) {
	if ended && !c.final {
		m, err := c.stream.Mark()
		c.take(marked{m, err})
		c.asking, c.final = nil, true
	}
	now := time.Now()
	if c.askable() && now.Sub(c.announced) >= c.s.o.AnnounceInterval {
		c.announced = now
		asking := make(chan marked, 1)
		c.asking = asking
		go func() { // it waits for the disk
			m, err := c.stream.Mark()
			asking <- marked{m, err}
		}()
	}
	if c.mark == nil || c.reader.Position() < c.mark.K {
		return
	}
	for partition := range c.places.Partitions {
		c.send(partition, announcement(c.mark, c.places, partition))
	}
	c.sent = now
	c.mark = nil
}

// askable reports whether another mark may be asked for.
func (c *courier) askable() bool {
	return !c.stream.Ended() && c.asking == nil && c.mark == nil && c.marks == 0
}

// take takes a mark in.
func (c *courier) take(m marked) {
	if m.err != nil {
		c.s.metrics.errors.WithLabelValues("mark").Inc()
		c.s.log.Error("shipper: a mark could not be written down; should the journal's tail be lost now, nobody would know", "err", m.err)
	}
	c.mark = &m.mark
}

// announcement is what a mark says in one partition.
func announcement(m *journal.Mark, places event.Lanes, partition uint32) *event.Announcement {
	a := &event.Announcement{
		TimeUs:         m.TimeUs,
		Journaled:      places.Last(partition, m.K),
		Dropped:        m.Dropped.Count,
		DroppedSinceUs: m.Dropped.SinceUs,
		DroppedUntilUs: m.Dropped.UntilUs,
		Final:          m.Final,
		BeganUs:        m.BeganUs,
		Origin:         m.Origin,
		Partitions:     places.Partitions,
		Run:            places.Run,
	}
	for _, r := range m.Unreadable {
		first, last := places.Last(partition, r.First-1)+1, places.Last(partition, min(r.Last, m.K))
		if first > last {
			continue
		}
		if n := len(a.Unreadable); n > 0 && a.Unreadable[n-1].Last+1 >= first {
			a.Unreadable[n-1].Last = last
		} else {
			a.Unreadable = append(a.Unreadable, &event.Range{First: first, Last: last})
		}
	}
	return a
}

// eventTime reads Event.time_us of an encoded element of EventBatch.events: it is the first field. Zero if it is not there.
func eventTime(encoded []byte) int64 {
	_, kind, n := protowire.ConsumeTag(encoded)
	if n < 0 || kind != protowire.BytesType {
		return 0
	}
	e, n := protowire.ConsumeBytes(encoded[n:])
	if n < 0 {
		return 0
	}
	number, kind, n := protowire.ConsumeTag(e)
	if n < 0 || number != 1 || kind != protowire.VarintType {
		return 0
	}
	v, n := protowire.ConsumeVarint(e[n:])
	if n < 0 {
		return 0
	}
	return int64(v)
}
