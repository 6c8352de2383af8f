// Package completeness says up to when every answered view and click is known to be in ClickHouse, and what is waited for.
//
// Each second a redirector announces, in each partition, up to which sequence its stream has journaled at what time. From that and from
// what is stored follows a time for each lane (one stream in one partition):
//
//	nothing is missing                the time of the announcement; no limit once the stream said that it ended
//	something is missing              just before the event that follows the last one below the first hole
//	the lane was never heard of       when its stream began
//
// complete_through is the least of them, and never later than the newest announcement of all: nothing is known beyond. It stays two
// seconds behind the clock, so that a redirector that was just started has been heard of. Three things must not hold it back for ever:
//
//   - A stream that fell silent without saying that it ended, as after its machine was destroyed, while others go on: after SilentAfter
//     it is no longer waited for, and listed as silent. Should it come back, complete_through goes back to where it was heard last. When
//     Kafka or ClickHouse are away everybody is silent, and complete_through stays.
//   - Sequences that the journal can no longer read, and events that never got a name because the journal was full: they are gone, and
//     listed as lost with their time.
//   - Events that are missing for longer than LostAfter, in which Kafka has dropped them: they are listed as lost too. An audit goes on
//     to report them as missing.
package completeness

import (
	"cmp"
	"context"
	"slices"
	"time"

	"spillway.dev/rollup/stream"
)

