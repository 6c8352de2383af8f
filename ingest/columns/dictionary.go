package columns

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
)

// dictionary is the distinct values of a LowCardinality(String) column. What it knows of values is kept from block to block, so that a
// value seen before costs a look-up and no allocation; when that has grown beyond its bound it is forgotten, between two blocks.
//
// A value has an id as long as it is known, and a place in the blocks in which it comes. The empty value has id and place 0.
type dictionary struct {
	seed  maphash.Seed
	slots []uint64 // open addressing: half a hash and an id; 0: free. A power of two, at most half full
	value []string // id → value
	at    []uint32 // id → its place in this block; 0: not in this block
	bytes int      // of all values
	bound int      // of bytes

	index proto.ColStr // this block's values
	used  []uint32     // place → id
}

// Values are forgotten when a dictionary knows more than so many bytes of them. Of user agents, each of which is long and few of which
// come once only, a dictionary may know more.
const (
	knownBytes      = 1 << 20
	knownAgentBytes = 4 << 20
)

func newDictionary(seed maphash.Seed, bound int) *dictionary {
	d := &dictionary{seed: seed, bound: bound}
	d.forget()
	d.reset()
	return d
}

func (d *dictionary) forget() {
	d.slots = make([]uint64, 64)
	d.value, d.at, d.bytes = append(d.value[:0], ""), append(d.at[:0], 0), 0
}

// reset begins a new block. It reports whether the values were forgotten, and ids with them.
func (d *dictionary) reset() (forgotten bool) {
	if forgotten = d.bytes > d.bound; forgotten {
		clear(d.value)
		d.forget()
	} else {
		for _, id := range d.used {
			d.at[id] = 0
		}
	}
	d.index.Reset()
	d.index.Append("")
	d.used = append(d.used[:0], 0)
	return forgotten
}

// find returns the id of a value that is known. Otherwise known is false, and slot is where it would be.
func (d *dictionary) find(v []byte) (id uint32, known bool, hash uint32, slot int) {
	hash = uint32(maphash.Bytes(d.seed, v) >> 32)
	mask := len(d.slots) - 1
	for slot = int(hash) & mask; ; slot = (slot + 1) & mask {
		s := d.slots[slot]
		if s == 0 {
			return 0, false, hash, slot
		}
		if uint32(s>>32) == hash && d.value[uint32(s)] == string(v) {
			return uint32(s), true, hash, slot
		}
	}
}

// add makes v, which is not empty and of which find said hash and slot, a known value.
func (d *dictionary) add(v []byte, hash uint32, slot int) uint32 {
	id := uint32(len(d.value))
	d.value, d.at = append(d.value, string(v)), append(d.at, 0)
	d.bytes += len(v) + 64
	d.slots[slot] = uint64(hash)<<32 | uint64(id)
	if 2*len(d.value) > len(d.slots) {
		old := d.slots
		d.slots = make([]uint64, 2*len(old))
		mask := len(d.slots) - 1
		for _, s := range old {
			if s != 0 {
				to := int(s>>32) & mask
				for d.slots[to] != 0 {
					to = (to + 1) & mask
				}
				d.slots[to] = s
			}
		}
	}
	return id
}

// id returns a value's id, and makes it known if it is not.
func (d *dictionary) id(v []byte) uint32 {
	if len(v) == 0 {
		return 0
	}
	id, known, hash, slot := d.find(v)
	if !known {
		id = d.add(v, hash, slot)
	}
	return id
}

// place returns the place of a value in this block, by its id.
func (d *dictionary) place(id uint32) uint32 {
	if at := d.at[id]; at != 0 || id == 0 {
		return at
	}
	at := uint32(len(d.used))
	d.index.Append(d.value[id])
	d.used = append(d.used, id)
	d.at[id] = at
	return at
}

// width is that of a key: 0, 1 or 2 for 1, 2 or 4 bytes.
func (d *dictionary) width() int64 {
	switch n := len(d.used); {
	case n <= 1<<8:
		return 0
	case n <= 1<<16:
		return 1
	}
	return 2
}

// size is at least what the dictionary and the keys of so many rows take when they are encoded.
func (d *dictionary) size(rows int) int {
	return 128 + len(d.index.Buf) + 3*len(d.used) + rows<<d.width()
}

// encode writes the serialization of LowCardinality in ClickHouse's Native format, but for the keys: the width of a key with "has
// additional keys" and "update dictionary", the distinct values, the number of rows.
func (d *dictionary) encode(b *proto.Buffer, rows int) {
	const additionalKeys, updateDictionary = 1 << 9, 1 << 10
	b.PutInt64(additionalKeys | updateDictionary | d.width())
	b.PutInt64(int64(d.index.Rows()))
	d.index.EncodeColumn(b)
	b.PutInt64(int64(rows))
}

// word is a LowCardinality(String) column: a dictionary and a key a row.
type word struct {
	*dictionary
	rows *int     // of the block
	keys []uint32 // row → place; rows behind the end hold the empty value
	last uint32   // id of the row that was set last
}

// set makes v the value of a row, which must be the last one.
func (w *word) set(row int, v []byte) {
	if len(v) == 0 {
		return
	}
	if d := w.dictionary; d.value[w.last] != string(v) {
		w.last = d.id(v)
	}
	w.put(row, w.place(w.last))
}

