// Package visit is a visitor's browser reduced to what counting needs: one HTTP/1.1 connection on a plain socket that sends one
// request, waits for its answer, and never sends anything twice. The clients of the standard library and of fasthttp repeat a GET
// when a kept connection turns out to be closed; whoever counts requests one by one cannot use them.
package visit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Request is what a visitor's browser sends. An empty header is not sent.
type Request struct {
	Method         string // GET when empty
	Target         string // path and query, encoded
	Host           string // the client's address when empty
	UserAgent      string
	Referrer       string
	ForwardedFor   string
	AcceptLanguage string
	Purpose        string // Sec-Purpose, such as "prefetch"
}

// Answer is what came back, without its body. Location points into the client's memory and holds until its next request.
type Answer struct {
	Status   int
	Location []byte
}

// ErrNotSent is wrapped by the errors of requests of which no byte reached the server: nothing can have been recorded.
var ErrNotSent = errors.New("not sent")

// ErrHeader is wrapped where a header cannot be sent as it is, because it holds a control character. Nothing was sent.
var ErrHeader = errors.New("HTTP cannot carry it")

// Client is one visitor with at most one connection. It is not safe for concurrent use. Make it with New.
type Client struct {
	address  string
	conn     net.Conn
	in       *bufio.Reader
	out      []byte
	location []byte
	headroom int
}

// New returns a client of the server at address (host:port). It connects with the first request, and again after any failure.
func New(address string) *Client { return &Client{address: address} }

// Address is the server's.
func (c *Client) Address() string { return c.address }

// Close ends the connection, if there is one. Nothing is under way on it, so nothing can go wrong that matters.
func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Do sends r and reads the answer, both before the deadline. An error that does not wrap ErrNotSent or ErrHeader leaves open
// whether the server acted on the request; the connection is closed after every error.
func (c *Client) Do(r *Request, deadline time.Time) (Answer, error) {
	if err := c.encode(r); err != nil {
		return Answer{}, err
	}
	if c.conn != nil && stale(c.conn) {
		c.Close()
	}
	if c.conn == nil {
		conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", c.address)
		if err != nil {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		c.conn = conn
		if c.in == nil {
			c.in = bufio.NewReaderSize(conn, 8<<10)
		} else {
			c.in.Reset(conn)
		}
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		c.Close()
		return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if n, err := c.conn.Write(c.out); err != nil {
		c.Close()
		if n == 0 {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return Answer{}, fmt.Errorf("send request: %w", err)
	}
	answer, keep, err := c.read(r.Method == "HEAD")
	if err != nil {
		c.Close()
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	if !keep {
		c.Close()
	}
	return answer, nil
}

func (c *Client) encode(r *Request) error {
	method, host := r.Method, r.Host
	if method == "" {
		method = "GET"
	}
	if host == "" {
		host = c.address
	}
	b := append(c.out[:0], method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\n"...)
	for _, header := range [...]struct{ name, value string }{
		{"Host", host}, {"User-Agent", r.UserAgent}, {"Referer", r.Referrer}, {"X-Forwarded-For", r.ForwardedFor},
		{"Accept-Language", r.AcceptLanguage}, {"Sec-Purpose", r.Purpose},
	} {
		if header.value == "" {
			continue
		}
		if !carried(header.value) {
			return fmt.Errorf("header %s holds a control character: %w", header.name, ErrHeader)
		}
		b = append(b, header.name...)
		b = append(b, ": "...)
		b = append(b, header.value...)
		b = append(b, "\r\n"...)
	}
	c.out = append(b, "\r\n"...)
	for _, ch := range []byte(r.Target) {
		if ch <= ' ' || ch == 0x7f {
			return fmt.Errorf("target holds a blank or a control character: %w", ErrHeader)
		}
	}
	return nil
}

func carried(value string) bool {
	for _, ch := range []byte(value) {
		if (ch < ' ' && ch != '\t') || ch == 0x7f {
			return false
		}
	}
	return true
}

// The most bytes that an answer's headers may take.
const maxHeaders = 64 << 10

var errHeaders = errors.New("headers are longer than 64 KiB")

// line returns the next line of the headers without its end; it holds until the next read.
func (c *Client) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if c.headroom -= len(line); c.headroom < 0 {
		return nil, errHeaders
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// read takes one answer from the connection, its body included, and says whether the connection can be used again.
func (c *Client) read(head bool) (answer Answer, keep bool, err error) {
	c.headroom = maxHeaders
	for {
		first, err := c.line()
		if err != nil {
			return Answer{}, false, err
		}
		if len(first) < 12 || !bytes.HasPrefix(first, []byte("HTTP/1.")) {
			return Answer{}, false, fmt.Errorf("%q is no status line of HTTP/1", first)
		}
		keep = first[7] == '1'
		if answer.Status, err = strconv.Atoi(string(first[9:12])); err != nil {
			return Answer{}, false, fmt.Errorf("%q is no status line of HTTP/1", first)
		}
		length, chunked := int64(-1), false
		for {
			header, err := c.line()
			if err != nil {
				return Answer{}, false, err
			}
			if len(header) == 0 {
				break
			}
			name, value, _ := bytes.Cut(header, []byte(":"))
			value = bytes.TrimSpace(value)
			switch {
			case bytes.EqualFold(name, []byte("Content-Length")):
				if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
					return Answer{}, false, fmt.Errorf("Content-Length %q is no number", value)
				}
			case bytes.EqualFold(name, []byte("Transfer-Encoding")):
				chunked = bytes.EqualFold(value, []byte("chunked"))
			case bytes.EqualFold(name, []byte("Connection")):
				keep = !bytes.EqualFold(value, []byte("close"))
			case bytes.EqualFold(name, []byte("Location")):
				c.location = append(c.location[:0], value...)
				answer.Location = c.location
			}
		}
		if answer.Status < 200 {
			continue // 100 Continue and its like precede the answer
		}
		switch {
		case head || answer.Status == 204 || answer.Status == 304:
		case chunked:
			err = c.chunks()
		case length >= 0:
			_, err = io.CopyN(io.Discard, c.in, length)
		default: // the body ends with the connection
			keep = false
			_, err = io.Copy(io.Discard, c.in)
		}
		return answer, keep, err
	}
}

func (c *Client) chunks() error {
	for {
		c.headroom = maxHeaders
		size, err := c.line()
		if err != nil {
			return err
		}
		digits, _, _ := bytes.Cut(size, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 31)
		if err != nil {
			return fmt.Errorf("%q is no length of a chunk", size)
		}
		if n == 0 {
			for { // trailers
				line, err := c.line()
				if err != nil || len(line) == 0 {
					return err
				}
			}
		}
		if _, err := io.CopyN(io.Discard, c.in, int64(n)); err != nil {
			return err
		}
		if _, err := c.line(); err != nil {
			return err
		}
	}
}
