package parquetfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/schemas/dictionary"
)

// things is a table with a column of each kind, and columns that are worth a dictionary or not.
func things() dictionary.Table {
	return dictionary.Table{Name: "things", Columns: []dictionary.Column{
		{Name: "id", Type: dictionary.Text, Hexadecimal: true, Distinct: true, Bloom: true}, {Name: "stream", Type: dictionary.Text, Hexadecimal: true},
		{Name: "number", Type: dictionary.Int64, Distinct: true}, {Name: "few", Type: dictionary.Int64, Bloom: true}, {Name: "many", Type: dictionary.Int64},
		{Name: "small", Type: dictionary.Int32}, {Name: "flag", Type: dictionary.Bool}, {Name: "date", Type: dictionary.Date}, {Name: "time", Type: dictionary.Timestamp},
		{Name: "kind", Type: dictionary.Word}, {Name: "word", Type: dictionary.Word}, {Name: "text", Type: dictionary.Text}, {Name: "maybe", Type: dictionary.Timestamp, Nullable: true},
	}}
}

// blocks are rows of things, cut into blocks of at most so many rows, and each row as it should be read again.
func blocks(t *testing.T, rows, most int) ([]*source.Block, []string) {
	table := things()
	names := make([]string, len(table.Columns))
	for i, c := range table.Columns {
		names[i] = c.Name
	}
	random := rand.New(rand.NewPCG(1, 2))
	words := []string{"", "DE", "FR", "US", "naïve ☃"}
	var all []*source.Block
	var want []string
	cuts := rand.New(rand.NewPCG(3, uint64(most)))
	for done := 0; done < rows; {
		n := min(1+cuts.IntN(most), rows-done)
		var id, stream, few, many proto.ColUInt64
		var small proto.ColUInt32
		var flag proto.ColBool
		var date proto.ColDate
		var number, time proto.ColInt64
		kind := &source.Enum{Names: map[int8]string{0: "unknown", 1: "view", 2: "click"}}
		text := &proto.ColStr{}
		// As in an answer of ClickHouse's: each block has a dictionary of its own, with values that no row of it has.
		index := &proto.ColStr{}
		word := &proto.ColLowCardinalityRaw{Index: index, Key: proto.KeyUInt8}
		for i := range words {
			index.Append(words[(i+done)%len(words)])
		}
		maybe := &source.Nullable{}
		some := &proto.ColInt64{}
		for i := range n {
			row := done + i
			id.Append(random.Uint64())
			stream.Append([]uint64{7, 1<<63 + 5, 0}[random.IntN(3)])
			number.Append(int64(row))
			few.Append(uint64(random.IntN(1000)))
			many.Append(random.Uint64N(1 << 40))
			small.Append(uint32(row / 700))
			flag.Append(random.IntN(2) == 0)
			date = append(date, proto.Date(20_000+row/5000))
			time.Append(1_760_000_000_000_000 + int64(row)*1000)
			kind.Append(int8(random.IntN(3)))
			key := random.IntN(4)
			if row < rows/2 {
				key = min(key, 1)
			}
			at := (key - done%len(words) + len(words)) % len(words)
			word.AppendKey(at)
			text.Append(fmt.Sprintf("a text that only this row has: %d", random.Uint32()))
			maybe.Nulls.Append(uint8(row % 2))
			some.Append(int64(row))
			last := "(null)"
			if row%2 == 0 {
				last = fmt.Sprint(row)
			}
			want = append(want, fmt.Sprintf("%016x %016x %d %d %d %d %t %d %d %s %s %s %s", id[i], stream[i], row, few[i], many[i], small[i], flag[i], date[i], time[i],
				kind.Names[kind.Row(i)], words[key], text.Row(i), last))
		}
		maybe.Values = some
		all = append(all, source.NewBlock(names, []proto.ColResult{&id, &stream, &number, &few, &many, &small, &flag, &date, &time, kind, word, text, maybe}))
		done += n
	}
	return all, want
}

// buffer is a file in memory.
type buffer struct{ bytes.Buffer }

func (*buffer) Commit() error { return nil }
func (*buffer) Abort()        {}

// written writes blocks and returns the files and what is in them.
func written(t *testing.T, all []*source.Block, o Options) ([]File, []*buffer) {
	var files []*buffer
	w, err := NewWriter(things(), o, func(n int) (string, store.Writer, error) {
		files = append(files, &buffer{})
		return fmt.Sprint(n), files[n-1], nil
	})
	require.NoError(t, err)
	require.NoError(t, w.Copy(t.Context(), func() (*source.Block, error) {
		if len(all) == 0 {
			return nil, io.EOF
		}
		b := all[0]
		all = all[1:]
		return b, nil
	}, func() {}, func(int64) {}))
	list, err := w.Close()
	require.NoError(t, err)
	return list, files
}

