// Package rules are the operator's own rules about who a visitor is: by user agent, network or header, in a file that is read while
// Spillway runs. The redirector judges each visit by them, and `spillway rules` tries and applies them to visits of the past.
//
//	rules:
//	  - name: our office               # stands in the reason of what it decides: "rule: our office"
//	    network: [192.0.2.0/24, "2001:db8::/32"]
//	    class: test
//	  - name: uptime checks
//	    user_agent: uptimecheck        # is somewhere in the user agent, in upper or lower case
//	    class: bot
//	  - name: mail gateway
//	    user_agent: {regexp: '^Mozilla/5\.0 \(X11; Linux x86_64\)$'}
//	    header: {name: X-Scan, contains: gateway}
//	    class: scanner
//
// All conditions of a rule must hold, and the first rule that holds decides. Class is one of person, bot, preview, prefetch, scanner,
// owner and test; person takes back what the built-in lists would say. What a request says of itself (HEAD, a prefetch, the owner's
// own browser) comes before any rule.
package rules

import (
	"net/netip"
	"regexp"
	"strings"

	"spillway.dev/schemas/event"
)

// ReasonPrefix begins the reason of what a rule decided; the rule's name follows.
const ReasonPrefix = "rule: "

// Rule is one of the operator's rules.
type Rule struct {
	Name  string
	Class event.Class
	// Line is where it begins in its file, from 1.
	Line int

	reason   string
	agent    *text          // nil: any
	networks []netip.Prefix // empty: any
	header   *header        // nil: any
}

// Reason is what stands in the event that the rule decided.
func (r *Rule) Reason() string { return r.reason }

// ClassName is the class as it is written in files and tables.
func (r *Rule) ClassName() string {
	for name, class := range classNames() {
		if class == r.Class {
			return name
		}
	}
	return "unknown"
}

// ByAgent says that the rule looks at the user agent only, so that it can be tried on the past: addresses and headers are never kept.
func (r *Rule) ByAgent() bool { return len(r.networks) == 0 && r.header == nil }

// MatchesAgent says whether the rule's condition on the user agent holds, or there is none.
func (r *Rule) MatchesAgent(agent string) bool { return r.agent == nil || r.agent.in(agent) }

// text is a condition on a text: it contains something, or matches a regular expression.
type text struct {
	contains string // lower-case ASCII where it has letters
	regexp   *regexp.Regexp
}

func (t *text) in(s string) bool {
	if t.regexp != nil {
		return t.regexp.MatchString(s)
	}
	return containsFold(s, t.contains)
}

func (t *text) inBytes(b []byte) bool {
	if t.regexp != nil {
		return t.regexp.Match(b)
	}
	return containsFold(b, t.contains)
}

// header is a condition on a header's value. Any of several lines of that name will do.
type header struct {
	name  string
	value *text // nil: the header is there
}

// Headers gives the lines of one header of a request; a name is in canonical form ("X-Scan"). What it returns is not kept.
type Headers interface {
	PeekAll(name string) [][]byte
}

// Visit is what rules look at.
type Visit struct {
	// UserAgent as it is stored, cut to 512 bytes, so that past visits are judged like new ones.
	UserAgent string
	// Address is the visitor's own, behind trusted proxies.
	Address netip.Addr
	Headers Headers
}

// Set is the content of a rules file. The zero value has no rules. It is not changed any more, and may be used by many at once.
type Set struct {
	rules []Rule
	hash  string
	file  uint32
}

// Rules returns the rules in their order.
func (s *Set) Rules() []Rule { return s.rules }

// Hash names the content of the file: the first eight digits of its SHA-256, empty without a file.
func (s *Set) Hash() string { return s.hash }

// Match returns the first rule that holds, or nil. It allocates nothing.
func (s *Set) Match(v Visit) *Rule {
	for i := range s.rules {
		if r := &s.rules[i]; r.MatchesAgent(v.UserAgent) && r.inNetwork(v.Address) && r.hasHeader(v.Headers) {
			return r
		}
	}
	return nil
}

// MatchAgent returns the first rule that looks at the user agent only and holds, or nil.
func (s *Set) MatchAgent(agent string) *Rule {
	for i := range s.rules {
		if r := &s.rules[i]; r.ByAgent() && r.MatchesAgent(agent) {
			return r
		}
	}
	return nil
}

// Decided returns the rule that gave a reason, or nil if no rule of the set did.
func (s *Set) Decided(reason string) *Rule {
	for i := range s.rules {
		if s.rules[i].reason == reason {
			return &s.rules[i]
		}
	}
	return nil
}

func (r *Rule) inNetwork(a netip.Addr) bool {
	if len(r.networks) == 0 {
		return true
	}
	for _, n := range r.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (r *Rule) hasHeader(h Headers) bool {
	if r.header == nil {
		return true
	}
	if h == nil {
		return false
	}
	for _, line := range h.PeekAll(r.header.name) {
		if r.header.value == nil || r.header.value.inBytes(line) {
			return true
		}
	}
	return false
}

// fileVersions is how many numbers there are for the content of files; the built-in rules' version counts above them.
const fileVersions = 1_000_000

// Version is the rules_version of an event: the version of the built-in rules × 1 000 000 + a number from 1 to 999 999 made of the
// file's content, or 0 without a file.
func (s *Set) Version(builtIn uint32) uint32 { return builtIn*fileVersions + s.fileNumber() }

func (s *Set) fileNumber() uint32 {
	if s == nil {
		return 0
	}
	return s.file
}

// Rebase returns version with that of the built-in rules replaced: those that decided in the end. Versions below 1 000 000 were
// written before there were files.
func Rebase(version, builtIn uint32) uint32 {
	if version < fileVersions {
		return builtIn * fileVersions
	}
	return builtIn*fileVersions + version%fileVersions
}

// Is says whether a rule gave this reason.
func Is[T ~string | ~[]byte](reason T) bool {
	return len(reason) > len(ReasonPrefix) && string(reason[:len(ReasonPrefix)]) == ReasonPrefix
}

// containsFold says whether s contains lower, whose ASCII letters are lower-case, in any case.
func containsFold[T ~string | ~[]byte](s T, lower string) bool {
	if lower == "" {
		return true
	}
	first := lower[0]
	for i := 0; i+len(lower) <= len(s); i++ {
		if fold(s[i]) != first {
			continue
		}
		k := 1
		for k < len(lower) && fold(s[i+k]) == lower[k] {
			k++
		}
		if k == len(lower) {
			return true
		}
	}
	return false
}

func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
