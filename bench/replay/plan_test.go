package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/bench/accesslog"
	"spillway.dev/bench/creator"
	"spillway.dev/bench/visit"
)

func TestWhatALineBecomes(t *testing.T) {
	for target, want := range map[string][3]string{
		"GET /":                             {"", "", ""},
		"GET /?flav=rss20":                  {"", "flav=rss20", ""},
		"HEAD /index.html":                  {"", "", ""},
		"GET /a/b?x=1&y=2#top":              {"/a/b", "x=1&y=2", ""},
		"GET http://example.com/a?x=1":      {"/a", "x=1", ""},
		"GET http://example.com":            {"", "", ""},
		"GET http://example.com?x=1":        {"", "x=1", ""},
		"GET /caf\xc3\xa9 au%20lait?\"=\\":  {"/caf%C3%A9%20au%20lait", "%22=%5C", ""},
		"GET /100%?50%z":                    {"/100%25", "50%25z", ""},
		"POST /a":                           {"", "", "POST is not a visit"},
		"OPTIONS *":                         {"", "", "OPTIONS is not a visit"},
		"GET *":                             {"", "", noPath},
		"GET /" + strings.Repeat("x", 1900): {"", "", longPath},
	} {
		method, rest, _ := strings.Cut(target, " ")
		path, query, reason := visitOf(accesslog.Entry{Method: method, Target: rest})
		require.Equal(t, want, [3]string{path, query, reason}, target)
	}
	_, _, reason := visitOf(accesslog.Entry{Request: "\x16\x03"})
	require.Equal(t, noHTTP, reason)
}

func TestThePlanAddsUp(t *testing.T) {
	const file = "testdata/apache_logs"
	p, err := readPlan(file, 10_000)
	require.NoError(t, err)
	require.Equal(t, 407, p.lines)
	require.Equal(t, map[string]int{
		"POST is not a visit": 5, "OPTIONS is not a visit": 1, noHTTP: 1, accesslog.ErrFields.Error(): 1, accesslog.ErrQuotes.Error(): 1,
	}, p.leftOut)
	require.Equal(t, p.lines, p.visits()+sum(p.leftOut))
	require.Equal(t, 16, p.head)

	sent := 0
	require.NoError(t, p.eachVisit(file, func(r visit.Request, path string) error {
		sent++
		return nil
	}))
	require.Equal(t, p.visits(), sent)

	few, err := readPlan(file, 5)
	require.NoError(t, err)
	require.Equal(t, append(p.links[:4:4], others), few.links)
	require.Equal(t, p.visits(), few.visits())
	byLink := map[string]int{}
	require.NoError(t, few.eachVisit(file, func(_ visit.Request, link string) error {
		byLink[link]++
		return nil
	}))
	require.Len(t, byLink, 6)
	require.Equal(t, few.views, byLink[""])
	require.Equal(t, few.clicks, sum(byLink)-byLink[""])
	require.Greater(t, byLink[few.links[0]], byLink[few.links[3]])
}

func TestVisitsCarryTheLinesHeaders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(file, []byte(
		`2001:db8::7 - - [17/May/2015:10:05:03 +0000] "HEAD /a?q=1 HTTP/1.1" 200 5 "http://from.example/" "Agent/1 \"x\""`+"\n"+
			`some.host - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5 "-" "-"`+"\n"+
			`1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 5 "-" "line\nbreak"`+"\n"), 0o600))
	p, err := readPlan(file, 10)
	require.NoError(t, err)
	require.Equal(t, map[string]int{badHeader: 1}, p.leftOut)
	var got []visit.Request
	require.NoError(t, p.eachVisit(file, func(r visit.Request, path string) error {
		got = append(got, r)
		return nil
	}))
	require.Equal(t, []visit.Request{
		{Method: "HEAD", Target: "q=1", UserAgent: `Agent/1 "x"`, Referrer: "http://from.example/", ForwardedFor: "2001:db8::7"},
		{Method: "GET"},
	}, got)
}

func TestTheConfigurationIsChecked(t *testing.T) {
	good := Config{File: "x", Visitors: "http://127.0.0.1:8080", API: "http://127.0.0.1:8081", Token: "t", Site: "https://example.com"}
	_, err := New(good, &strings.Builder{}, nil)
	require.NoError(t, err)
	for cure, spoil := range map[string]func(*Config){
		"--visitors-url": func(c *Config) { c.Visitors = "127.0.0.1:8080" },
		"--api-url":      func(c *Config) { c.API = "" },
		"--site":         func(c *Config) { c.Site = "example.com" },
		"--connections":  func(c *Config) { c.Connections = -1 },
		"spillway run":   func(c *Config) { c.Token, c.Data = "", t.TempDir() },
	} {
		broken := good
		spoil(&broken)
		_, err := New(broken, &strings.Builder{}, nil)
		require.ErrorContains(t, err, cure)
	}
}

// The numbers must be able to say no: one click too few, on the wrong link, or in the wrong class.
func TestNumbersThatDoNotAddUpAreRefused(t *testing.T) {
	setting := func() (*plan, *page, *sent, creator.Counts) {
		p := &plan{lines: 10, views: 3, clicks: 5, head: 1, leftOut: map[string]int{noHTTP: 2}, paths: 2, links: []string{"/a", "/b"}}
		s := newSent()
		s.answered, s.views, s.head, s.clicks = 8, 3, 1, map[string]int{"/a": 4, "/b": 1}
		c := creator.Counts{
			Views: map[string]int{"person": 2, "bot": 1}, Clicks: map[string]int{"person": 4, "head": 1}, Links: map[string]int{"1": 4, "2": 1},
		}
		return p, &page{handle: "h", links: map[string]creator.Link{"/a": {ID: "1"}, "/b": {ID: "2"}}}, s, c
	}
	for name, spoil := range map[string]func(*sent, creator.Counts){
		"":            func(*sent, creator.Counts) {},
		"views":       func(_ *sent, c creator.Counts) { c.Views["bot"]++ },
		"clicks":      func(_ *sent, c creator.Counts) { c.Clicks["person"]-- },
		"HEAD":        func(_ *sent, c creator.Counts) { c.Clicks["person"]++; c.Clicks["head"]-- },
		"link /a":     func(_ *sent, c creator.Counts) { c.Links["1"]--; c.Links["2"]++ },
		"not served":  func(s *sent, _ creator.Counts) { s.refused["status 503"] = 1 },
		"got no answ": func(s *sent, _ creator.Counts) { s.unanswered["timeout"] = 1 },
	} {
		plan, page, sent, counted := setting()
		spoil(sent, counted)
		var out strings.Builder
		r := &Replay{config: Config{File: "log"}, out: &out, progress: &progress{}}
		err := r.report(plan, page, sent, counted, 0)
		if name == "" {
			require.NoError(t, err)
			require.Contains(t, out.String(), "10 lines = 2 left out + 3 views + 5 clicks")
			continue
		}
		require.ErrorIs(t, err, ErrDoesNotAddUp)
		require.ErrorContains(t, err, name)
	}
}
