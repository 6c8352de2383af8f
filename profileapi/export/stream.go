package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

const (
	// piece is how many bytes go to the client at once, and held how many stay back until ClickHouse's answer ends: more than a message of its errors
	// has, so that a client never gets one in place of data.
	piece = 64 << 10
	held  = 32 << 10
)

// Stream is a result that has begun.
type Stream struct {
	source *Source
	client string
	body   io.ReadCloser
	tag    string // by which ClickHouse marks an error in the middle of a result; empty: an older server
	stop   context.CancelFunc
	idle   *time.Timer
	gone   func() bool // whether the one who asked has left
	end    string
}

// oldError is how a server that sets no tag ends a result with an error.
var oldError = regexp.MustCompile(`(?s)Code: \d+\. DB::Exception: .*\(version [^)]*\)\s*$`)

// Copy writes the result, in pieces of at most 64 KiB. It returns nil only if ClickHouse wrote all of it: after an error the client must be
// made to see that what it has is no whole result. An error that wraps ErrBroken is ClickHouse's, others are to's.
func (s *Stream) Copy(to io.Writer) error {
	buffer := make([]byte, 0, piece+held)
	for {
		s.idle.Reset(silence)
		n, err := s.body.Read(buffer[len(buffer):cap(buffer)])
		s.idle.Stop()
		buffer = buffer[:len(buffer)+n]
		s.source.bytes.Add(float64(n))
		if err != nil && !errors.Is(err, io.EOF) {
			s.end = "broken"
			if s.gone() {
				s.end = "left"
			}
			return fmt.Errorf("%w: %w%s", ErrBroken, err, s.reason(buffer))
		}
		last := err != nil
		if last {
			if reason := s.reason(buffer); reason != "" {
				s.end = "broken"
				return fmt.Errorf("%w%s", ErrBroken, reason)
			}
		}
		give := len(buffer) - held
		if last {
			give = len(buffer)
		}
		if give > 0 && (last || len(buffer) == cap(buffer)) {
			if _, err := to.Write(buffer[:give]); err != nil {
				s.end = "left"
				return fmt.Errorf("write an export: %w", err)
			}
			buffer = append(buffer[:0], buffer[give:]...)
		}
		if last {
			s.end = "whole"
			return nil
		}
	}
}

// reason finds the error at the end of a result that ClickHouse gave up: ": " and its first line, or nothing.
func (s *Stream) reason(tail []byte) string {
	var text []byte
	if s.tag != "" {
		_, text, _ = bytes.Cut(tail, []byte("\r\n__exception__\r\n"+s.tag+"\r\n"))
	} else {
		text = oldError.Find(tail)
	}
	if len(text) == 0 {
		return ""
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	return ": " + string(bytes.TrimSpace(text))
}

// Close ends the query, finished or not.
func (s *Stream) Close() {
	s.idle.Stop()
	s.stop()
	_ = s.body.Close()
	if s.end == "" {
		s.end = "left"
	}
	s.source.ended.WithLabelValues(s.end).Inc()
	s.source.leave(s.client)
}
