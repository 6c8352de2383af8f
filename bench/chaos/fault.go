package chaos

import (
	"context"
	"time"
)

// Moment is when, in the course of a load, a fault strikes.
type Moment int

// Moments.
const (
	Begin  Moment = iota // as the first visitors come, on connections and streams that are new
	Middle               // under steady load
	End                  // as the last visitor has come: nothing follows that would bring a forgotten tail along
)

func (m Moment) String() string { return [...]string{"begin", "middle", "end"}[m] }

// Loss is what a fault may destroy.
type Loss int

// Losses. Nothing is ever counted twice, whatever the fault.
const (
	// None: every answered visit is counted.
	None Loss = iota
	// Named: what was destroyed is lost, and the audit names as many events as are lost.
	Named
	// Unseen: what was journaled after the last announcement and then destroyed cannot be seen by the audit; no more than that is
	// lost without a name.
	Unseen
)

// ground is the kind of cluster that a fault needs.
type ground int

const (
	shared  ground = iota // one cluster for all of them: none of these faults leaves a trace
	limited               // the engines' data and the journals are on small file systems of their own
	damaged               // data is destroyed on purpose, and stays missing
)

// Fault is one way to break a cluster.
type Fault struct {
	Name   string // of one line of the table
	Does   string // what is done, in words
	Expect string // what is expected beside exactly one count for each answered visit; may be empty
	Loss   Loss
	// Hold is how long the fault lasts before it is healed.
	Hold time.Duration
	// Longest replaces Hold at the moment Middle, where it is set.
	Longest time.Duration
	// Rate replaces the load's number of visitors a second, where it is set.
	Rate float64
	// Touches are the processes that it touches. In the random part a process has one fault at a time.
	Touches []string
	// Random faults may strike at random, together with others.
	Random bool
	// Short faults are part of the short run, at the moment Middle.
	Short bool

	on ground
	// strike breaks something, and returns how it is healed. What strike itself waits for counts as part of the fault.
	strike func(ctx context.Context, a *arena) (heal func(ctx context.Context) error, err error)
}

// hold returns how long the fault lasts at that moment.
func (f *Fault) hold(m Moment, short bool) time.Duration {
	if m == Middle && f.Longest > 0 && !short {
		return f.Longest
	}
	return f.Hold
}

func healed(context.Context) error { return nil }
