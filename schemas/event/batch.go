package event

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Tags of EventBatch's fields, as they stand on the wire.
const (
	tagStream        = 1<<3 | byte(protowire.Fixed64Type)
	tagFirstSequence = 2<<3 | byte(protowire.VarintType)
	tagEvent         = 3<<3 | byte(protowire.BytesType)
	tagAnnouncement  = 4<<3 | byte(protowire.BytesType)
)

// MaxHeader is the most bytes that AppendHeader appends.
const MaxHeader = 1 + 8 + 1 + binary.MaxVarintLen64

// AppendHeader appends the fields of an EventBatch that precede its events. What AppendEvent made may follow it directly.
func AppendHeader(dst []byte, stream, firstSequence uint64) []byte {
	dst = append(dst, tagStream)
	dst = binary.LittleEndian.AppendUint64(dst, stream)
	if firstSequence != 0 {
		dst = append(dst, tagFirstSequence)
		dst = protowire.AppendVarint(dst, firstSequence)
	}
	return dst
}

// AppendEvent appends e as one element of EventBatch.events: the form in which the journal stores it.
func AppendEvent(dst []byte, e *Event) ([]byte, error) {
	size := e.SizeVT()
	dst = append(dst, tagEvent)
	dst = protowire.AppendVarint(dst, uint64(size))
	at := len(dst)
	dst = grow(dst, size)
	if _, err := e.MarshalToSizedBufferVT(dst[at:]); err != nil {
		return dst[:at], fmt.Errorf("encode event: %w", err)
	}
	return dst, nil
}

// AppendAnnouncement appends a as EventBatch.announcement.
func AppendAnnouncement(dst []byte, a *Announcement) ([]byte, error) {
	size := a.SizeVT()
	dst = append(dst, tagAnnouncement)
	dst = protowire.AppendVarint(dst, uint64(size))
	at := len(dst)
	dst = grow(dst, size)
	if _, err := a.MarshalToSizedBufferVT(dst[at:]); err != nil {
		return dst[:at], fmt.Errorf("encode announcement: %w", err)
	}
	return dst, nil
}

func grow(b []byte, n int) []byte {
	for cap(b)-len(b) < n {
		b = append(b[:cap(b)], 0)[:len(b)]
	}
	return b[:len(b)+n]
}

// ErrNoStream is returned for a batch without a stream: it has no name, so nothing in it can be counted once.
var ErrNoStream = errors.New("batch has no stream")

// Batch is an EventBatch read no further than needed to know what it names: the events stay encoded. It points into the
// bytes that it was parsed from.
type Batch struct {
	Stream       uint64
	First        uint64 // sequence of the first event; meaningless when Count is 0
	Count        int
	Announcement []byte // encoded Announcement; nil when there is none

	body []byte
}

// Last returns the sequence of the last event. It must not be asked of a batch without events.
func (b *Batch) Last() uint64 { return b.First + uint64(b.Count) - 1 }

// ParseBatch reads the header of value and counts its events. An error says that value is not an EventBatch whose events have names.
func ParseBatch(value []byte) (Batch, error) {
	b := Batch{body: value}
	for rest := value; len(rest) > 0; {
		if _, behind, ok := plainEvent(rest); ok {
			b.Count++
			rest = behind
			continue
		}
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return Batch{}, fmt.Errorf("batch: field tag: %w", protowire.ParseError(n))
		}
		field := rest[n:]
		switch {
		case number == 1 && kind == protowire.Fixed64Type:
			b.Stream, n = protowire.ConsumeFixed64(field)
		case number == 2 && kind == protowire.VarintType:
			b.First, n = protowire.ConsumeVarint(field)
		case number == 3 && kind == protowire.BytesType:
			_, n = protowire.ConsumeBytes(field)
			b.Count++
		case number == 4 && kind == protowire.BytesType:
			b.Announcement, n = protowire.ConsumeBytes(field)
			b.Announcement = b.Announcement[:len(b.Announcement):len(b.Announcement)]
		case number <= 4:
			return Batch{}, fmt.Errorf("batch: field %d has wire type %d", number, kind)
		default:
			n = protowire.ConsumeFieldValue(number, kind, field)
		}
		if n < 0 {
			return Batch{}, fmt.Errorf("batch: field %d: %w", number, protowire.ParseError(n))
		}
		rest = field[n:]
	}
	switch {
	case b.Stream == 0:
		return Batch{}, ErrNoStream
	case b.Count > 0 && b.First == 0:
		return Batch{}, errors.New("batch has events but no first sequence")
	case b.Count > 0 && b.First+uint64(b.Count) < b.First:
		return Batch{}, errors.New("batch: sequence overflows")
	}
	return b, nil
}

// plainEvent reads one element of EventBatch.events from the front of b, if its length takes one or two bytes, which that of nearly every event does:
// protowire takes twice as long for it. Otherwise ok is false, and protowire is to read what stands there.
func plainEvent(b []byte) (encoded, behind []byte, ok bool) {
	if len(b) < 3 || b[0] != tagEvent {
		return nil, nil, false
	}
	length, from := int(b[1]), 2
	if length >= 0x80 {
		if b[2] >= 0x80 {
			return nil, nil, false
		}
		length, from = length&0x7f|int(b[2])<<7, 3
	}
	if length > len(b)-from {
		return nil, nil, false
	}
	return b[from : from+length], b[from+length:], true
}

// Events calls yield with the sequence and the encoded Event of each event, in order, until yield returns false.
func (b *Batch) Events(yield func(sequence uint64, encoded []byte) bool) {
	sequence := b.First
	for rest := b.body; len(rest) > 0; {
		if encoded, behind, ok := plainEvent(rest); ok {
			if !yield(sequence, encoded) {
				return
			}
			sequence++
			rest = behind
			continue
		}
		number, kind, n := protowire.ConsumeTag(rest)
		field := rest[n:]
		if number != 3 {
			rest = field[protowire.ConsumeFieldValue(number, kind, field):]
			continue
		}
		encoded, n := protowire.ConsumeBytes(field)
		if !yield(sequence, encoded) {
			return
		}
		sequence++
		rest = field[n:]
	}
}
