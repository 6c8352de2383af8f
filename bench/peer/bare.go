package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"spillway.dev/bench/process"
	"spillway.dev/bench/stand"
)

// Bare is a server that only answers, with the same redirect to everybody: what is left of a redirector that looks nothing up, records
// nothing and has no time-outs. It is the floor of what is built on the same ground.
type Bare struct {
	*process.Process
	Address string
}

// What a bare server is built on.
const (
	Fasthttp = "fasthttp" // the HTTP server that the redirector uses, at its fastest
	Net      = "net"      // Go's net package: a goroutine a connection, one read and one write a request, no HTTP
)

// bareCommand is the first argument of a process of this program that is a bare server.
const bareCommand = "bare-server"

// StartBare starts a bare server on one processor of the stand, as another process of this program, whose main must call ServeBare.
func StartBare(ctx context.Context, s *stand.Stand, processor int, ground string) (*Bare, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start a bare server: %w", err)
	}
	b := &Bare{}
	if b.Address, err = s.Address(); err != nil {
		return nil, err
	}
	b.Process, err = s.Start(ctx, processor, process.Spec{Name: "bare-" + ground, Path: self, Args: []string{bareCommand, ground, b.Address}, Ready: "ready"})
	return b, err
}

// ServeBare serves if the arguments of this process say so, until the process ends; false if they say nothing of it.
func ServeBare(args []string) (bool, error) {
	if len(args) != 3 || args[0] != bareCommand {
		return false, nil
	}
	listener, err := net.Listen("tcp", args[2])
	if err != nil {
		return true, fmt.Errorf("bare server: %w", err)
	}
	fmt.Println("ready")
	switch args[1] {
	case Fasthttp:
		return true, serveFasthttp(listener)
	case Net:
		return true, serveNet(listener)
	}
	return true, fmt.Errorf("bare server: there is none on %q", args[1])
}

func serveFasthttp(listener net.Listener) error {
	server := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultContentType: true, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Response.SetStatusCode(fasthttp.StatusFound)
		ctx.Response.Header.Set("Location", "https://example.com/measured/1")
		ctx.Response.Header.Set("Cache-Control", "private, no-store")
		ctx.Response.Header.Set("X-Robots-Tag", "noindex")
	}}
	return server.Serve(listener)
}

func serveNet(listener net.Listener) error {
	answer := []byte(strings.ReplaceAll(`HTTP/1.1 302 Found
Date: `+time.Now().UTC().Format(time.RFC1123)+`
Content-Length: 0
Location: https://example.com/measured/1
Cache-Control: private, no-store
X-Robots-Tag: noindex

`, "\n", "\r\n"))
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return fmt.Errorf("bare server: %w", err)
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 16<<10)
			got := 0
			for got < len(buffer) {
				n, err := conn.Read(buffer[got:])
				if err != nil {
					return
				}
				if got += n; !bytes.HasSuffix(buffer[:got], []byte("\r\n\r\n")) {
					continue
				}
				got = 0
				if _, err := conn.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}
