package accesslog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// MaxLine is the longest line in bytes that a Reader parses: Apache and nginx refuse request lines and headers above 8 KiB each
// by default, and an escape takes four bytes.
const MaxLine = 128 << 10

// Reader reads a log line by line. It is not safe for concurrent use.
type Reader struct {
	in   *bufio.Reader
	line []byte
	n    int
}

// NewReader reads from in, which it buffers.
func NewReader(in io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(in, 64<<10)}
}

// Line is the number, from 1, of the line that Next read last.
func (r *Reader) Line() int { return r.n }

// Next returns the next line's entry. A line that cannot be parsed is a *LineError, after which Next goes on with the line after
// it; io.EOF is the end; any other error is that of the input.
func (r *Reader) Next() (Entry, error) {
	r.line = r.line[:0]
	long := false
	for {
		part, err := r.in.ReadSlice('\n')
		if !long && len(r.line)+len(part) <= MaxLine {
			r.line = append(r.line, part...)
		} else {
			long = true
		}
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			if len(r.line) > 0 || long {
				break
			}
			return Entry{}, io.EOF
		}
		return Entry{}, fmt.Errorf("read access log after line %d: %w", r.n, err)
	}
	r.n++
	if long {
		return Entry{}, &LineError{Line: r.n, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLong, MaxLine)}
	}
	entry, err := Parse(string(r.line))
	if err != nil {
		return Entry{}, &LineError{Line: r.n, Err: err}
	}
	return entry, nil
}

// LineError says what is wrong with one line.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the reason, which wraps one of this package's errors.
func (e *LineError) Unwrap() error { return e.Err }

// Reason returns the reason in this package's words alone, without what it quotes of the line: fit for counting by.
func (e *LineError) Reason() string {
	for _, known := range []error{ErrEmpty, ErrFields, ErrTime, ErrQuotes, ErrEscape, ErrStatus, ErrBytes, ErrTooLong} {
		if errors.Is(e.Err, known) {
			return known.Error()
		}
	}
	return e.Err.Error()
}
