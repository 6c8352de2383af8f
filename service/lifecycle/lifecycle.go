// Package lifecycle starts the parts of a process together and stops them one after another.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Part is something that runs until its context ends. Run must return nil after a graceful stop; an error, or a return before
// the context ends, ends the whole process.
type Part struct {
	Name string
	Run  func(context.Context) error
	// Grace is how long Run may take to return after its context ended; default 10 s. Then it is abandoned.
	Grace time.Duration
}

type running struct {
	Part
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Run starts all parts and blocks until ctx ends or a part returns. Then it stops them in the order in which they were given,
// each one wholly before the next: list what produces before what consumes, and engines last. It returns the first error.
func Run(ctx context.Context, log *slog.Logger, parts ...Part) error {
	ended := make(chan *running, len(parts))
	all := make([]*running, 0, len(parts))
	for _, p := range parts {
		// A part outlives ctx until its turn to stop has come.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		r := &running{Part: p, cancel: cancel, done: make(chan struct{})}
		all = append(all, r)
		go func() {
			r.err = p.Run(own)
			if own.Err() != nil && errors.Is(r.err, context.Canceled) {
				r.err = nil
			}
			close(r.done)
			ended <- r
		}()
	}

	var first error
	select {
	case <-ctx.Done():
	case r := <-ended:
		if first = r.err; first == nil {
			first = fmt.Errorf("%s stopped by itself", r.Name)
		} else {
			first = fmt.Errorf("%s: %w", r.Name, first)
		}
	}
	for _, r := range all {
		r.cancel()
		grace := r.Grace
		if grace == 0 {
			grace = 10 * time.Second
		}
		began := time.Now()
		select {
		case <-r.done:
			log.Debug("stopped", "part", r.Name, "took", time.Since(began).Round(time.Millisecond))
			if first == nil && r.err != nil {
				first = fmt.Errorf("stop %s: %w", r.Name, r.err)
			}
		case <-time.After(grace):
			if first == nil {
				first = fmt.Errorf("stop %s: still running after %s", r.Name, grace)
			}
		}
	}
	return first
}
