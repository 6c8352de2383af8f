// Package target makes the address that a link leads to out of three things: the link's target, its UTM settings and the visitor's
// own query string. What is not touched keeps its bytes: nothing is decoded and encoded again.
//
// Names of parameters are compared decoded ("utm%5Fsource" is utm_source), values never. Only what no URL may contain is
// changed: control characters, spaces, non-ASCII bytes, quotes and the like are percent-encoded, and so is a percent sign that
// begins no escape. So a target is always fit for a Location header, whatever was stored or sent.
package target

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/idna"
)

// Mode says what becomes of the visitor's own query string.
type Mode uint8

const (
	// Off drops the visitor's query string.
	Off Mode = iota
	// Append adds the visitor's parameters that the target has not.
	Append
	// Override adds the visitor's parameters in place of the target's of the same name.
	Override
)

// ParseMode reads a mode as the database stores it: "off", "append" or "override".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "off":
		return Off, nil
	case "append":
		return Append, nil
	case "override":
		return Override, nil
	}
	return Off, fmt.Errorf("query mode %q: not off, append or override", s)
}

// UTM are a link's own campaign parameters. An empty one is not written.
type UTM struct {
	Source, Medium, Campaign, Term, Content string
}

// Settings are what a creator set for a link.
type Settings struct {
	// URL is an absolute http or https address of at most MaxURL bytes. It may have a query and a fragment.
	URL  string
	Mode Mode
	// UTM is written into the target. The target's own parameter of the same name wins with Off and Append and loses with Override.
	UTM UTM
}

// MaxURL is the greatest length of a target, in bytes.
const MaxURL = 8 << 10

// Target is prepared once and then asked by every visitor. It is not changed any more and may be used by many at once. There may be millions:
// what only a visitor's query string needs is kept only where it counts.
type Target struct {
	plain []byte // what a visitor without a query string gets
	merge *merge // nil: the visitor's query string is dropped
}

// merge puts a visitor's query string into a target.
type merge struct {
	mode      Mode
	base      []byte // plain without its fragment
	fragment  []byte // with its "#"; empty when there is none
	separator string // what stands between base and one more parameter
	query     int    // where base's first parameter begins; len(base) when there is none
	names     map[string]int
}

// Prepare checks the settings and does whatever does not depend on the visitor.
func Prepare(s Settings) (*Target, error) {
	if len(s.URL) > MaxURL {
		return nil, fmt.Errorf("target of %d bytes: at most %d", len(s.URL), MaxURL)
	}
	origin, rest, err := split(s.URL)
	if err != nil {
		return nil, err
	}
	rest, fragment, hasFragment := strings.Cut(rest, "#")
	path, query, hasQuery := strings.Cut(rest, "?")

	settings := []struct{ name, value string }{
		{"utm_source", s.UTM.Source}, {"utm_medium", s.UTM.Medium}, {"utm_campaign", s.UTM.Campaign},
		{"utm_term", s.UTM.Term}, {"utm_content", s.UTM.Content},
	}
	own := make(map[string]bool, len(settings))
	for _, p := range settings {
		own[p.name] = p.value != ""
	}

	t := &merge{mode: s.Mode}
	t.base = appendSafe(append(t.base, origin...), path)
	if hasQuery {
		t.base = append(t.base, '?')
	}
	t.query = len(t.base)
	var scratch [64]byte
	between := ""
	for segment := range segments(query) {
		name := string(appendName(scratch[:0], segment))
		if s.Mode == Override && own[name] {
			continue
		}
		t.base = appendSafe(append(t.base, between...), segment)
		between = "&"
		t.remember(name, segment)
	}
	t.separate()
	for _, p := range settings {
		if _, taken := t.names[p.name]; taken || p.value == "" {
			continue
		}
		if t.separator == "?" {
			t.query = len(t.base) + 1
		}
		t.base = append(t.base, t.separator...)
		t.base = append(t.base, p.name...)
		t.base = append(t.base, '=')
		t.base = append(t.base, url.QueryEscape(p.value)...)
		t.remember(p.name, p.name)
		t.separate()
	}
	if hasFragment {
		t.fragment = appendSafe([]byte{'#'}, fragment)
	}
	plain := append(append(make([]byte, 0, len(t.base)+len(t.fragment)), t.base...), t.fragment...)
	if s.Mode == Off {
		return &Target{plain: plain}, nil
	}
	t.base, t.fragment = plain[:len(t.base):len(t.base)], plain[len(t.base):]
	return &Target{plain: plain, merge: t}, nil
}

