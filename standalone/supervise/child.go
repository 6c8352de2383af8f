// Package supervise runs the engines as child processes: none outlives its parent, one that dies is started again, and what
// keeps dying ends the program with the reason.
//
// A child is tied to its parent three times over. The kernel signals it when the thread that started it ends (Linux's parent
// death signal; the thread lives as long as the process, see Start). Its standard input is a pipe from the parent, whose end a
// child started with --with-parent takes for the parent's. And it is in a process group of its own, so that Ctrl-C in a terminal
// reaches the parent only, which then stops everything in order.
package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is a program to run as a child.
type Command struct {
	Path string
	Args []string
	Env  []string // nil: the parent's
	Dir  string
	// User and Group run the child as another user. nil: the parent's.
	Credential *syscall.Credential
	// DeathSignal is what the kernel sends the child when the parent dies (Linux). 0: SIGKILL.
	DeathSignal syscall.Signal
	// Output takes what the child writes on standard output, line by line; nil: it goes where its errors go.
	Output func(line string)
	// Errors takes what it writes on standard error, line by line. nil: only the last lines are kept.
	Errors func(line string)
}

// Child is a running child process.
type Child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
	err   error // valid when done is closed

	mu   sync.Mutex
	last []string
}

// lastLines is how many lines of standard error are kept, to tell why a child died.
const lastLines = 200

// Start runs the command. The child is waited for on a goroutine of its own, which keeps an operating system thread to
// itself: the kernel sends the death signal when the thread ends that forked, not the process.
func Start(command Command) (*Child, error) {
	c := &Child{done: make(chan struct{})}
	started := make(chan error)
	go c.run(command, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Child) run(command Command, started chan<- error) {
	runtime.LockOSThread()
	// Never unlocked: the thread ends with this goroutine, when the child has ended.
	cmd := exec.Command(command.Path, command.Args...)
	cmd.Env, cmd.Dir = command.Env, command.Dir
	cmd.SysProcAttr = attributes(command)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		started <- fmt.Errorf("start %s: %w", command.Path, err)
		return
	}
	errors := func(line string) {
		c.keep(line)
		if command.Errors != nil {
			command.Errors(line)
		}
	}
	output := command.Output
	if output == nil {
		output = errors
	}
	var readers sync.WaitGroup
	var pipes []*os.File
	attach := func(to *io.Writer, take func(string)) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		*to = w
		pipes = append(pipes, w)
		readers.Go(func() {
			lines(r, take)
			_ = r.Close()
		})
		return nil
	}
	err = attach(&cmd.Stdout, output)
	if err == nil {
		err = attach(&cmd.Stderr, errors)
	}
	if err == nil {
		err = cmd.Start()
	}
	for _, w := range pipes {
		_ = w.Close()
	}
	if err != nil {
		_ = stdin.Close()
		readers.Wait()
		started <- fmt.Errorf("start %s: %w", command.Path, err)
		return
	}
	c.cmd, c.stdin = cmd, stdin
	started <- nil
	c.err = cmd.Wait()
	// What a grandchild still writes is not waited for long.
	drained := make(chan struct{})
	go func() { readers.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(200 * time.Millisecond):
	}
	close(c.done)
}

func lines(from io.Reader, take func(string)) {
	reader := bufio.NewReaderSize(from, 4096)
	for {
		line, err := reader.ReadString('\n')
		if text := strings.TrimRight(line, "\r\n"); text != "" {
			take(text)
		}
		if err != nil {
			return
		}
	}
}

func (c *Child) keep(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.last) == lastLines {
		c.last = append(c.last[:0], c.last[1:]...)
	}
	c.last = append(c.last, line)
}

// LastLines are the last lines the child wrote on standard error.
func (c *Child) LastLines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.last...)
}

// Pid is the child's process id.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says how the child ended: nil for exit status 0. Valid once Done is closed.
func (c *Child) Err() error { return c.err }

// Reason is why the child ended, in one line: how, and what it last said. Of a Go program that panicked it is the panic,
// not the end of the stack; of a Spillway command it is the command's own line alone.
func (c *Child) Reason() string {
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	last := c.LastLines()
	for i := len(last) - 1; i >= 0; i-- {
		if own, ok := strings.CutPrefix(last[i], "spillway: "); ok {
			return own
		}
		if strings.HasPrefix(last[i], "panic: ") || strings.HasPrefix(last[i], "fatal error: ") {
			return how + ": " + last[i]
		}
	}
	if len(last) > 0 {
		return how + ": " + last[len(last)-1]
	}
	return how
}

// Signal sends the child a signal; one that has ended gets none.
func (c *Child) Signal(signal syscall.Signal) {
	select {
	case <-c.done:
	default:
		_ = c.cmd.Process.Signal(signal)
	}
}

// Stop sends the signal, and SIGKILL when the child has not ended within the bound or ctx ends. It returns when the child has ended.
func (c *Child) Stop(ctx context.Context, signal syscall.Signal, bound time.Duration) {
	c.Signal(signal)
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c.done:
		_ = c.stdin.Close()
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	c.Signal(syscall.SIGKILL)
	<-c.done
	_ = c.stdin.Close()
}
