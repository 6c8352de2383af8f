package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Record is one attempt: one request that was sent, or could not be, and what became of it.
type Record struct {
	Sent   time.Time
	Took   time.Duration
	Kind   string // view or click
	Link   string // id; empty for a view
	Method string
	// Status of the answer; 0: none came, and nobody knows whether the request was counted.
	Status int
	// NotSent says that no byte reached a redirector: the request cannot have been counted.
	NotSent bool
	Target  int    // which of the load's targets
	Marker  string // in utm_content
}

// Answered says whether the visitor got what the request was for: it must have been counted, once.
func (r *Record) Answered() bool {
	return r.Kind == "click" && r.Status == 302 || r.Kind == "view" && r.Status == 200
}

// Ledger writes records as lines of tab-separated fields, after a line that names them: time in microseconds since the Unix
// epoch, kind, link, method, status, marker, target, microseconds until the answer. Status is "-" where no answer came and
// "unsent" where nothing was sent. It is safe for concurrent use through pages.
type Ledger struct {
	mu  sync.Mutex
	out io.Writer // guarded by mu
	err error     // guarded by mu; the first one
}

const header = "time_us\tkind\tlink\tmethod\tstatus\tmarker\ttarget\ttook_us\n"

// NewLedger begins a ledger.
func NewLedger(out io.Writer) *Ledger {
	l := &Ledger{out: out}
	_ = l.flush([]byte(header)) // the error is kept, and returned by the last page's close
	return l
}

func (l *Ledger) flush(lines []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		if _, err := l.out.Write(lines); err != nil {
			l.err = fmt.Errorf("write ledger: %w", err)
		}
	}
	return l.err
}

// page is one goroutine's part of the ledger: whole lines go to the ledger now and then.
type page struct {
	ledger *Ledger
	lines  []byte
}

func (l *Ledger) page() *page { return &page{ledger: l} }

func (p *page) write(r *Record) {
	b := strconv.AppendInt(p.lines, r.Sent.UnixMicro(), 10)
	b = append(b, '\t')
	b = append(b, r.Kind...)
	b = append(b, '\t')
	b = append(b, r.Link...)
	b = append(b, '\t')
	b = append(b, r.Method...)
	b = append(b, '\t')
	switch {
	case r.NotSent:
		b = append(b, "unsent"...)
	case r.Status == 0:
		b = append(b, '-')
	default:
		b = strconv.AppendInt(b, int64(r.Status), 10)
	}
	b = append(b, '\t')
	b = append(b, r.Marker...)
	b = append(b, '\t')
	b = strconv.AppendInt(b, int64(r.Target), 10)
	b = append(b, '\t')
	b = strconv.AppendInt(b, int64(r.Took/time.Microsecond), 10)
	p.lines = append(b, '\n')
	if len(p.lines) > 32<<10 {
		_ = p.ledger.flush(p.lines) // as above
		p.lines = p.lines[:0]
	}
}

func (p *page) close() error { return p.ledger.flush(p.lines) }

// ReadLedger calls yield with every record of a ledger.
func ReadLedger(in io.Reader, yield func(Record) error) error {
	lines := bufio.NewScanner(in)
	if !lines.Scan() || lines.Text()+"\n" != header {
		return errors.Join(errors.New("read ledger: it does not begin with the line that names its fields"), lines.Err())
	}
	for n := 2; lines.Scan(); n++ {
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 8 {
			return fmt.Errorf("read ledger: line %d has %d fields instead of 8", n, len(f))
		}
		r := Record{Kind: f[1], Link: f[2], Method: f[3], Marker: f[5]}
		sent, err1 := strconv.ParseInt(f[0], 10, 64)
		target, err2 := strconv.Atoi(f[6])
		took, err3 := strconv.ParseInt(f[7], 10, 64)
		var err4 error
		switch f[4] {
		case "unsent":
			r.NotSent = true
		case "-":
		default:
			r.Status, err4 = strconv.Atoi(f[4])
		}
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return fmt.Errorf("read ledger: line %d: %w", n, err)
		}
		r.Sent, r.Target, r.Took = time.UnixMicro(sent), target, time.Duration(took)*time.Microsecond
		if err := yield(r); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	return nil
}
