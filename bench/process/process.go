// Package process runs programs for a measurement or an experiment: each in a process group of its own, with its output in a file,
// ended with the experiment however that ends, and always by its id.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec is a program and how it is started.
type Spec struct {
	Name string // for messages, and the output's file
	Path string
	Args []string
	Env  []string // beside the experiment's own environment; the last of the same name wins
	Dir  string   // working directory; empty: the experiment's
	// Ready, if set, is how the first line on standard output begins that says that the program is up; Start waits for it.
	Ready string
	// Patience is how long that may take; zero means one minute.
	Patience time.Duration
}

// Starter starts processes from one thread that stays: the kernel ends them when that thread ends. The zero value cannot be used.
type Starter struct {
	logs     string
	requests chan func()
}

// NewStarter keeps the programs' output in the directory logs.
func NewStarter(logs string) (*Starter, error) {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the programs' output: %w", err)
	}
	s := &Starter{logs: logs, requests: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is the children's lifeline
		for f := range s.requests {
			f()
		}
	}()
	return s, nil
}

// Process is a program that runs, or has run.
type Process struct {
	Spec
	starter *Starter

	mu    sync.Mutex
	cmd   *exec.Cmd     // guarded by mu; the newest start
	stdin io.Closer     // guarded by mu
	ended chan struct{} // guarded by mu
	state error         // guarded by mu; valid when ended is closed
	line  string        // guarded by mu; what followed Ready
}

// Start starts the program and waits until it is ready.
func (s *Starter) Start(ctx context.Context, spec Spec) (*Process, error) {
	p := &Process{Spec: spec, starter: s}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Again starts the program again after it has ended, with other arguments if args is not nil.
func (p *Process) Again(ctx context.Context, args []string) error {
	if p.Running() {
		return fmt.Errorf("start %s again: it still runs", p.Name)
	}
	if args != nil {
		p.Args = args
	}
	return p.start(ctx)
}

func (p *Process) start(ctx context.Context) error {
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env, cmd.Dir = append(os.Environ(), p.Env...), p.Dir
	cmd.Stderr = log
	cmd.SysProcAttr = attributes()
	var out *os.File
	if p.Ready == "" {
		cmd.Stdout = log
	} else {
		var in *os.File
		if out, in, err = os.Pipe(); err != nil {
			return fmt.Errorf("start %s: %w", p.Name, err)
		}
		defer in.Close()
		cmd.Stdout = in
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	started := make(chan error)
	p.starter.requests <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.stdin, p.ended = cmd, stdin, ended
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.state = err
		p.mu.Unlock()
		p.note(cmd.ProcessState.String())
		close(ended)
	}()
	if out == nil {
		return nil
	}
	ready := make(chan string, 1)
	go p.read(out, ready)
	patience := p.Patience
	if patience == 0 {
		patience = time.Minute
	}
	select {
	case line := <-ready:
		p.mu.Lock()
		p.line = line
		p.mu.Unlock()
		return nil
	case <-ended:
		return fmt.Errorf("start %s: it ended: %s", p.Name, p.tail())
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("start %s: not ready after %s: %s", p.Name, patience, p.tail())
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("start %s: %w", p.Name, ctx.Err())
	}
}

// read copies the output to the log, and hands over the line that says that the program is ready.
func (p *Process) read(out *os.File, ready chan<- string) {
	defer out.Close()
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer log.Close()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(log, lines.Text())
		if line, ok := strings.CutPrefix(lines.Text(), p.Ready); ok {
			select {
			case ready <- strings.TrimSpace(line):
			default:
			}
		}
	}
}

// note writes how the process ended at the end of its output.
func (p *Process) note(state string) {
	log, err := os.OpenFile(p.Log(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return // the experiment is over, and its directory gone
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s ended at %s: %s\n", p.Name, time.Now().UTC().Format("15:04:05.000"), state)
}

// State says how the newest start ended; empty while it runs.
func (p *Process) State() string {
	cmd, ended := p.now()
	select {
	case <-ended:
		return cmd.ProcessState.String()
	default:
		return ""
	}
}

// Log is the file with the program's output, of all its starts.
func (p *Process) Log() string { return filepath.Join(p.starter.logs, p.Name+".log") }

// tail returns the last lines of the output.
func (p *Process) tail() string {
	text, err := os.ReadFile(p.Log())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-3):], []byte(" | ")))
}

// Line is what followed Spec.Ready at the last start.
func (p *Process) Line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line
}

func (p *Process) now() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.ended
}

// ID is the id of the newest start's process.
func (p *Process) ID() int {
	cmd, _ := p.now()
	return cmd.Process.Pid
}

// Running says whether it has not ended.
func (p *Process) Running() bool {
	_, ended := p.now()
	select {
	case <-ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process and every process that it started, as far as they run.
func (p *Process) Signal(signal syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	id := p.ID()
	all := append(descendants(id), id)
	slices.Reverse(all) // a supervisor first, so that it does not act on what befalls its children
	for _, one := range all {
		if err := syscall.Kill(one, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal %s: %w", p.Name, err)
		}
	}
	return nil
}

// Kill ends it and everything that it started with SIGKILL, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // of what is gone already nothing is left to kill
	_, ended := p.now()
	<-ended
}

// Stop asks it to end with SIGTERM, and kills it when that takes longer than patience. It says how the process ended.
func (p *Process) Stop(patience time.Duration) error {
	cmd, ended := p.now()
	if p.Running() {
		if err := syscall.Kill(cmd.Process.Pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop %s: %w", p.Name, err)
		}
	}
	select {
	case <-ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.state != nil {
			return fmt.Errorf("%s: %w", p.Name, p.state)
		}
		return nil
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("stop %s: it still ran after %s", p.Name, patience)
	}
}

// descendants returns the ids of all processes below id, nearest first, from /proc; nothing where there is none.
func descendants(id int) []int {
	parents := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (name) state parent …; the name may hold anything.
		at := bytes.LastIndexByte(stat, ')')
		fields := bytes.Fields(stat[at+1:])
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			parents[parent] = append(parents[parent], child)
		}
	}
	var all []int
	for level := parents[id]; len(level) > 0; {
		all = append(all, level...)
		var next []int
		for _, child := range level {
			next = append(next, parents[child]...)
		}
		level = next
	}
	return all
}
