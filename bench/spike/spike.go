// Package spike replays a spike of clicks through the stages of Spillway on paper: a discrete-event simulation of queues, with the service
// times that were measured. It answers what no machine at hand can: how long the queues become at a million clicks a second, what a creator
// sees meanwhile, and which stage gives first.
//
// A click arrives (a Poisson process whose rate follows the spike), is served by one of the redirectors' processors, waits for the shipper's
// batch, lies in a Kafka partition, is taken by the partition's owner into an insert, and is visible when the insert is answered.
// Redirectors are queues of single clicks (M/D/c, or M/M/c with exponential service). From there on clicks move in batches, so partitions are
// simulated as what they are: an owner that inserts whatever has come since its last insert, which takes a time of its own and a time a row.
//
// Clicks of a million a second need not be simulated one by one: the simulation follows one redirector processor and one partition, on which
// the load is spread evenly (see Lanes in schemas/event), and counts of them times their number are the platform's.
package spike

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Shape is how the rate of clicks changes: Before, then within Rise to Peak, Hold, within Fall back to Before, and After.
type Shape struct {
	Before, Peak      float64 // clicks a second
	Lead, Rise        time.Duration
	Hold, Fall, After time.Duration
}

// At returns the rate at a time since the beginning.
func (s Shape) At(t time.Duration) float64 {
	slope := func(t, of time.Duration) float64 { return float64(t) / float64(of) }
	switch {
	case t < s.Lead:
		return s.Before
	case t < s.Lead+s.Rise:
		return s.Before + (s.Peak-s.Before)*slope(t-s.Lead, s.Rise)
	case t < s.Lead+s.Rise+s.Hold:
		return s.Peak
	case t < s.Lead+s.Rise+s.Hold+s.Fall:
		return s.Peak - (s.Peak-s.Before)*slope(t-s.Lead-s.Rise-s.Hold, s.Fall)
	}
	return s.Before
}

// Length is the whole time.
func (s Shape) Length() time.Duration { return s.Lead + s.Rise + s.Hold + s.Fall + s.After }

// Platform is how much there is of each stage, and what each costs.
type Platform struct {
	// Processors of all redirectors together, and how long one is busy with a click.
	Processors int
	Redirect   time.Duration
	// Exponential makes service times vary as much as arrivals do; otherwise all are the same.
	Exponential bool
	// Linger is how long a click waits for its batch and its way through Kafka.
	Linger time.Duration
	// Partitions of the topic. Each has one owner.
	Partitions int
	// Insert is what an insert takes besides its rows, Row is what each of them adds, and Rows is the most of one insert.
	Insert, Row time.Duration
	Rows        int
	// Pause is the longest between two inserts while clicks come (SPILLWAY_INGEST_AGE); an insert also waits ten times as long as the one
	// before it took, if that is shorter.
	Pause time.Duration
	// Workers is how many inserts run at once on all of ClickHouse: its processors. An insert that finds none free waits.
	Workers int
}

func (p Platform) check(s Shape) error {
	switch {
	case p.Processors < 1 || p.Partitions < 1 || p.Workers < 1 || p.Rows < 1:
		return errors.New("simulate a spike: there must be at least one processor, partition, worker and row an insert")
	case p.Redirect <= 0 || p.Row < 0 || p.Insert < 0 || p.Linger < 0 || p.Pause <= 0:
		return errors.New("simulate a spike: times must be above zero")
	case s.Before < 0 || s.Peak < s.Before || s.Length() <= 0 || s.Lead < 0 || s.Rise < 0 || s.Hold < 0 || s.Fall < 0 || s.After < 0:
		return errors.New("simulate a spike: the peak must be above the rate before, and the times must not be negative")
	case s.Peak/float64(p.Processors)*s.Length().Seconds() > 50_000_000:
		return fmt.Errorf("simulate a spike: %.0f clicks on each processor are too many to follow: add processors, or make it shorter", s.Peak/float64(p.Processors)*s.Length().Seconds())
	}
	return nil
}

// Moment is one second of the replay. Queues are the platform's, all processors or partitions together, at the second's end.
type Moment struct {
	At        time.Duration
	Rate      float64 // clicks that came in the second
	Waiting   float64 // clicks that no processor has begun with
	Backlog   float64 // clicks answered and not visible
	Answer    time.Duration
	Freshness time.Duration // p99 of the clicks that became visible in this second
}

// Result is a replay.
type Result struct {
	Moments []Moment
	// Waits are from a click's arrival to its answer; Fresh are from its arrival to its being visible. In the order of arrival.
	Waits, Fresh []time.Duration
	// Utilisations, 0 to 1 and above: the share of its time that each stage needs at the peak.
	RedirectorLoad, OwnerLoad, WorkerLoad float64
}

