package journal

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// The record header; the package comment draws it.
const (
	recordHeader = 24
	alignment    = 8
)

// MaxEvent is the largest encoded event that is journaled, in bytes; the fields that a visitor fills are cut far shorter. It lies
// far below what a Kafka broker takes by default (1 MB), so that a batch can always be split until it passes; and it bounds what a
// damaged length can claim.
const MaxEvent = 32 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seed is where the checksum of each of a stream's records begins: a record of another stream never fits, not even with the
// same segment number, and nobody who writes into an event can forge one without knowing the stream.
func seed(stream uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], stream)
	return crc32.Checksum(b[:], castagnoli)
}

// padded is the room that a record with a payload of n bytes takes.
func padded(n int) int { return (recordHeader + n + alignment - 1) &^ (alignment - 1) }

// commit is the first word of the record at b: the length of its payload, published last.
func commit(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(b))) }

// seal fills in the header of the record whose payload of n bytes stands at b[recordHeader:], and publishes it.
func seal(b []byte, n int, seed uint32, segment, k uint64) {
	binary.LittleEndian.PutUint64(b[8:], segment)
	binary.LittleEndian.PutUint64(b[16:], k)
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(seed, castagnoli, b[8:recordHeader+n]))
	atomic.StoreUint32(commit(b), uint32(n))
}

// record is one valid record.
type record struct {
	k     uint64
	event []byte
	end   int // where the next one may begin
}

// recordAt returns the record at b[at:limit], if there is a whole and valid one.
func recordAt(b []byte, at, limit int, seed uint32, segment uint64) (record, bool) {
	if limit-at < recordHeader {
		return record{}, false
	}
	h := b[at:limit]
	n := int(atomic.LoadUint32(commit(h)))
	if n == 0 || n > MaxEvent || n > len(h)-recordHeader || binary.LittleEndian.Uint64(h[8:]) != segment {
		return record{}, false
	}
	if crc32.Update(seed, castagnoli, h[8:recordHeader+n]) != binary.LittleEndian.Uint32(h[4:]) {
		return record{}, false
	}
	k := binary.LittleEndian.Uint64(h[16:])
	return record{k: k, event: h[recordHeader : recordHeader+n : recordHeader+n], end: at + padded(n)}, k != 0
}
