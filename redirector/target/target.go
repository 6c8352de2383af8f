// Package target makes the address that a link leads to out of three things: the link's target, its UTM settings and the visitor's
// own query string. What is not touched keeps its bytes: nothing is decoded and encoded again.
//
// Names of parameters are compared decoded ("utm%5Fsource" is utm_source), values never. Only what no URL may contain is
// changed: control characters, spaces, non-ASCII bytes, quotes and the like are percent-encoded, and so is a percent sign that
// begins no escape. So a target is always fit for a Location header, whatever was stored or sent.
package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
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

// Target is prepared once and then asked by every visitor. It is not changed any more and may be used by many at once. There may be millions, so
// it has no pointers but into two pieces of bytes, and can be laid over them wherever they are kept (Tail, Over).
type Target struct {
	plain     []byte // what a visitor without a query string gets: the base, then the fragment with its "#", if any
	names     []byte // where in the base a parameter of each name begins, two bytes each, ordered by the decoded names
	query     uint16 // where the base's first parameter begins; the base's end when there is none
	fragment  uint16 // where the base ends
	mode      Mode
	separator byte // what stands between the base and one more parameter; zero: nothing
}

// Prepare checks the settings and does whatever does not depend on the visitor.
func Prepare(s Settings) (Target, error) {
	if len(s.URL) > MaxURL {
		return Target{}, fmt.Errorf("target of %d bytes: at most %d", len(s.URL), MaxURL)
	}
	origin, rest, err := split(s.URL)
	if err != nil {
		return Target{}, err
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

	base := appendSafe(append([]byte(nil), origin...), path)
	if hasQuery {
		base = append(base, '?')
	}
	first, between := len(base), ""
	named := map[string]int{} // name → where a parameter of it begins
	for segment := range segments(query) {
		name := string(appendName(nil, segment))
		if s.Mode == Override && own[name] {
			continue
		}
		base = append(base, between...)
		if _, known := named[name]; !known && segment != "" { // empty segments have no name
			named[name] = len(base)
		}
		base = appendSafe(base, segment)
		between = "&"
	}
	for _, p := range settings {
		if _, taken := named[p.name]; taken || p.value == "" {
			continue
		}
		if c := separator(base, first); c != 0 {
			if base = append(base, c); c == '?' {
				first = len(base)
			}
		}
		named[p.name] = len(base)
		base = append(append(append(base, p.name...), '='), url.QueryEscape(p.value)...)
	}
	end := len(base)
	plain := base
	if hasFragment {
		plain = appendSafe(append(base, '#'), fragment)
	}
	if len(plain) > math.MaxUint16 {
		return Target{}, fmt.Errorf("target of %d bytes when it is encoded: at most %d", len(plain), math.MaxUint16)
	}
	if s.Mode == Off {
		return Target{plain: plain}, nil
	}
	t := Target{plain: plain, query: uint16(first), fragment: uint16(end), mode: s.Mode, separator: separator(plain[:end], first)}
	begins := slices.Collect(maps.Values(named))
	slices.SortFunc(begins, func(a, b int) int { return compareNames(base[a:end], base[b:end]) })
	for _, at := range begins {
		t.names = binary.LittleEndian.AppendUint16(t.names, uint16(at))
	}
	return t, nil
}

// separator returns what stands between a base, whose first parameter begins at first, and one more parameter; zero: nothing.
func separator(base []byte, first int) byte {
	switch last := base[len(base)-1]; {
	case first == len(base) && last != '?':
		return '?'
	case first == len(base) || last == '&':
		return 0
	default:
		return '&'
	}
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

// tailHeader is the length of what a tail has before the names: mode, separator, query and fragment.
const tailHeader = 1 + 1 + 2 + 2

// Tail appends what a target is beside its plain address, for Over: nothing when the visitor's query string is dropped.
func (t *Target) Tail(b []byte) []byte {
	if t.mode == Off {
		return b
	}
	b = binary.LittleEndian.AppendUint16(append(b, byte(t.mode), t.separator), t.query)
	return append(binary.LittleEndian.AppendUint16(b, t.fragment), t.names...)
}

// Over lays a target over the bytes of another one's plain address and tail, which are not changed any more. Nothing is allocated.
func Over(plain, tail []byte) Target {
	if len(tail) < tailHeader {
		return Target{plain: plain}
	}
	return Target{
		plain: plain, names: tail[tailHeader:], mode: Mode(tail[0]), separator: tail[1],
		query: binary.LittleEndian.Uint16(tail[2:]), fragment: binary.LittleEndian.Uint16(tail[4:]),
	}
}

// find returns the number of a parameter's name among the base's names.
func (t *Target) find(segment []byte) (number int, found bool) {
	if len(segment) == 0 {
		return 0, false
	}
	low, high := 0, len(t.names)/2
	for low < high {
		middle := (low + high) / 2
		switch c := compareNames(t.plain[binary.LittleEndian.Uint16(t.names[2*middle:]):t.fragment], segment); {
		case c == 0:
			return middle, true
		case c < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return 0, false
}

// Plain returns the address for a visitor without a query string. It must not be changed.
func (t *Target) Plain() []byte { return t.plain }

// numbers is a set of names by their number; a URL of MaxURL bytes has fewer than 64 × 64 parameters.
type numbers [MaxURL/2/64 + 1]uint64

// Append appends the address for a visitor who came with a query string (without its "?", as sent). Parameters that are Spillway's
// own (see Marks) are left out. Nothing is allocated but what dst needs to grow.
func (t *Target) Append(dst, query []byte) []byte {
	if t.mode == Off || len(query) == 0 {
		return append(dst, t.plain...)
	}
	var replaced numbers
	collides := false
	if t.mode == Override && len(t.names) > 0 {
		for segment := range segments(query) {
			if foreign(segment) {
				if n, taken := t.find(segment); taken {
					replaced[n/64] |= 1 << (n % 64)
					collides = true
				}
			}
		}
	}
	base, separator := t.plain[:t.fragment], t.separator
	if !collides {
		dst = append(dst, base...)
	} else {
		dst = append(dst, base[:t.query]...)
		separator = 0
		for segment := range segments(base[t.query:]) {
			if n, named := t.find(segment); named && replaced[n/64]&(1<<(n%64)) != 0 {
				continue
			}
			dst = append(appendByte(dst, separator), segment...)
			separator = '&'
		}
	}
	for segment := range segments(query) {
		if !foreign(segment) {
			continue
		}
		if t.mode == Append {
			if _, taken := t.find(segment); taken {
				continue
			}
		}
		dst = appendSafe(appendByte(dst, separator), segment)
		separator = '&'
	}
	return append(dst, t.plain[t.fragment:]...)
}

// appendByte appends c unless it is zero.
func appendByte(dst []byte, c byte) []byte {
	if c == 0 {
		return dst
	}
	return append(dst, c)
}

// foreign tells whether a segment of the visitor's query is a parameter, and not one of ours.
func foreign(segment []byte) bool { return len(segment) > 0 && !ours(segment) }
