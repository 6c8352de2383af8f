package columns

import (
	"encoding/binary"

	"github.com/ClickHouse/ch-go/proto"
)

// dictionary is a LowCardinality(String) column: each distinct value once, and a key a row. What it knows of values is kept from
// block to block, so that a value seen before costs a look-up and no allocation; when that has grown beyond its bound it is
// forgotten.
type dictionary struct {
	ids   map[string]uint32 // value → id, over all blocks
	value []string          // id → value
	at    []uint32          // id → 1 + its place in this block's dictionary; 0: not in this block
	bytes int               // of all values

	index proto.ColStr // this block's distinct values; the empty one is always the first
	used  []uint32     // place → id, but for the empty one
	keys  []uint32     // row → place
	last  string       // the row before this one
	key   uint32
}

// knownBytes bounds what a dictionary knows, and is forgotten only between blocks.
const knownBytes = 1 << 20

func newDictionary() *dictionary {
	d := &dictionary{ids: map[string]uint32{}}
	d.index.Append("")
	return d
}

func (d *dictionary) append(v []byte) {
	if len(v) == 0 {
		d.keys = append(d.keys, 0)
		return
	}
	if string(v) != d.last || d.key == 0 {
		d.key = d.place(v)
		d.last = d.value[d.used[d.key-1]]
	}
	d.keys = append(d.keys, d.key)
}

// appendString is append for what is a string already.
func (d *dictionary) appendString(v string) {
	if v == "" {
		d.keys = append(d.keys, 0)
		return
	}
	if v != d.last || d.key == 0 {
		d.key = d.place([]byte(v))
		d.last = d.value[d.used[d.key-1]]
	}
	d.keys = append(d.keys, d.key)
}

func (d *dictionary) place(v []byte) uint32 {
	id, known := d.ids[string(v)]
	if !known {
		text := string(v)
		id = uint32(len(d.value))
		d.ids[text] = id
		d.value = append(d.value, text)
		d.at = append(d.at, 0)
		d.bytes += len(text) + 64
	}
	if d.at[id] == 0 {
		d.index.Append(d.value[id])
		d.used = append(d.used, id)
		d.at[id] = uint32(len(d.used)) + 1
	}
	return d.at[id] - 1
}

// truncate leaves the first rows; values that only later rows had stay in the dictionary, where they do no harm.
func (d *dictionary) truncate(rows int) {
	d.keys = d.keys[:rows]
	d.key, d.last = 0, ""
}

func (d *dictionary) Reset() {
	if d.bytes > knownBytes {
		clear(d.ids)
		d.value, d.at, d.bytes = d.value[:0], d.at[:0], 0
	} else {
		for _, id := range d.used {
			d.at[id] = 0
		}
	}
	d.index.Reset()
	d.index.Append("")
	d.used, d.keys = d.used[:0], d.keys[:0]
	d.key, d.last = 0, ""
}

func (d *dictionary) Type() proto.ColumnType { return "LowCardinality(String)" }
func (d *dictionary) Rows() int              { return len(d.keys) }

// EncodeState and EncodeColumn write the serialization of LowCardinality in ClickHouse's Native format: version 1 (shared
// dictionaries with additional keys), then the width of a key with "has additional keys" and "update dictionary", the distinct
// values, the keys.
func (d *dictionary) EncodeState(b *proto.Buffer) { b.PutInt64(1) }

func (d *dictionary) EncodeColumn(b *proto.Buffer) {
	const additionalKeys, updateDictionary = 1 << 9, 1 << 10
	width := int64(2)
	switch n := d.index.Rows(); {
	case n <= 1<<8:
		width = 0
	case n <= 1<<16:
		width = 1
	}
	b.PutInt64(additionalKeys | updateDictionary | width)
	b.PutInt64(int64(d.index.Rows()))
	d.index.EncodeColumn(b)
	b.PutInt64(int64(len(d.keys)))
	switch width {
	case 0:
		for _, k := range d.keys {
			b.Buf = append(b.Buf, uint8(k))
		}
	case 1:
		for _, k := range d.keys {
			b.Buf = binary.LittleEndian.AppendUint16(b.Buf, uint16(k))
		}
	default:
		for _, k := range d.keys {
			b.Buf = binary.LittleEndian.AppendUint32(b.Buf, k)
		}
	}
}

// WriteColumn is EncodeColumn for a writer that chains buffers.
func (d *dictionary) WriteColumn(w *proto.Writer) { w.ChainBuffer(d.EncodeColumn) }