// Values are what they were, whichever way a column was encoded, and a file's bytes depend on its rows only: not on how they were cut into
// blocks, nor on how many columns were encoded at once.
func TestWhatIsWrittenIsRead(t *testing.T) {
	const rows = 70_000
	one, want := blocks(t, rows, 3000)
	list, files := written(t, one, Options{RowGroupRows: 30_000, Workers: 3})
	require.Len(t, list, 1)
	require.Equal(t, 3, list[0].RowGroups)
	require.EqualValues(t, rows, list[0].Rows)
	require.Equal(t, want[0][:16], fmt.Sprintf("%016x", (*one[0].Column(0).(*proto.ColUInt64))[0]))

	reader, err := file.NewParquetReader(bytes.NewReader(files[0].Bytes()))
	require.NoError(t, err)
	coded := map[string]bool{}
	for i := range reader.MetaData().Schema.NumColumns() {
		chunk, err := reader.MetaData().RowGroup(0).ColumnChunk(i)
		require.NoError(t, err)
		coded[reader.MetaData().Schema.Column(i).Name()] = chunk.HasDictionaryPage()
		set, err := chunk.StatsSet()
		require.NoError(t, err)
		require.True(t, set)
		require.EqualValues(t, 30_000, chunk.NumValues())
	}
	require.Equal(t, map[string]bool{"id": false, "stream": true, "number": false, "few": true, "many": false, "small": true, "flag": false, "date": true, "time": false,
		"kind": true, "word": true, "text": false, "maybe": true}, coded)
	// The statistics are of the values that there are, not of a block's whole dictionary.
	chunk, err := reader.MetaData().RowGroup(0).ColumnChunk(10)
	require.NoError(t, err)
	stats, err := chunk.Statistics()
	require.NoError(t, err)
	require.Equal(t, "DE", string(stats.EncodeMax()))
	all, err := pqarrow.NewFileReader(reader, pqarrow.ArrowReadProperties{BatchSize: 8192}, memory.DefaultAllocator)
	require.NoError(t, err)
	records, err := all.GetRecordReader(t.Context(), nil, nil)
	require.NoError(t, err)
	defer records.Release()
	row := 0
	for records.Next() {
		b := records.RecordBatch()
		for i := range int(b.NumRows()) {
			got := ""
			for c, column := range b.Columns() {
				value := column.ValueStr(i)
				switch b.ColumnName(c) {
				case "date", "time", "maybe":
					value = number(t, column, i)
				}
				if c > 0 {
					got += " "
				}
				got += value
			}
			require.Equal(t, want[row], got, "row %d", row)
			row++
		}
	}
	require.NoError(t, records.Err())
	require.Equal(t, rows, row)

	other, same := blocks(t, rows, 20_000)
	require.Equal(t, want, same)
	again, _ := written(t, other, Options{RowGroupRows: 30_000, Workers: 1})
	require.Equal(t, list[0].SHA256, again[0].SHA256)
}

// Every page has rows, also where the last values of a row group just fill one: readers that go by the page index trip over one without.
func TestNoPageIsEmpty(t *testing.T) {
	for _, rows := range []int{8192, 14_000, 32_768, 40_000, 65_536} {
		all, want := blocks(t, rows, 3000)
		_, files := written(t, all, Options{})
		reader, err := file.NewParquetReader(bytes.NewReader(files[0].Bytes()))
		require.NoError(t, err)
		index, err := reader.GetPageIndexReader().RowGroup(0)
		require.NoError(t, err)
		for i := range reader.MetaData().Schema.NumColumns() {
			offsets, err := index.GetOffsetIndex(i)
			require.NoError(t, err)
			first := int64(-1)
			for _, page := range offsets.GetPageLocations() {
				require.Greater(t, page.FirstRowIndex, first, "%d rows, column %s", rows, reader.MetaData().Schema.Column(i).Name())
				require.Less(t, page.FirstRowIndex, int64(len(want)), "%d rows, column %s", rows, reader.MetaData().Schema.Column(i).Name())
				first = page.FirstRowIndex
			}
			require.GreaterOrEqual(t, first, int64(0))
		}
	}
}

// number is a date's or time's number.
func number(t *testing.T, column arrow.Array, row int) string {
	switch c := column.(type) {
	case *array.Date32:
		return fmt.Sprint(int32(c.Value(row)))
	case *array.Timestamp:
		if c.IsNull(row) {
			return "(null)"
		}
		return fmt.Sprint(int64(c.Value(row)))
	}
	require.Fail(t, "no time", "%s", column.DataType())
	return ""
}

// What goes wrong while a row group is written in the background is told, and nothing is committed.
func TestErrorsOfAnOlderRowGroup(t *testing.T) {
	all, _ := blocks(t, 5000, 500)
	full := errors.New("disk full")
	w, err := NewWriter(things(), Options{RowGroupRows: 1000}, func(int) (string, store.Writer, error) { return "", nil, full })
	require.NoError(t, err)
	for _, b := range all {
		if err = w.Write(b); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, full)
	w.Abort()

	w, err = NewWriter(things(), Options{}, nil)
	require.NoError(t, err)
	strange := source.NewBlock([]string{"id"}, []proto.ColResult{&proto.ColUInt64{1}})
	require.ErrorContains(t, w.Write(strange), "has 1 columns instead of 13")
}