// Holding is a stream that is waited for, that fell silent, or that lost something.
type Holding struct {
	Stream string     `json:"stream"`
	Origin string     `json:"origin,omitempty"`
	Reason string     `json:"reason"` // missing, silent, dropped, unreadable
	Events uint64     `json:"events"`
	Since  *time.Time `json:"since,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
}

// Known is what is known at one time.
type Known struct {
	At       time.Time  // ClickHouse's clock before anything was read
	Through  *time.Time // nil: nothing is known
	HeldBack []Holding  // what Through waits for, the longest waiting first
	Silent   []Holding
	Lost     []Holding
	Doubled  uint64 // rows that are too many
}

// Options of the judgement. The zero value is usable.
type Options struct {
	// SilentAfter is how long a stream may say nothing while others do; zero: 15 min.
	SilentAfter time.Duration
	// LostAfter is how long missing events are waited for; zero: 8 days, a day more than Kafka keeps records by default.
	LostAfter time.Duration
}

func (o Options) withDefaults() Options {
	if o.SilentAfter == 0 {
		o.SilentAfter = 15 * time.Minute
	}
	if o.LostAfter == 0 {
		o.LostAfter = 8 * 24 * time.Hour
	}
	return o
}

// inFlight is how far behind the newest announcement a stream may be without being listed as holding back: what is on its way.
const inFlight = 5 * time.Second

// maxListed bounds each list, the newest first where there are more.
const maxListed = 1000

// newborn is how long it takes, with a margin, until a redirector that was just started is heard of.
const newborn = 2 * time.Second

// gap is what a lane misses, or is told to have lost.
type gap struct {
	doubled uint64    // rows that are too many
	missing uint64    // events that may still come
	through time.Time // just before the first of them; zero: when the stream began
	lost    []Holding // unreadable ranges
}

// judgement is what is asked beyond the lanes.
type judgement struct {
	Options
	now time.Time // ClickHouse's clock
	// look looks closer at a lane that is not whole or has something unreadable.
	look func(context.Context, *stream.Lane) (gap, error)
	// progressing says whether a stream was seen to be heard of anew not long ago, whatever its clock says.
	progressing func(stream uint64, heard time.Time) bool
}

// judge decides by the lanes of all streams.
func (j judgement) judge(ctx context.Context, lanes []*stream.Lane) (Known, error) {
	known := Known{At: j.now}
	var newest time.Time
	heard := map[uint64]time.Time{} // when each stream was heard of last
	for _, l := range lanes {
		at := l.Announcement.Time
		if !l.Announced {
			at = l.Last
		}
		if at.After(heard[l.Stream]) {
			heard[l.Stream] = at
		}
		if at.After(newest) {
			newest = at
		}
	}
	if newest.IsZero() {
		return known, nil
	}
	if newest.After(j.now) {
		newest = j.now // a redirector's clock is ahead
	}
	through := newest
	if latest := j.now.Add(-newborn); latest.Before(through) {
		through = latest
	}
	for group := range byStream(lanes) {
		limit, holding, err := j.stream(ctx, group, newest, heard[group[0].Stream], &known)
		if err != nil {
			return Known{}, err
		}
		if limit.Before(through) {
			through = limit
		}
		if limit.Before(newest.Add(-inFlight)) {
			holding.Since = &limit
			known.HeldBack = append(known.HeldBack, holding)
		}
	}
	known.Through = &through
	slices.SortFunc(known.HeldBack, func(a, b Holding) int { return a.Since.Compare(*b.Since) })
	for _, list := range []*[]Holding{&known.Silent, &known.Lost} {
		slices.SortFunc(*list, func(a, b Holding) int { return cmp.Or(when(b).Compare(when(a)), cmp.Compare(a.Stream, b.Stream)) })
		*list = (*list)[:min(len(*list), maxListed)]
	}
	known.HeldBack = known.HeldBack[:min(len(known.HeldBack), maxListed)]
	return known, nil
}

func when(h Holding) time.Time {
	if h.Since == nil {
		return time.Time{}
	}
	return *h.Since
}

// byStream yields the lanes of one stream after another.
func byStream(lanes []*stream.Lane) func(func([]*stream.Lane) bool) {
	return func(yield func([]*stream.Lane) bool) {
		for from := 0; from < len(lanes); {
			to := from
			for to < len(lanes) && lanes[to].Stream == lanes[from].Stream {
				to++
			}
			if !yield(lanes[from:to]) {
				return
			}
			from = to
		}
	}
}

// stream returns up to when a stream is complete, and adds what is silent or lost of it to known.
func (j judgement) stream(ctx context.Context, lanes []*stream.Lane, newest, heard time.Time, known *Known) (time.Time, Holding, error) {
	silent := newest.Sub(heard) > j.SilentAfter && !j.progressing(lanes[0].Stream, heard)
	limit := newest
	holding := Holding{Stream: stream.Hex(lanes[0].Stream), Reason: "silent"}
	lower := func(t time.Time) {
		if t.Before(limit) {
			limit = t
		}
	}
	var dropped stream.Announcement
	var partitions uint32
	ended, began := true, heard
	for _, l := range lanes {
		a := l.Announcement
		partitions = max(partitions, a.Partitions)
		if a.Origin != "" {
			holding.Origin = a.Origin
		}
		if l.Announced && a.Began.UnixMicro() > 0 && a.Began.Before(began) {
			began = a.Began
		}
		if a.Dropped > dropped.Dropped {
			dropped = a
		}
		stored, whole := l.Stored()
		if !whole || len(a.Unreadable) > 0 {
			g, err := j.look(ctx, l)
			if err != nil {
				return time.Time{}, holding, err
			}
			known.Lost = append(known.Lost, g.lost...)
			known.Doubled += g.doubled
			if g.missing > 0 {
				if g.through.IsZero() {
					g.through = began
				}
				waitFor(&holding, lower, known, g.missing, g.through, newest, j.LostAfter)
				ended = ended && a.Final
				continue
			}
			stored = max(stored, a.Journaled)
		}
		if a.Journaled > stored {
			// On its way: what follows the last stored event is not earlier than it.
			through := began
			if stored > 0 && !l.Last.IsZero() && l.Last.UnixMicro() > 0 {
				through = l.Last.Add(-time.Microsecond)
			}
			waitFor(&holding, lower, known, a.Journaled-stored, through, newest, j.LostAfter)
			ended = ended && a.Final
			continue
		}
		switch {
		case a.Final:
		case silent:
			ended = false
		case l.Announced:
			ended = false
			lower(a.Time)
		default:
			ended = false
			lower(l.Last.Add(-time.Microsecond))
		}
	}
	if uint32(len(lanes)) < partitions {
		ended = false
		if !silent {
			lower(began) // of some lanes nothing is known
		}
	}
	if silent && !ended {
		s := holding
		s.Reason, s.Events, s.Since = "silent", 0, &heard
		known.Silent = append(known.Silent, s)
	}
	if dropped.Dropped > 0 {
		since, until := dropped.DroppedSince, dropped.DroppedUntil
		known.Lost = append(known.Lost, Holding{Stream: holding.Stream, Origin: holding.Origin, Reason: "dropped", Events: dropped.Dropped, Since: &since, Until: &until})
	}
	return limit, holding, nil
}

// waitFor lowers the limit to before what is missing, unless it is missing for so long that it is lost.
func waitFor(holding *Holding, lower func(time.Time), known *Known, missing uint64, through, newest time.Time, lostAfter time.Duration) {
	if newest.Sub(through) > lostAfter {
		known.Lost = append(known.Lost, Holding{Stream: holding.Stream, Origin: holding.Origin, Reason: "missing", Events: missing, Since: &through})
		return
	}
	holding.Reason = "missing"
	holding.Events += missing
	lower(through)
}
