package visit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Limits of what one visitor may take up. The defaults of fasthttp are off or wide.
type Limits struct {
	// Connections at once; a further one is answered 503. Each takes some 20 KiB. Zero: 32768.
	Connections int
	// Request is how long a request may take to arrive, from its first byte. Zero: 5 s.
	Request time.Duration
	// Idle is how long a connection may wait for its next request. Zero: 1 min.
	Idle time.Duration
	// Answer is how long a visitor may take to read an answer. Zero: 10 s.
	Answer time.Duration
	// Header is the most bytes of a request's line and header together; a larger one is answered 431. Zero: 16 KiB.
	Header int
}

// maxBody is the most bytes of a request's body: a beacon's is empty.
const maxBody = 4 << 10

// Server serves visitors on a listener.
type Server struct {
	server  *fasthttp.Server
	handler *Handler
	limits  Limits
}

// NewServer returns a server of a handler.
func NewServer(h *Handler, l Limits) (*Server, error) {
	if l.Connections < 0 || l.Request < 0 || l.Idle < 0 || l.Answer < 0 || l.Header < 0 {
		return nil, errors.New("visitors' limits: none may be negative")
	}
	l = Limits{
		Connections: orDefault(l.Connections, 32<<10),
		Request:     orDefault(l.Request, 5*time.Second),
		Idle:        orDefault(l.Idle, time.Minute),
		Answer:      orDefault(l.Answer, 10*time.Second),
		Header:      orDefault(l.Header, 16<<10),
	}
	return &Server{handler: h, limits: l, server: &fasthttp.Server{
		Handler:                      h.Handle,
		ErrorHandler:                 h.refuse,
		ConnState:                    note,
		Concurrency:                  l.Connections,
		ReadTimeout:                  l.Request,
		IdleTimeout:                  l.Idle,
		WriteTimeout:                 l.Answer,
		ReadBufferSize:               l.Header,
		MaxRequestBodySize:           maxBody,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		CloseOnShutdown:              true,
		Logger:                       logger{h.Log},
	}}, nil
}

func orDefault[T int | time.Duration](value, standard T) T {
	if value == 0 {
		return standard
	}
	return value
}

// Run serves until ctx ends, then finishes what is being answered, for at most grace.
func (s *Server) Run(ctx context.Context, listener net.Listener, grace time.Duration) error {
	visitors := newConnections(listener, s.handler, s.limits)
	watched := make(chan struct{})
	defer close(watched)
	go visitors.watch(watched)
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(visitors) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve visitors: %w", err)
	case <-ctx.Done():
	}
	visitors.ending.Store(true)
	if err := visitors.Close(); err != nil { // also if the server has not begun to accept, and would not know what to shut down
		return fmt.Errorf("stop accepting visitors: %w", err)
	}
	visitors.leave()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := s.server.ShutdownWithContext(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop serving visitors: %w", err)
	}
	if err := <-served; err != nil {
		return fmt.Errorf("serve visitors: %w", err)
	}
	return nil
}

// Connections returns how many are open.
func (s *Server) Connections() int { return int(s.server.GetOpenConnectionsCount()) }

// refuse answers what could not be read as a request.
func (h *Handler) refuse(ctx *fasthttp.RequestCtx, err error) {
	status, text := fasthttp.StatusBadRequest, "This request is not understood.\n"
	var small *fasthttp.ErrSmallBuffer
	var network net.Error
	switch {
	case errors.As(err, &small):
		status, text = fasthttp.StatusRequestHeaderFieldsTooLarge, "This request's header is too large.\n"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		status, text = fasthttp.StatusRequestEntityTooLarge, "This request's body is too large.\n"
	case errors.As(err, &network) && network.Timeout():
		status, text = fasthttp.StatusRequestTimeout, "This request took too long.\n"
	}
	h.metrics.refused.WithLabelValues(strconv.Itoa(status)).Inc()
	r := &ctx.Response
	r.Reset()
	r.SetStatusCode(status)
	r.SetConnectionClose()
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	r.Header.Set("Cache-Control", "private, no-store")
	r.SetBodyString(text)
}

// logger hands on what fasthttp has to say: nothing that an operator must act on.
type logger struct{ log *slog.Logger }

func (l logger) Printf(format string, args ...any) {
	l.log.Debug("visitors' server", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
}
