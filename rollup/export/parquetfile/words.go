package parquetfile

import (
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"

	"spillway.dev/rollup/export/source"
	"spillway.dev/schemas/dictionary"
)

// fewWords is how many different values are always taken as a dictionary.
const fewWords = 256

// words is a dictionary of strings, numbered from 0 in the order in which they come first.
type words struct {
	place  map[string]int32
	values []string
	bytes  int
}

func (w *words) reset() {
	if w.place == nil {
		w.place = map[string]int32{}
	}
	clear(w.place)
	w.values, w.bytes = w.values[:0], 0
}

func (w *words) of(value string) int32 {
	at, there := w.place[value]
	if !there {
		at = int32(len(w.values))
		w.place[value] = at
		w.values = append(w.values, value)
		w.bytes += len(value)
	}
	return at
}

// writeWords writes a column of strings: through a dictionary, if there are few different ones or it takes less than half.
func (e *encoder) writeWords(w *file.ByteArrayColumnChunkWriter, g *rowGroup, c dictionary.Column, column int) error {
	if c.Hexadecimal {
		return e.writeIDs(w, g, c, column)
	}
	e.words.reset()
	defer e.words.reset() // its strings are those of blocks
	e.indices = e.indices[:0]
	for _, p := range g.pieces {
		if err := e.number(p, column); err != nil {
			return err
		}
	}
	var plain int
	for _, at := range e.indices {
		plain += 4 + len(e.words.values[at])
	}
	entries := len(e.words.values)
	if coded := e.words.bytes + 4*entries + len(e.indices)*bits.Len(uint(entries-1))/8; coded < plain/2 || entries <= fewWords {
		return e.writeCoded(w)
	}
	w.FallbackToPlain()
	e.values, e.offsets = e.values[:0], append(e.offsets[:0], 0)
	for _, at := range e.indices {
		e.values = append(e.values, e.words.values[at]...)
		e.offsets = append(e.offsets, int32(len(e.values)))
	}
	return writeTexts(w, e.values, e.offsets)
}

// writeCoded writes the strings of e.indices through the dictionary e.words, in one page: their limits are then the dictionary's.
func (e *encoder) writeCoded(w *file.ByteArrayColumnChunkWriter) error {
	dict := stringArray(&e.words)
	defer dict.Release()
	if err := putDictionary(w, dict); err != nil {
		return err
	}
	if stats := w.PageStatistics(); stats != nil {
		stats.IncNumValues(int64(len(e.indices)))
		if err := stats.UpdateFromArrow(dict, false); err != nil {
			return fmt.Errorf("statistics: %w", err)
		}
	}
	return writeIndices(w, e.indices)
}

// writeTexts writes strings that stand one after the other, the i-th from offsets[i] to offsets[i+1].
func writeTexts(w *file.ByteArrayColumnChunkWriter, values []byte, offsets []int32) error {
	if _, err := w.WriteBatchArrow(values, offsets, nil, nil); err != nil {
		return fmt.Errorf("write strings: %w", err)
	}
	return flush(w)
}

// number appends the numbers of a piece's strings in the dictionary to e.indices, and what is new to the dictionary. Strings are not copied:
// the dictionary is used up before the blocks are given back.
func (e *encoder) number(p piece, column int) error {
	switch c := p.block.Column(column).(type) {
	case *proto.ColLowCardinalityRaw:
		texts, ok := c.Index.(*proto.ColStr)
		if !ok {
			return fmt.Errorf("%s holds no strings", c.Type())
		}
		e.places = e.places[:0]
		for range texts.Pos {
			e.places = append(e.places, -1)
		}
		text := func(i int) string { return view(texts, i) }
		switch c.Key {
		case proto.KeyUInt8:
			e.indices = renumber(e.indices, c.Keys8[p.from:p.to], e.places, &e.words, text)
		case proto.KeyUInt16:
			e.indices = renumber(e.indices, c.Keys16[p.from:p.to], e.places, &e.words, text)
		case proto.KeyUInt32:
			e.indices = renumber(e.indices, c.Keys32[p.from:p.to], e.places, &e.words, text)
		default:
			return fmt.Errorf("a dictionary with keys of another width")
		}
	case *source.Enum:
		e.places = e.places[:0]
		for range 256 {
			e.places = append(e.places, -1)
		}
		values := c.ColInt8[p.from:p.to]
		keys := unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(values))), len(values))
		e.indices = renumber(e.indices, keys, e.places, &e.words, func(i int) string { return c.Names[int8(i)] })
	case *proto.ColStr:
		for i := p.from; i < p.to; i++ {
			e.indices = append(e.indices, e.words.of(view(c, i)))
		}
	default:
		return fmt.Errorf("%s is no string", c.Type())
	}
	return nil
}

// view is a string of a column without a copy.
func view(c *proto.ColStr, i int) string {
	p := c.Pos[i]
	return unsafe.String(unsafe.SliceData(c.Buf[p.Start:p.End]), p.End-p.Start)
}

// renumber appends what a block's keys are in the dictionary. places remembers it for each key; -1: not yet known.
func renumber[K uint8 | uint16 | uint32](to []int32, keys []K, places []int32, known *words, text func(int) string) []int32 {
	for _, k := range keys {
		at := places[k]
		if at < 0 {
			at = known.of(text(int(k)))
			places[k] = at
		}
		to = append(to, at)
	}
	return to
}

const digits = "0123456789abcdef"

// appendID appends an id as 16 hexadecimal digits.
func appendID(to []byte, id uint64) []byte {
	var text [16]byte
	for i := range text {
		text[i] = digits[id>>(60-4*i)&15]
	}
	return append(to, text[:]...)
}

// writeIDs writes a column of 64-bit ids as strings.
func (e *encoder) writeIDs(w *file.ByteArrayColumnChunkWriter, g *rowGroup, c dictionary.Column, column int) error {
	var err error
	if e.longs, err = collect(e.longs[:0], g, column); err != nil {
		return err
	}
	if !c.Distinct {
		var ok bool
		if e.indices, ok = e.long.of(e.longs, e.indices[:0], len(e.longs)/4); ok {
			e.words.reset()
			for _, id := range e.long.values {
				e.words.of(string(appendID(nil, uint64(id))))
			}
			return e.writeCoded(w)
		}
	}
	w.FallbackToPlain()
	e.values, e.offsets = e.values[:0], append(e.offsets[:0], 0)
	for _, id := range e.longs {
		e.values = appendID(e.values, uint64(id))
		e.offsets = append(e.offsets, int32(len(e.values)))
	}
	return writeTexts(w, e.values, e.offsets)
}

// stringArray copies a dictionary's strings: their column keeps them until the group is closed.
func stringArray(w *words) arrow.Array {
	values, offsets := make([]byte, 0, w.bytes), make([]int32, 1, len(w.values)+1)
	for _, v := range w.values {
		values = append(values, v...)
		offsets = append(offsets, int32(len(values)))
	}
	ends := memory.NewBufferBytes(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(offsets))), len(offsets)*4))
	data := array.NewData(arrow.BinaryTypes.String, len(w.values), []*memory.Buffer{nil, ends, memory.NewBufferBytes(values)}, nil, 0, 0)
	defer data.Release()
	return array.MakeFromData(data)
}
