// Package progress shows how far a long job is: a bar that is redrawn on a terminal, a plain line every so often otherwise.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	redraw = 200 * time.Millisecond // on a terminal
	report = 10 * time.Second       // otherwise
	width  = 24                     // of the bar, in characters, where there is room
)

// Progress counts a job's parts. The zero value shows nothing. It is safe for use by several goroutines.
type Progress struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	columns  func() int // of the terminal; a longer line would be wrapped, and the next one drawn below it
	noun     string
	now      func() time.Time
	begun    time.Time
	shown    time.Time
	drawn    bool // a bar is on the terminal's last line
	done     float64
	total    float64
	stage    string
}

// New returns a progress that writes to out (nil: nowhere) and counts nouns ("events").
func New(out io.Writer, noun string) *Progress {
	p := &Progress{out: out, noun: noun, now: time.Now}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
		p.columns = func() int {
			size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
			if err != nil || size.Col == 0 {
				return 80
			}
			return int(size.Col)
		}
	}
	return p
}

// Total says how much there is to do from now on, besides what is done.
func (p *Progress) Total(remaining float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun.IsZero() {
		p.begun = p.time()
		p.shown = p.begun
	}
	p.total = p.done + remaining
}

func (p *Progress) time() time.Time {
	if p.now == nil {
		return time.Now()
	}
	return p.now()
}

// Stage names what is being done; it stands before the bar.
func (p *Progress) Stage(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage = name
}

// Add counts n parts as done; a negative n takes back what must be done again.
func (p *Progress) Add(n float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.out == nil {
		return
	}
	every := report
	if p.terminal {
		every = redraw
	}
	if now := p.time(); now.Sub(p.shown) >= every {
		p.shown = now
		p.show(now)
	}
}

// show writes the state.
func (p *Progress) show(now time.Time) {
	share := 1.0
	if p.total > 0 {
		share = min(p.done/p.total, 1)
	}
	rate := 0.0
	if spent := now.Sub(p.begun).Seconds(); spent > 0 {
		rate = p.done / spent
	}
	left := "?"
	if rate > 0 {
		left = (time.Duration((p.total - p.done) / rate * float64(time.Second))).Round(time.Second).String()
	}
	line := fmt.Sprintf("%s of %s %s, %s/s, %s left", number(p.done), number(p.total), p.noun, number(rate), left)
	if !p.terminal {
		_, _ = fmt.Fprintf(p.out, "%s: %.1f %%, %s\n", p.stage, share*100, line)
		return
	}
	line = fmt.Sprintf("%5.1f %%  %s", share*100, line)
	room := p.columns() - 1 - len(p.stage) - 2
	if bar := min(room-len(line), width); bar > 0 {
		full := int(share * float64(bar))
		line = strings.Repeat("█", full) + strings.Repeat("░", bar-full) + " " + line
	} else {
		line = line[:max(0, min(room, len(line)))]
	}
	_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s %s", p.stage, line)
	p.drawn = true
}

// Line writes a line of its own, above the bar.
func (p *Progress) Line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		return
	}
	p.clear()
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

// Done takes the bar away.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.begun, p.done, p.total = time.Time{}, 0, 0
}

func (p *Progress) clear() {
	if p.drawn {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// number writes a number for people: 12.3 M.
func number(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f G", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1f k", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}
