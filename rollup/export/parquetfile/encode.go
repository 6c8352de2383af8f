package parquetfile

import (
	"fmt"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"spillway.dev/rollup/export/source"
	"spillway.dev/schemas/dictionary"
)

// encoder encodes columns, one after the other. It keeps the memory that it works in; it is not goroutine-safe.
type encoder struct {
	longs   []int64
	ints    []int32
	bools   []bool
	levels  []int16
	indices []int32
	values  []byte
	offsets []int32
	places  []int32
	words   words
	long    numbers[int64]
	int     numbers[int32]
}

// column is what every column writer of the Parquet library can do beside writing values.
type column interface {
	file.ColumnChunkWriter
	FlushCurrentPage() error
	FlushBufferedDataPages() error
}

// batches is a column writer of fixed-size values.
type batches[T any] interface {
	column
	WriteBatch(values []T, definition, repetition []int16) (int64, error)
}

// encode writes a row group's column.
func (e *encoder) encode(g *rowGroup, c dictionary.Column, i int, group file.BufferedRowGroupWriter) (err error) {
	defer func() {
		// The Parquet library says by a panic that a column holds something else than its schema says.
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	to, err := group.Column(i)
	if err != nil {
		return err
	}
	var levels []int16
	if to.Descr().MaxDefinitionLevel() > 0 {
		if levels, err = e.definition(g, i); err != nil {
			return err
		}
	}
	switch w := to.(type) {
	case *file.Int64ColumnChunkWriter:
		if e.longs, err = collect(e.longs[:0], g, i); err == nil {
			err = writeNumbers(w, &e.long, e.longs, levels, c.Distinct, &e.indices)
		}
	case *file.Int32ColumnChunkWriter:
		if e.ints, err = collect(e.ints[:0], g, i); err == nil {
			err = writeNumbers(w, &e.int, e.ints, levels, c.Distinct, &e.indices)
		}
	case *file.BooleanColumnChunkWriter:
		if e.bools, err = g.bools(e.bools[:0], i); err == nil {
			err = writeAll[bool](w, e.bools, levels)
		}
	case *file.ByteArrayColumnChunkWriter:
		if levels != nil {
			return fmt.Errorf("missing strings are not known here")
		}
		err = e.writeWords(w, g, c, i)
	default:
		err = fmt.Errorf("%s is not known here", to.Type())
	}
	return err
}

// writeAll writes values as they are, and the last page of them.
func writeAll[T any](w batches[T], values []T, levels []int16) error {
	if _, err := w.WriteBatch(values, levels, nil); err != nil {
		return fmt.Errorf("write values: %w", err)
	}
	return flush(w)
}

// flush compresses a column's last page, if the values did not just fill the one before. That is done here, where columns are encoded beside each
// other, and not when the group is closed; but a column for which the library makes the dictionary keeps its pages until it has that.
func flush(w column) error {
	if w.CurrentEncoder().Encoding() == parquet.Encodings.PlainDict {
		return nil
	}
	if err := w.FlushBufferedDataPages(); err != nil {
		return fmt.Errorf("write a page: %w", err)
	}
	return nil
}

// writeNumbers writes numbers: through a dictionary, if that is smaller.
func writeNumbers[T int32 | int64](w batches[T], known *numbers[T], values []T, levels []int16, distinct bool, indices *[]int32) error {
	if distinct || levels != nil {
		return writeAll(w, values, levels)
	}
	var ok bool
	if *indices, ok = known.of(values, (*indices)[:0], len(values)/4); !ok {
		w.FallbackToPlain()
		return writeAll(w, values, nil)
	}
	dict := numberArray(known.values)
	defer dict.Release()
	if err := putDictionary(w, dict); err != nil {
		return err
	}
	stats, _ := w.PageStatistics().(interface{ Update([]T, int64) })
	for from := 0; from < len(values); from += pageRows {
		to := min(from+pageRows, len(values))
		if stats != nil {
			stats.Update(values[from:to], 0)
		}
		if err := writeIndices(w, (*indices)[from:to]); err != nil {
			return err
		}
	}
	return nil
}

// putDictionary gives a column its dictionary, before its first value.
func putDictionary(w column, dict arrow.Array) error {
	encoder, ok := w.CurrentEncoder().(interface {
		PutDictionary(arrow.Array) error
		NumEntries() int
	})
	if !ok {
		return fmt.Errorf("the column takes no dictionary")
	}
	if err := encoder.PutDictionary(dict); err != nil {
		return fmt.Errorf("write a dictionary: %w", err)
	}
	if encoder.NumEntries() != dict.Len() {
		return fmt.Errorf("a dictionary of %d values has only %d different ones", dict.Len(), encoder.NumEntries())
	}
	return nil
}

// writeIndices writes a page of a dictionary's indices, of which there are some.
func writeIndices(w column, indices []int32) error {
	a := numberArray(indices)
	defer a.Release()
	if err := w.WriteDictIndices(a, nil, nil); err != nil {
		return fmt.Errorf("write a dictionary's indices: %w", err)
	}
	if err := w.FlushCurrentPage(); err != nil {
		return fmt.Errorf("write a page: %w", err)
	}
	return nil
}

// numberArray is numbers as an array, which is valid only as long as they are.
func numberArray[T int32 | int64](values []T) arrow.Array {
	buffer := memory.NewBufferBytes(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*int(unsafe.Sizeof(T(0)))))
	data := array.NewData(arrow.GetDataType[T](), len(values), []*memory.Buffer{nil, buffer}, nil, 0, 0)
	defer data.Release()
	return array.MakeFromData(data)
}

