package target

import (
	"bytes"
	"math"
	"unicode"
	"unicode/utf8"
)

// Parameters of Spillway's own. Every name that begins with "sw_" belongs to Spillway: it is read where it means something and
// never reaches a target.
const (
	// PlaceParameter is the creator's private source tag: sw_place=newsletter says where the link stands. It is counted.
	PlaceParameter = "sw_place"
	// PageParameter is on the links of a profile page: the page's version. Its presence says that the click came from the page.
	PageParameter = "sw_page"
	// QRParameter is in the address that a QR code shows. Its presence says that the code was scanned.
	QRParameter = "sw_qr"
	// ReferrerParameter is the page's own referrer, handed on by its view beacon.
	ReferrerParameter = "sw_ref"
	// OwnerParameter hands a browser the proof that it is the owner's (see package owner).
	OwnerParameter = "sw_owner"
)

const prefix = "sw_"

// MaxPlace is the greatest length of a place, in bytes; more is cut off.
const MaxPlace = 64

// Marks are what a query string says to Spillway itself. The slices point into the buffer that ReadMarks filled, or into the query.
type Marks struct {
	Place    []byte // decoded, valid UTF-8 without control characters, at most MaxPlace bytes
	Referrer []byte // decoded, as sent
	Owner    []byte // as sent
	Layout   uint32 // version of the page that the click came from; zero: not said
	Page     bool
	QR       bool
	Any      bool // the query has at least one parameter of ours
}

func ours(segment []byte) bool {
	return len(segment) >= len(prefix) && string(segment[:len(prefix)]) == prefix
}

// ReadMarks reads the marks of a query string. What it decodes is appended to buffer, which is returned for the next use. The first
// of two parameters of the same name counts.
func ReadMarks(query, buffer []byte) (Marks, []byte) {
	var m Marks
	if !bytes.Contains(query, []byte(prefix)) {
		return m, buffer
	}
	for segment := range segments(query) {
		if !ours(segment) {
			continue
		}
		m.Any = true
		name, value, _ := bytes.Cut(segment, []byte{'='})
		switch string(name) {
		case PlaceParameter:
			if m.Place == nil {
				start := len(buffer)
				buffer = appendValue(buffer, segment)
				m.Place = cleanPlace(buffer[start:])
			}
		case ReferrerParameter:
			if m.Referrer == nil {
				start := len(buffer)
				buffer = appendValue(buffer, segment)
				m.Referrer = buffer[start:len(buffer):len(buffer)]
			}
		case OwnerParameter:
			m.Owner = value
		case PageParameter:
			m.Page = true
			m.Layout = number(value)
		case QRParameter:
			m.QR = true
		}
	}
	return m, buffer
}

// AppendForeign appends the query without the parameters of ours.
func AppendForeign(dst, query []byte) []byte {
	start := len(dst)
	for segment := range segments(query) {
		if ours(segment) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, '&')
		}
		dst = append(dst, segment...)
	}
	return dst
}

// cleanPlace makes a place fit for being shown, in its own memory.
func cleanPlace(b []byte) []byte {
	out := b[:0]
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if len(out)+n > MaxPlace {
			break
		}
		if !(r == utf8.RuneError && n == 1) && !unicode.IsControl(r) {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out[:len(out):len(out)]
}

// number reads a decimal number; zero when it is none or too large.
func number(b []byte) uint32 {
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' || n > math.MaxUint32/10 {
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	if n > math.MaxUint32 {
		return 0
	}
	return uint32(n)
}
