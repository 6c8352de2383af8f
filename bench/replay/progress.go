package replay

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress is a line on a terminal that is written over; elsewhere it is nothing. Not safe for concurrent use.
type progress struct {
	out  io.Writer // nil: not a terminal
	last time.Time
}

func newProgress(out io.Writer) *progress {
	file, ok := out.(*os.File)
	if !ok {
		return &progress{}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{out: out}
}

func (p *progress) show(what string, n, of int) {
	if p.out == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.out, "\r\x1b[K%s %d of %d (%d %%)", what, n, of, n*100/max(of, 1))
}

func (p *progress) clear() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
