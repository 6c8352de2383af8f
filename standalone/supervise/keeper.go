package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyLine is what a child prints on standard output, with its address, once it serves.
const readyLine = "ready "

// Spec is a child process that is to be kept running.
type Spec struct {
	Name string
	// Command gives the command for a start. At the first start address is empty; later it is what the child said at first,
	// which it must serve again.
	Command func(address string) Command
	// StartPatience is how long the child may take to be ready. 0: one minute.
	StartPatience time.Duration
	// StopPatience is how long it may take to end after SIGTERM before it is killed. 0: 20 seconds.
	StopPatience time.Duration
	// Quick is how soon after its start a death counts as quick, Quicks how many in a row are too many. 0: 30 seconds, 5.
	Quick  time.Duration
	Quicks int
	// Restarted is called for each new start. nil: nobody is told.
	Restarted func()
}

// Keeper keeps one child running.
type Keeper struct {
	spec    Spec
	log     *slog.Logger
	address string
	stop    context.CancelFunc
	stopped chan struct{}
	failed  chan error

	mu    sync.Mutex
	child *Child
}

// Keep starts the child, waits until it is ready and keeps it running until Stop. A first start that fails is an error with the
// child's own words.
func Keep(ctx context.Context, spec Spec, log *slog.Logger) (*Keeper, error) {
	if spec.StartPatience == 0 {
		spec.StartPatience = time.Minute
	}
	if spec.StopPatience == 0 {
		spec.StopPatience = 20 * time.Second
	}
	if spec.Quick == 0 {
		spec.Quick = 30 * time.Second
	}
	if spec.Quicks == 0 {
		spec.Quicks = 5
	}
	k := &Keeper{spec: spec, log: log, stopped: make(chan struct{}), failed: make(chan error, 1)}
	if err := k.start(ctx); err != nil {
		return nil, err
	}
	// The child outlives the context of its start: Stop ends it.
	running, stop := context.WithCancel(context.Background())
	k.stop = stop
	go k.keep(running)
	return k, nil
}

// Address is what the child said when it was ready. It stays the same when the child is started again.
func (k *Keeper) Address() string { return k.address }

// Failed receives the reason when the child kept dying and is given up. It is closed when the child is no longer kept.
func (k *Keeper) Failed() <-chan error { return k.failed }

// Pid is the process id of the child that runs now.
func (k *Keeper) Pid() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.child.Pid()
}

// Stop ends the child with SIGTERM and, when its patience or ctx ends, SIGKILL. It returns when the child has ended.
func (k *Keeper) Stop(ctx context.Context) {
	k.stop()
	<-k.stopped
	k.mu.Lock()
	child := k.child
	k.mu.Unlock()
	child.Stop(ctx, syscall.SIGTERM, k.spec.StopPatience)
}

// start starts the child and waits until it is ready.
func (k *Keeper) start(ctx context.Context) error {
	said := make(chan string, 1)
	command := k.spec.Command(k.address)
	command.Output = func(line string) {
		if address, ok := strings.CutPrefix(line, readyLine); ok {
			select {
			case said <- address:
			default:
			}
		}
	}
	child, err := Start(command)
	if err != nil {
		return fmt.Errorf("%s: %w", k.spec.Name, err)
	}
	timer := time.NewTimer(k.spec.StartPatience)
	defer timer.Stop()
	select {
	case address := <-said:
		k.mu.Lock()
		k.child, k.address = child, address
		k.mu.Unlock()
		return nil
	case <-child.Done():
		return fmt.Errorf("%s did not start: %s", k.spec.Name, child.Reason())
	case <-timer.C:
		err = fmt.Errorf("%s is not ready after %v: look at its messages with --log-level=debug", k.spec.Name, k.spec.StartPatience)
	case <-ctx.Done():
		err = ctx.Err()
	}
	child.Stop(context.Background(), syscall.SIGTERM, 5*time.Second)
	return err
}

// keep starts the child again whenever it dies, a little later each time, until it has died too often in a row.
func (k *Keeper) keep(ctx context.Context) {
	defer close(k.stopped)
	defer close(k.failed)
	quick := 0
	for {
		started := time.Now()
		k.mu.Lock()
		child := k.child
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-child.Done():
		}
		reason := child.Reason()
		for {
			if time.Since(started) > k.spec.Quick {
				quick = 0
			}
			quick++
			if quick >= k.spec.Quicks {
				k.failed <- fmt.Errorf("%s died %d times in a row, the last time with %s", k.spec.Name, quick, reason)
				return
			}
			pause := min(100*time.Millisecond<<(quick-1), 5*time.Second)
			k.log.Warn("a child process died and is started again", "child", k.spec.Name, "reason", reason, "pause", pause)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			started = time.Now()
			err := k.start(ctx)
			if err == nil {
				break
			}
			if errors.Is(err, context.Canceled) {
				return
			}
			reason = err.Error()
		}
		k.log.Info("a child process serves again", "child", k.spec.Name, "after", time.Since(started).Round(time.Millisecond))
		if k.spec.Restarted != nil {
			k.spec.Restarted()
		}
	}
}
