package replay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"spillway.dev/bench/accesslog"
	"spillway.dev/bench/visit"
)

// plan is what the lines of a log become.
type plan struct {
	lines   int
	views   int // lines that are views of the page
	clicks  int
	head    int // of these, HEAD requests
	leftOut map[string]int
	paths   int      // distinct ones, without the page's own
	links   []string // the paths that get a link, most requested first; others stands for the rest
	known   map[string]bool
}

// others is what the plan calls the link that rare paths share.
const others = "/"

// linkOf returns the link that a path is counted for.
func (p *plan) linkOf(path string) string {
	if path == "" || p.known[path] {
		return path
	}
	return others
}

func (p *plan) visits() int { return p.views + p.clicks }

// The longest path that becomes a link, in bytes: targets of about 2000 bytes are what browsers and caches agree on.
const maxPath = 1900

// Reasons to leave a line out that are not the parser's.
const (
	noHTTP     = "the request is not one of HTTP"
	noPath     = "the target is not a path"
	longPath   = "the path is longer than 1900 bytes"
	badHeader  = "a header holds a control character"
	otherVerbs = " is not a visit"
)

// visitOf says what a line is: a visit to path ("" for the page itself) with a query, or the reason to leave it out.
func visitOf(e accesslog.Entry) (path, query, reason string) {
	switch e.Method {
	case "GET", "HEAD":
	case "":
		return "", "", noHTTP
	default:
		return "", "", e.Method + otherVerbs
	}
	target := e.Target
	if scheme, rest, ok := strings.Cut(target, "://"); ok && !strings.ContainsAny(scheme, "/?#") {
		// A request to a proxy names the host too.
		at := strings.IndexAny(rest, "/?#")
		if at < 0 {
			target = "/"
		} else {
			target = rest[at:]
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	if !strings.HasPrefix(target, "/") {
		return "", "", noPath
	}
	target, _, _ = strings.Cut(target, "#")
	path, query, _ = strings.Cut(target, "?")
	switch path {
	case "/", "/index.html", "/index.htm", "/index.php":
		return "", encoded(query), ""
	}
	path = encoded(path)
	if len(path) > maxPath {
		return "", "", longPath
	}
	return path, encoded(query), ""
}

// encoded writes what may not stand in a URL as %XX and leaves everything else as it is.
func encoded(s string) string {
	hex := func(i int) bool {
		return i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f' || s[i] >= 'A' && s[i] <= 'F')
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0, c == '%' && (!hex(i+1) || !hex(i+2)):
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// carried says whether the entry's headers can be sent as they are.
func carried(e accesslog.Entry) bool {
	return !strings.ContainsFunc(e.Referrer+e.UserAgent, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// readPlan reads the log once and decides what each line becomes.
func readPlan(path string, maxLinks int) (*plan, error) {
	p := &plan{leftOut: map[string]int{}, known: map[string]bool{}}
	requests := map[string]int{}
	err := eachLine(path, func(e accesslog.Entry, reason string) error {
		p.lines++
		link := ""
		if reason == "" {
			link, _, reason = visitOf(e)
		}
		if reason == "" && !carried(e) {
			reason = badHeader
		}
		switch {
		case reason != "":
			p.leftOut[reason]++
			return nil
		case link == "":
			p.views++
		default:
			p.clicks++
			requests[link]++
		}
		if e.Method == "HEAD" {
			p.head++
		}
		return nil
	})
	p.paths = len(requests)
	p.links = reasons(requests)
	if len(p.links) > maxLinks {
		p.links = append(p.links[:maxLinks-1:maxLinks-1], others)
	}
	for _, link := range p.links {
		p.known[link] = true
	}
	return p, err
}

// eachVisit reads the log again and calls yield with the request of each visit, as planned, and its link ("" for the page). The
// request's target is its query only.
func (p *plan) eachVisit(path string, yield func(request visit.Request, link string) error) error {
	return eachLine(path, func(e accesslog.Entry, reason string) error {
		if reason != "" || !carried(e) {
			return nil
		}
		link, query, reason := visitOf(e)
		if reason != "" {
			return nil
		}
		request := visit.Request{Method: e.Method, Target: query, UserAgent: e.UserAgent, Referrer: e.Referrer}
		if e.Address.IsValid() {
			request.ForwardedFor = e.Address.String()
		}
		return yield(request, p.linkOf(link))
	})
}

// eachLine calls yield with each line's entry, or with the reason why it has none.
func eachLine(path string, yield func(e accesslog.Entry, reason string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open access log: %w", err)
	}
	defer file.Close()
	for lines := accesslog.NewReader(file); ; {
		e, err := lines.Next()
		reason := ""
		var broken *accesslog.LineError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &broken):
			reason = broken.Reason()
		case err != nil:
			return err
		}
		if err := yield(e, reason); err != nil {
			return err
		}
	}
}
