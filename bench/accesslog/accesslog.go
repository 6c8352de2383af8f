// Package accesslog reads access logs of web servers in the combined log format, as Apache httpd and nginx write it:
//
//	host identity user [day/Mon/year:hour:minute:second zone] "request" status bytes "referrer" "user agent"
//
// A hyphen stands for a value that the server did not have. Inside quotes both servers escape what could break the line:
// Apache writes \" \\ \n \t and their like and \xhh for other bytes, nginx writes \xHH for all of them. The older common log
// format, which ends after the bytes, is read too, and whatever follows the user agent is passed over.
//
// Sources: httpd's mod_log_config (LogFormat "combined") and ap_escape_logitem, nginx's ngx_http_log_module.
package accesslog

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Entry is one line of the log. An empty string is a value that the server did not have.
type Entry struct {
	// Host is who asked, as written: mostly an address, a name where the server looked names up.
	Host string
	// Address is Host as an address; the zero Addr where it is none.
	Address netip.Addr
	// Identity and User are what identd and the authentication said.
	Identity, User string
	Time           time.Time
	// Request is the whole request line, escapes resolved. The next three are its parts, all empty where it is not one of HTTP:
	// what port scanners and TLS clients send to a plain port is logged as well.
	Request                  string
	Method, Target, Protocol string
	// Status is 0 where the server wrote none.
	Status int
	// Bytes is the size of the answer's body, 0 where none was sent.
	Bytes int64
	// Referrer and UserAgent are the headers as sent, escapes resolved.
	Referrer, UserAgent string
}

// What can be wrong with a line. Parse wraps one of them.
var (
	ErrEmpty   = errors.New("empty line")
	ErrFields  = errors.New("fields are missing")
	ErrTime    = errors.New("time is not [day/Mon/year:hour:minute:second zone]")
	ErrQuotes  = errors.New("quotes do not match")
	ErrEscape  = errors.New("unknown escape")
	ErrStatus  = errors.New("status is not a number from 100 to 999")
	ErrBytes   = errors.New("size is not a number")
	ErrTooLong = errors.New("line is too long")
)

// The layout of the time between the brackets.
const layout = "02/Jan/2006:15:04:05 -0700"

// Parse reads one line, with or without its line end. The error wraps one of this package's and says which field it is about.
func Parse(line string) (Entry, error) {
	var e Entry
	rest := strings.TrimRight(line, "\r\n")
	if strings.TrimSpace(rest) == "" {
		return Entry{}, ErrEmpty
	}
	for _, field := range []*string{&e.Host, &e.Identity} {
		value, after, found := strings.Cut(rest, " ")
		if !found || value == "" {
			return Entry{}, fmt.Errorf("%w: no time", ErrFields)
		}
		*field, rest = absent(value), after
	}
	// A user name may hold spaces; the time's bracket is what ends it.
	user, after, found := strings.Cut(rest, " [")
	if !found {
		return Entry{}, fmt.Errorf("%w: no time", ErrFields)
	}
	e.User = absent(user)
	stamp, after, found := strings.Cut(after, "] ")
	if !found {
		return Entry{}, fmt.Errorf("%w: nothing after the time", ErrFields)
	}
	var err error
	if e.Time, err = time.Parse(layout, stamp); err != nil {
		return Entry{}, fmt.Errorf("%w: %q", ErrTime, shortened(stamp))
	}
	if e.Request, rest, err = quoted(after); err != nil {
		return Entry{}, fmt.Errorf("request: %w", err)
	}
	e.Request = absent(e.Request)
	e.Method, e.Target, e.Protocol = split(e.Request)

	status, rest, _ := strings.Cut(rest, " ")
	size, rest, _ := strings.Cut(rest, " ")
	if status == "" || size == "" {
		return Entry{}, fmt.Errorf("%w: no status and size after the request", ErrFields)
	}
	if status != "-" {
		if e.Status, err = strconv.Atoi(status); err != nil || e.Status < 100 || e.Status > 999 {
			return Entry{}, fmt.Errorf("%w: %q", ErrStatus, shortened(status))
		}
	}
	if size != "-" {
		if e.Bytes, err = strconv.ParseInt(size, 10, 64); err != nil || e.Bytes < 0 {
			return Entry{}, fmt.Errorf("%w: %q", ErrBytes, shortened(size))
		}
	}
	for _, field := range []*string{&e.Referrer, &e.UserAgent} {
		if rest == "" {
			break // the common log format
		}
		value, after, err := quoted(rest)
		if err != nil {
			return Entry{}, fmt.Errorf("referrer and user agent: %w", err)
		}
		*field, rest = absent(value), after
	}
	e.Address = address(e.Host)
	return e, nil
}

func absent(value string) string {
	if value == "-" {
		return ""
	}
	return value
}

func shortened(value string) string {
	if len(value) > 40 {
		return value[:40] + "…"
	}
	return value
}

// address reads what may stand in the host field: an address, one in brackets, one with a port or a zone.
func address(host string) netip.Addr {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		return a.Unmap()
	}
	if a, err := netip.ParseAddrPort(host); err == nil {
		return a.Addr().Unmap()
	}
	return netip.Addr{}
}

// split takes a request line apart; it returns nothing where it is not "METHOD target" or "METHOD target HTTP/x".
func split(request string) (method, target, protocol string) {
	method, rest, found := strings.Cut(request, " ")
	if !found || !token(method) {
		return "", "", ""
	}
	target = rest
	if at := strings.LastIndexByte(rest, ' '); at >= 0 && strings.HasPrefix(rest[at+1:], "HTTP/") {
		target, protocol = rest[:at], rest[at+1:]
	}
	if target == "" {
		return "", "", ""
	}
	return method, target, protocol
}

// token says whether s is a method as RFC 9110 writes one, in capital letters as all that are in use.
func token(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// quoted reads a quoted field at the start of s and returns it with its escapes resolved, and what follows the blank after it.
func quoted(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", fmt.Errorf("%w: %q does not begin with one", ErrQuotes, shortened(s))
	}
	var b strings.Builder
	plain := 1 // where the bytes begin that are not yet in b
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			value = s[plain:i]
			if b.Len() > 0 {
				b.WriteString(value)
				value = b.String()
			}
			rest = s[i+1:]
			if rest != "" && rest[0] != ' ' {
				return "", "", fmt.Errorf("%w: text after the closing one", ErrQuotes)
			}
			return value, strings.TrimPrefix(rest, " "), nil
		case '\\':
			c, n, err := escape(s[i+1:])
			if err != nil {
				return "", "", err
			}
			b.WriteString(s[plain:i])
			b.WriteByte(c)
			i += n
			plain = i + 1
		}
	}
	return "", "", fmt.Errorf("%w: no closing one", ErrQuotes)
}

// escape resolves what follows a backslash and says how many bytes it took.
func escape(s string) (c byte, n int, err error) {
	if s == "" {
		return 0, 0, fmt.Errorf("%w at the end of the line", ErrEscape)
	}
	switch s[0] {
	case '"', '\\', '\'':
		return s[0], 1, nil
	case 'n':
		return '\n', 1, nil
	case 't':
		return '\t', 1, nil
	case 'r':
		return '\r', 1, nil
	case 'b':
		return '\b', 1, nil
	case 'f':
		return '\f', 1, nil
	case 'v':
		return '\v', 1, nil
	case 'x':
		if len(s) >= 3 {
			if v, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				return byte(v), 3, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("%w: \\%s", ErrEscape, shortened(s[:min(len(s), 3)]))
}