// setText is set for what comes from outside: at most limit bytes of it, and nothing that is no UTF-8.
func (w *word) setText(row int, v []byte, limit int, scratch *[]byte) {
	if len(v) > 0 {
		w.put(row, w.place(w.textID(v, limit, scratch)))
	}
}

// textID returns the id of what is stored of a text. What is known already was looked at when it came first.
func (w *word) textID(v []byte, limit int, scratch *[]byte) uint32 {
	d := w.dictionary
	if len(v) <= limit {
		if d.value[w.last] == string(v) {
			return w.last
		}
		id, known, hash, slot := d.find(v)
		if !known && len(v) > 0 {
			if clean := safe(v, limit, scratch); string(clean) == string(v) {
				id = d.add(v, hash, slot)
			} else {
				id = d.id(clean)
			}
		}
		w.last = id
		return id
	}
	w.last = d.id(safe(v, limit, scratch))
	return w.last
}

// put sets a row's key.
func (w *word) put(row int, key uint32) {
	if key == 0 {
		return
	}
	if len(w.keys) < row {
		from := len(w.keys)
		w.keys = slices.Grow(w.keys, row-from)[:row]
		clear(w.keys[from:])
	}
	if len(w.keys) == cap(w.keys) {
		w.keys = slices.Grow(w.keys, max(len(w.keys), 4096))
	}
	w.keys = append(w.keys, key)
}

// truncate leaves the first rows; values that only later rows had stay in the dictionary, where they do no harm.
func (w *word) truncate(rows int) {
	if len(w.keys) > rows {
		w.keys = w.keys[:rows]
	}
}

func (w *word) reset() (forgotten bool) {
	w.keys = w.keys[:0]
	if forgotten = w.dictionary.reset(); forgotten {
		w.last = 0
	}
	return forgotten
}

func (w *word) Type() proto.ColumnType { return "LowCardinality(String)" }
func (w *word) Rows() int              { return *w.rows }

// EncodeState writes the version of the serialization: shared dictionaries with additional keys.
func (w *word) EncodeState(b *proto.Buffer) { b.PutInt64(1) }

// EncodeColumn writes the dictionary and the keys.
func (w *word) EncodeColumn(b *proto.Buffer) {
	w.encode(b, *w.rows)
	tail := *w.rows - len(w.keys)
	switch w.width() {
	case 0:
		to, _ := room(b, len(w.keys), tail)
		for i, k := range w.keys {
			to[i] = uint8(k)
		}
	case 1:
		to, _ := room(b, 2*len(w.keys), 2*tail)
		for i, k := range w.keys {
			binary.LittleEndian.PutUint16(to[2*i:], uint16(k))
		}
	default:
		to, _ := room(b, 4*len(w.keys), 4*tail)
		for i, k := range w.keys {
			binary.LittleEndian.PutUint32(to[4*i:], k)
		}
	}
}

// WriteColumn is EncodeColumn for a writer that chains buffers.
func (w *word) WriteColumn(to *proto.Writer) { to.ChainBuffer(w.EncodeColumn) }

// room makes room for so many bytes at the end of a buffer, and for more behind them, which are zero.
func room(b *proto.Buffer, bytes, more int) (to, zero []byte) {
	from := len(b.Buf)
	b.Buf = slices.Grow(b.Buf, bytes+more)[:from+bytes+more]
	to, zero = b.Buf[from:from+bytes], b.Buf[from+bytes:]
	clear(zero)
	return to, zero
}

// derived is a LowCardinality(String) column whose value is said by another column's: so it is not looked up for each row, but once
// for each distinct value of that column, when the block is encoded.
type derived struct {
	*dictionary
	of     *word
	means  func(id uint32) string // value of the row in which the other column has the value of that id
	places []uint32               // place of the other column's value → place here
}

func (d *derived) Type() proto.ColumnType       { return "LowCardinality(String)" }
func (d *derived) Rows() int                    { return *d.of.rows }
func (d *derived) EncodeState(b *proto.Buffer)  { d.of.EncodeState(b) }
func (d *derived) WriteColumn(to *proto.Writer) { to.ChainBuffer(d.EncodeColumn) }
func (d *derived) EncodeColumn(b *proto.Buffer) {
	d.places = d.places[:0]
	for _, id := range d.of.used {
		d.places = append(d.places, d.place(d.id(bytesOf(d.means(id)))))
	}
	rows, keys := *d.of.rows, d.of.keys
	d.encode(b, rows)
	none := d.places[0]
	switch d.width() {
	case 0:
		to, rest := room(b, len(keys), rows-len(keys))
		for i, k := range keys {
			to[i] = uint8(d.places[k])
		}
		for i := range rest {
			rest[i] = uint8(none)
		}
	case 1:
		to, rest := room(b, 2*len(keys), 2*(rows-len(keys)))
		for i, k := range keys {
			binary.LittleEndian.PutUint16(to[2*i:], uint16(d.places[k]))
		}
		for i := 0; i < len(rest); i += 2 {
			binary.LittleEndian.PutUint16(rest[i:], uint16(none))
		}
	default:
		to, rest := room(b, 4*len(keys), 4*(rows-len(keys)))
		for i, k := range keys {
			binary.LittleEndian.PutUint32(to[4*i:], d.places[k])
		}
		for i := 0; i < len(rest); i += 4 {
			binary.LittleEndian.PutUint32(rest[i:], none)
		}
	}
}

// bytesOf is a string as bytes that must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
