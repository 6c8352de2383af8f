package parquetfile

import (
	"context"
	"fmt"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// rowGroup collects batches until they fill a row group. Batches are held, not copied.
type rowGroup struct {
	columns [][]arrow.Array // by column, the pieces that are waiting
	rows    int64
}

func newRowGroup(columns int) *rowGroup { return &rowGroup{columns: make([][]arrow.Array, columns)} }

// add puts in the rows from … to of a batch.
func (g *rowGroup) add(batch arrow.RecordBatch, from, to int64) {
	for i := range g.columns {
		g.columns[i] = append(g.columns[i], array.NewSlice(batch.Column(i), from, to))
	}
	g.rows += to - from
}

func (g *rowGroup) release() {
	for i, pieces := range g.columns {
		for _, p := range pieces {
			p.Release()
		}
		g.columns[i] = g.columns[i][:0]
	}
	g.rows = 0
}

// write encodes the row group into a file, its columns in parallel, and empties it.
func (g *rowGroup) write(ctx context.Context, to *file.Writer, props pqarrow.ArrowWriterProperties, workers int) error {
	defer g.release()
	group, err := to.AppendBufferedRowGroupChecked()
	if err != nil {
		return fmt.Errorf("begin a row group: %w", err)
	}
	errs := make([]error, len(g.columns))
	next := make(chan int)
	var running sync.WaitGroup
	for range min(workers, len(g.columns)) {
		running.Go(func() {
			own := pqarrow.NewArrowWriteContext(ctx, &props)
			for i := range next {
				errs[i] = g.writeColumn(own, group, i)
			}
		})
	}
	for i := range g.columns {
		next <- i
	}
	close(next)
	running.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("encode column %s: %w", to.Schema.Column(i).Name(), err)
		}
	}
	if err := group.Close(); err != nil {
		return fmt.Errorf("write a row group: %w", err)
	}
	return nil
}

func (g *rowGroup) writeColumn(ctx context.Context, group file.BufferedRowGroupWriter, i int) (err error) {
	defer func() {
		// The Parquet library says by a panic that a column holds something else than its schema says.
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	column, err := group.Column(i)
	if err != nil {
		return err
	}
	pieces := g.columns[i]
	if len(pieces) > 0 && pieces[0].DataType().ID() == arrow.DICTIONARY {
		one := gather(pieces, int(g.rows))
		defer one.Release()
		pieces = []arrow.Array{one}
	}
	nullable := column.Descr().MaxDefinitionLevel() > 0
	for _, p := range pieces {
		var levels []int16
		if nullable {
			levels = definitionLevels(p)
		}
		if err := pqarrow.WriteArrowToColumn(ctx, column, p, levels, nil, nullable); err != nil {
			return err
		}
	}
	// Compressing the last pages of a column is most of the work: it is done here, in parallel, and not when the group is closed.
	if flusher, ok := column.(interface{ FlushBufferedDataPages() error }); ok && column.CurrentEncoder().Encoding() == parquet.Encodings.Plain {
		return flusher.FlushBufferedDataPages()
	}
	return nil
}

// definitionLevels says which values are there: 1, and which are NULL: 0.
func definitionLevels(a arrow.Array) []int16 {
	levels := make([]int16, a.Len())
	for i := range levels {
		if a.IsValid(i) {
			levels[i] = 1
		}
	}
	return levels
}

// gather makes one dictionary array of several, each with a dictionary of its own, holding just the values that occur. ClickHouse's
// dictionaries grow over a whole answer; a row group gets those of its rows.
func gather(pieces []arrow.Array, rows int) arrow.Array {
	indices := array.NewInt32Builder(memory.DefaultAllocator)
	defer indices.Release()
	indices.Reserve(rows)
	values := array.NewStringBuilder(memory.DefaultAllocator)
	defer values.Release()
	place := map[string]int32{}
	var known []int32       // by index in the piece's dictionary: 1 + the index in the new one; 0 where it did not occur yet
	var knownOf arrow.Array // the dictionary that known belongs to
	sameAs := func(d arrow.Array) bool { return knownOf != nil && knownOf.Data() == d.Data() }
	for _, piece := range pieces {
		p := piece.(*array.Dictionary)
		dict := p.Dictionary().(*array.String)
		if !sameAs(dict) {
			known, knownOf = make([]int32, dict.Len()), dict
		}
		for row := range p.Len() {
			if p.IsNull(row) {
				indices.AppendNull()
				continue
			}
			old := p.GetValueIndex(row)
			if known[old] == 0 {
				value := dict.Value(old)
				at, there := place[value]
				if !there {
					at = int32(len(place))
					values.Append(value)
					place[value] = at
				}
				known[old] = at + 1
			}
			indices.UnsafeAppend(known[old] - 1)
		}
	}
	i, v := indices.NewArray(), values.NewArray()
	defer i.Release()
	defer v.Release()
	return array.NewDictionaryArray(word(), i, v)
}
