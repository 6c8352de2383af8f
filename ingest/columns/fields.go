package columns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields are one encoded event's fields: a place on the stack that is used again for each event. A field may be absent or come twice on
// the wire, so a row can be appended only when the whole event was read. Numbers are by the field's number in spillway.event.Event; of a
// text it is where it stands in the event, its beginning in the upper half.
type fields struct {
	encoded []byte
	of      [lastField + 1]uint64
}

// Numbers of spillway.event.Event's fields.
const (
	fieldTime      = 1
	fieldKind      = 2
	fieldClass     = 3
	fieldProfile   = 4
	fieldLink      = 5
	fieldVisitor   = 6
	fieldDate      = 7
	fieldSurface   = 8
	fieldPlace     = 9
	fieldVariant   = 10
	fieldLayout    = 11
	fieldCountry   = 12
	fieldUserAgent = 13
	fieldReferrer  = 14
	fieldQuery     = 15
	fieldHost      = 16
	fieldLanguage  = 17
	fieldReason    = 18
	fieldRules     = 19
	fieldSuspect   = 20
	lastField      = fieldSuspect
)

// textual has a bit for each field of type string.
const textual = 1<<fieldPlace | 1<<fieldVariant | 1<<fieldCountry | 1<<fieldUserAgent | 1<<fieldReferrer | 1<<fieldQuery | 1<<fieldHost | 1<<fieldLanguage | 1<<fieldReason

// text is the text of a field.
func (f *fields) text(field int) []byte {
	at := f.of[field]
	return f.encoded[at>>32 : uint32(at) : uint32(at)]
}

var errWireType = errors.New("wire type does not fit")

// read reads an event. Lengths and numbers of one byte, which most are, are read here; all others by protowire.
func (f *fields) read(encoded []byte) error {
	f.encoded, f.of = encoded, [lastField + 1]uint64{}
	for at := 0; at < len(encoded); {
		start, tag := at, uint64(encoded[at])
		if tag < 0x80 {
			at++
		} else {
			var n int
			if tag, n = protowire.ConsumeVarint(encoded[at:]); n < 0 {
				return fmt.Errorf("field tag: %w", protowire.ParseError(n))
			}
			at += n
		}
		number, kind := tag>>3, protowire.Type(tag&7)
		if number-1 >= lastField { // 0 too
			// Of a later version, or none.
			_, _, n := protowire.ConsumeField(encoded[start:])
			if n < 0 {
				return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
			}
			at = start + n
			continue
		}
		switch {
		case textual>>number&1 == 1:
			if kind != protowire.BytesType {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			length := uint64(0)
			if at < len(encoded) && encoded[at] < 0x80 {
				length = uint64(encoded[at])
				at++
			} else {
				var n int
				if length, n = protowire.ConsumeVarint(encoded[at:]); n < 0 {
					return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
				}
				at += n
			}
			if length > uint64(len(encoded)-at) {
				return fmt.Errorf("field %d: %w", number, io.ErrUnexpectedEOF)
			}
			from := at
			at += int(length)
			f.of[number] = uint64(from)<<32 | uint64(at)
		case number == fieldVisitor:
			if kind != protowire.Fixed64Type {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			if len(encoded)-at < 8 {
				return fmt.Errorf("field %d: %w", number, io.ErrUnexpectedEOF)
			}
			f.of[number] = binary.LittleEndian.Uint64(encoded[at:])
			at += 8
		default:
			if kind != protowire.VarintType {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			if at < len(encoded) && encoded[at] < 0x80 {
				f.of[number] = uint64(encoded[at])
				at++
				continue
			}
			v, n := protowire.ConsumeVarint(encoded[at:])
			if n < 0 {
				return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
			}
			f.of[number] = v
			at += n
		}
	}
	return nil
}

// safe cuts a text to limit bytes at a character's end and replaces what is no UTF-8, in scratch.
func safe(text []byte, limit int, scratch *[]byte) []byte {
	if len(text) > limit {
		text = text[:limit]
		for cut := len(text); cut > limit-utf8.UTFMax && cut > 0; cut-- {
			if utf8.RuneStart(text[cut-1]) {
				if !utf8.FullRune(text[cut-1:]) {
					text = text[:cut-1]
				}
				break
			}
		}
	}
	if utf8.Valid(text) {
		return text
	}
	from := len(*scratch)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		*scratch = utf8.AppendRune(*scratch, r)
		text = text[n:]
	}
	return (*scratch)[from:len(*scratch):len(*scratch)]
}