// definition says which of a column's values are there: 1, and which are missing: 0.
func (e *encoder) definition(g *rowGroup, column int) ([]int16, error) {
	e.levels = e.levels[:0]
	for _, p := range g.pieces {
		c, ok := p.block.Column(column).(*source.Nullable)
		if !ok {
			return nil, fmt.Errorf("its values cannot be missing")
		}
		for _, missing := range c.Nulls[p.from:p.to] {
			e.levels = append(e.levels, 1-int16(missing&1))
		}
	}
	return e.levels, nil
}

// bools appends a column of truth values.
func (g *rowGroup) bools(to []bool, column int) ([]bool, error) {
	for _, p := range g.pieces {
		c, ok := p.block.Column(column).(*proto.ColBool)
		if !ok {
			return nil, fmt.Errorf("it holds no truth values")
		}
		to = append(to, (*c)[p.from:p.to]...)
	}
	return to, nil
}

// collect appends a column of numbers, dates or times; of one whose values may be missing, those that are there.
func collect[T int32 | int64](to []T, g *rowGroup, column int) ([]T, error) {
	for _, p := range g.pieces {
		var nulls []uint8
		values := p.block.Column(column)
		if n, ok := values.(*source.Nullable); ok {
			nulls, values = n.Nulls[p.from:p.to], n.Values
		}
		before := len(to)
		switch c := values.(type) {
		case *proto.ColUInt8:
			to = convert(to, (*c)[p.from:p.to])
		case *proto.ColUInt32:
			to = convert(to, (*c)[p.from:p.to])
		case *proto.ColUInt64:
			to = convert(to, (*c)[p.from:p.to])
		case *proto.ColInt64:
			to = convert(to, (*c)[p.from:p.to])
		case *proto.ColDate:
			to = convert(to, (*c)[p.from:p.to])
		default:
			return nil, fmt.Errorf("%s is no number", values.Type())
		}
		if nulls != nil {
			kept := to[:before]
			for i, missing := range nulls {
				if missing == 0 {
					kept = append(kept, to[before+i])
				}
			}
			to = kept
		}
	}
	return to, nil
}

func convert[T int32 | int64, F ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int64](to []T, from []F) []T {
	for _, v := range from {
		to = append(to, T(v))
	}
	return to
}

// Compile-time assertions that the Parquet library's writers and statistics are as they are used here.
var (
	_ batches[int64]                      = (*file.Int64ColumnChunkWriter)(nil)
	_ batches[int32]                      = (*file.Int32ColumnChunkWriter)(nil)
	_ batches[bool]                       = (*file.BooleanColumnChunkWriter)(nil)
	_ interface{ Update([]int64, int64) } = (*metadata.Int64Statistics)(nil)
	_ interface{ Update([]int32, int64) } = (*metadata.Int32Statistics)(nil)
	_ column                              = (*file.ByteArrayColumnChunkWriter)(nil)
)