// P returns a quantile of durations, q from 0 to 1.
func P(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(int(math.Ceil(min(q, 1)*float64(len(sorted)))), 1)-1]
}

// Replay lets a spike go through a platform. The same seed gives the same replay.
func Replay(s Shape, p Platform, seed uint64) (*Result, error) {
	if err := p.check(s); err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(seed, 0x5b111a))
	arrivals := arrive(s, 1/float64(p.Processors), random)
	answered := serve(arrivals, p, random)
	r := &Result{Waits: make([]time.Duration, len(arrivals))}
	for i := range arrivals {
		r.Waits[i] = answered[i] - arrivals[i]
	}
	visible := insert(answered, p)
	r.Fresh = make([]time.Duration, len(arrivals))
	for i := range arrivals {
		r.Fresh[i] = visible[i] - arrivals[i]
	}
	r.RedirectorLoad = s.Peak / float64(p.Processors) * p.Redirect.Seconds()
	rows := min(s.Peak/float64(p.Partitions)*p.Pause.Seconds(), float64(p.Rows))
	each := p.Insert.Seconds()/max(rows, 1) + p.Row.Seconds() // seconds of inserting a row
	r.OwnerLoad = s.Peak / float64(p.Partitions) * each
	r.WorkerLoad = s.Peak * each / float64(p.Workers)
	r.Moments = moments(s, p, arrivals, answered, visible, r)
	return r, nil
}

// arrive draws arrivals of a share of the clicks: a Poisson process thinned from the peak's rate.
func arrive(s Shape, share float64, random *rand.Rand) []time.Duration {
	var all []time.Duration
	most := s.Peak * share
	for t := 0.0; ; {
		t += random.ExpFloat64() / most
		at := time.Duration(t * float64(time.Second))
		if at >= s.Length() {
			return all
		}
		if random.Float64()*s.Peak < s.At(at) {
			all = append(all, at)
		}
	}
}

// serve returns when each click was answered by its processor, in the order of arrival: Lindley's recursion, one event a click.
func serve(arrivals []time.Duration, p Platform, random *rand.Rand) []time.Duration {
	answered := make([]time.Duration, len(arrivals))
	free := time.Duration(0)
	for i, at := range arrivals {
		took := p.Redirect
		if p.Exponential {
			took = time.Duration(random.ExpFloat64() * float64(p.Redirect))
		}
		free = max(free, at) + took
		answered[i] = free
	}
	return answered
}

// insert returns when each click becomes visible. One processor's clicks stand for a share of a partition's, so each counts for as many rows
// as there are processors to a partition. Where the owners together want more workers than there are, inserts wait for one.
func insert(answered []time.Duration, p Platform) []time.Duration {
	visible := make([]time.Duration, len(answered))
	weight := float64(p.Processors) / float64(p.Partitions)
	idle, pause := time.Duration(0), time.Duration(0) // since when the owner is, and how long it must pause
	for i := 0; i < len(answered); {
		begin := max(answered[i]+p.Linger, idle+pause)
		n := i + 1
		for n < len(answered) && answered[n]+p.Linger <= begin && float64(n-i)*weight < float64(p.Rows) {
			n++
		}
		alone := p.Insert + time.Duration(float64(n-i)*weight*float64(p.Row))
		pause = min(10*alone, p.Pause)
		if n < len(answered) && answered[n]+p.Linger <= begin {
			pause = 0 // a full insert is followed by the next at once
		}
		// In one owner's round every owner has an insert like this one, and the workers must get through all of them: the round takes at least
		// that long, of which the pause is a part.
		round := time.Duration(float64(alone) * float64(p.Partitions) / float64(p.Workers))
		idle = begin + max(alone, round-pause)
		for ; i < n; i++ {
			visible[i] = idle
		}
	}
	return visible
}

// moments looks at the replay each second.
func moments(s Shape, p Platform, arrivals, answered, visible []time.Duration, r *Result) []Moment {
	var all []Moment
	scale := float64(p.Processors)
	for at := time.Second; at <= s.Length(); at += time.Second {
		upTo := func(times []time.Duration, t time.Duration) int {
			n, _ := slices.BinarySearch(times, t)
			return n
		}
		came, before := upTo(arrivals, at), upTo(arrivals, at-time.Second)
		done, shown := upTo(answered, at), upTo(visible, at)
		from := upTo(visible, at-time.Second)
		all = append(all, Moment{At: at, Rate: float64(came-before) * scale, Waiting: float64(came-done) * scale, Backlog: float64(done-shown) * scale,
			Answer: P(r.Waits[before:came], 0.99), Freshness: P(r.Fresh[from:shown], 0.99)})
	}
	return all
}
