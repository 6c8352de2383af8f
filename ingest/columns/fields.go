package columns

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields are one encoded event's fields, still where they stand: a place on the stack that is used again for each event. A field may
// be absent or come twice on the wire, so a row can be appended only when the whole event was read.
type fields struct {
	time                                        int64
	kind, class, surface                        uint64
	profile, link, visitor                      uint64
	date, layout, rules                         uint64
	suspect                                     bool
	place, variant, country, language           []byte
	userAgent, referrer, query, host, reasonFor []byte
}

var errWireType = errors.New("wire type does not fit")

func (f *fields) read(encoded []byte) error {
	*f = fields{}
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeTag(encoded)
		if n < 0 {
			return fmt.Errorf("field tag: %w", protowire.ParseError(n))
		}
		encoded = encoded[n:]
		var (
			number64 uint64
			text     []byte
		)
		switch {
		case number > 20:
			if n = protowire.ConsumeFieldValue(number, kind, encoded); n < 0 {
				return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
			}
			encoded = encoded[n:]
			continue
		case number == 6:
			if kind != protowire.Fixed64Type {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			number64, n = protowire.ConsumeFixed64(encoded)
		case textual>>number&1 == 1:
			if kind != protowire.BytesType {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			text, n = protowire.ConsumeBytes(encoded)
		default:
			if kind != protowire.VarintType {
				return fmt.Errorf("field %d: %w", number, errWireType)
			}
			number64, n = protowire.ConsumeVarint(encoded)
		}
		if n < 0 {
			return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
		}
		encoded = encoded[n:]
		switch number { // of spillway.event.Event
		case 1:
			f.time = int64(number64)
		case 2:
			f.kind = number64
		case 3:
			f.class = number64
		case 4:
			f.profile = number64
		case 5:
			f.link = number64
		case 6:
			f.visitor = number64
		case 7:
			f.date = number64
		case 8:
			f.surface = number64
		case 9:
			f.place = text
		case 10:
			f.variant = text
		case 11:
			f.layout = number64
		case 12:
			f.country = text
		case 13:
			f.userAgent = text
		case 14:
			f.referrer = text
		case 15:
			f.query = text
		case 16:
			f.host = text
		case 17:
			f.language = text
		case 18:
			f.reasonFor = text
		case 19:
			f.rules = number64
		case 20:
			f.suspect = number64 != 0
		}
	}
	return nil
}

// textual has a bit for each field of type string.
const textual = 1<<9 | 1<<10 | 1<<12 | 1<<13 | 1<<14 | 1<<15 | 1<<16 | 1<<17 | 1<<18

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