// split checks scheme and host and returns them apart from the rest.
func split(raw string) (origin, rest string, err error) {
	for i := range len(raw) {
		if raw[i] < ' ' || raw[i] == 0x7f {
			return "", "", errors.New("target has a control character")
		}
	}
	scheme, after, found := strings.Cut(raw, "://")
	if !found || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", "", errors.New("target is not an http or https address")
	}
	end := strings.IndexAny(after, "/?#")
	if end < 0 {
		end = len(after)
	}
	authority, rest := after[:end], after[end:]
	user, host, hasUser := cutLast(authority, "@")
	if !hasUser {
		host = authority
	}
	if host, err = asciiHost(host); err != nil {
		return "", "", err
	}
	if hasUser {
		host = user + "@" + host
	}
	origin = scheme + "://" + host
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() == "" {
		return "", "", errors.New("target has no valid host")
	}
	return origin, rest, nil
}

// asciiHost writes an international name the way a Location header needs it and leaves every other host as it is.
func asciiHost(host string) (string, error) {
	ascii := true
	for i := range len(host) {
		ascii = ascii && host[i] < 0x80
	}
	if ascii {
		return host, nil
	}
	name, port, hasPort := cutLast(host, ":")
	if !hasPort {
		name = host
	}
	name, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("target's host: %w", err)
	}
	if hasPort {
		name += ":" + port
	}
	return name, nil
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// Within has t use the bytes of b for its own, if they stand there, so that they are in memory once. It is called before t is used by others, and b
// is not changed any more. It tells whether it was so.
func (t *Target) Within(b []byte) bool {
	at := bytes.Index(b, t.plain)
	if at < 0 {
		return false
	}
	t.plain = b[at : at+len(t.plain) : at+len(t.plain)]
	if m := t.merge; m != nil {
		m.base, m.fragment = t.plain[:len(m.base):len(m.base)], t.plain[len(m.base):]
	}
	return true
}

// Merges tells whether the visitor's query string changes the address. A nil t does not.
func (t *Target) Merges() bool { return t != nil && t.merge != nil }

// remember gives every name of the base a number. Empty segments have no name.
func (t *merge) remember(name, segment string) {
	if segment == "" {
		return
	}
	if t.names == nil {
		t.names = map[string]int{}
	}
	if _, known := t.names[name]; !known {
		t.names[name] = len(t.names)
	}
}

func (t *merge) separate() {
	switch last := t.base[len(t.base)-1]; {
	case t.query == len(t.base) && last != '?':
		t.separator = "?"
	case t.query == len(t.base) || last == '&':
		t.separator = ""
	default:
		t.separator = "&"
	}
}

// Plain returns the address for a visitor without a query string. It must not be changed.
func (t *Target) Plain() []byte { return t.plain }

// numbers is a set of names by their number; a URL of MaxURL bytes has fewer than 64 × 64 parameters.
type numbers [MaxURL/2/64 + 1]uint64

// Append appends the address for a visitor who came with a query string (without its "?", as sent). Parameters that are Spillway's
// own (see Marks) are left out. Nothing is allocated but what dst needs to grow.
func (t *Target) Append(dst, query []byte) []byte {
	if t.merge == nil || len(query) == 0 {
		return append(dst, t.plain...)
	}
	return t.merge.append(dst, query)
}

func (t *merge) append(dst, query []byte) []byte {
	var scratch [64]byte
	var replaced numbers
	collides := false
	if t.mode == Override && len(t.names) > 0 {
		for segment := range segments(query) {
			if foreign(segment) {
				if n, taken := t.names[string(appendName(scratch[:0], segment))]; taken {
					replaced[n/64] |= 1 << (n % 64)
					collides = true
				}
			}
		}
	}
	separator := t.separator
	if !collides {
		dst = append(dst, t.base...)
	} else {
		dst = append(dst, t.base[:t.query]...)
		separator = ""
		for segment := range segments(t.base[t.query:]) {
			if n, named := t.names[string(appendName(scratch[:0], segment))]; named && len(segment) > 0 && replaced[n/64]&(1<<(n%64)) != 0 {
				continue
			}
			dst = append(append(dst, separator...), segment...)
			separator = "&"
		}
	}
	for segment := range segments(query) {
		if !foreign(segment) {
			continue
		}
		if t.mode == Append {
			if _, taken := t.names[string(appendName(scratch[:0], segment))]; taken {
				continue
			}
		}
		dst = appendSafe(append(dst, separator...), segment)
		separator = "&"
	}
	return append(dst, t.fragment...)
}

// foreign tells whether a segment of the visitor's query is a parameter, and not one of ours.
func foreign(segment []byte) bool { return len(segment) > 0 && !ours(segment) }
