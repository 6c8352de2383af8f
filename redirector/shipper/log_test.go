package shipper

import (
	"bytes"
	"log/slog"
	"sync"
)

// text is a log that a test reads.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *text) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
