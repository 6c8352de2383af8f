package parquetfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/schemas/dictionary"
)

// Options say how files are written.
type Options struct {
	// TargetBytes is the size at which a file is ended, if enough is left for another; default 150 MB. No file but the last is
	// smaller, and none is larger than TargetBytes + LeastBytes and a row group.
	TargetBytes int64
	// LeastBytes is what must be left for another file to be worth it; default 100 MB.
	LeastBytes int64
	// ExpectedRows is how many rows will come; zero: unknown, then the last file may be small.
	ExpectedRows int64
	// RowGroupRows is the rows of a row group; default RowGroupRows.
	RowGroupRows int64
	// Workers is how many columns are encoded at once; default: one a CPU, at most 8.
	Workers int
	// Metadata is added to that of each file, with "spillway." before each key.
	Metadata map[string]string
}

func (o *Options) defaults() {
	if o.TargetBytes == 0 {
		o.TargetBytes = 150_000_000
	}
	if o.LeastBytes == 0 {
		o.LeastBytes = 100_000_000
	}
	if o.RowGroupRows == 0 {
		o.RowGroupRows = RowGroupRows
	}
	if o.Workers == 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 8)
	}
}

// File is a file that was written.
type File struct {
	Path      string
	Rows      int64
	Bytes     int64
	SHA256    string // of the whole file, hexadecimal
	RowGroups int
	// MinTime … MaxDate are those of the columns `time` and `date`; zero where the table has none.
	MinTime, MaxTime time.Time
	MinDate, MaxDate time.Time
}

// Writer writes ClickHouse's blocks into as many files as they need. While a row group is encoded and written the next one is collected: two of
// them are all that it holds. It is not goroutine-safe.
type Writer struct {
	table   dictionary.Table
	options Options
	open    func(number int) (path string, w store.Writer, err error)

	props    *parquet.WriterProperties
	parquet  *schema.Schema
	meta     metadata.KeyValueMetadata
	timeAt   int // index of the column, or -1
	dateAt   int
	group    *rowGroup
	spare    *rowGroup
	rowsSeen int64

	// writing gets the result of the row group that is being written; nil: there is none. The fields below are its.
	writing   chan error
	encoders  []*encoder
	current   *openFile
	done      []File
	rowsDone  int64 // rows in row groups that were written
	bytesDone int64 // of ended files
}

// openFile is the file that is being written.
type openFile struct {
	File
	to     store.Writer
	sum    hash.Hash
	writer *file.Writer
}

// Write counts and sums what goes into the file.
func (f *openFile) Write(p []byte) (int, error) {
	n, err := f.to.Write(p)
	f.sum.Write(p[:n])
	f.Bytes += int64(n)
	return n, err
}

// NewWriter returns a writer of a table's files. open makes the file of a number counted from 1.
func NewWriter(t dictionary.Table, o Options, open func(number int) (path string, w store.Writer, err error)) (*Writer, error) {
	o.defaults()
	w := &Writer{table: t, options: o, open: open, props: properties(t), timeAt: -1, dateAt: -1, group: &rowGroup{}, spare: &rowGroup{}}
	var err error
	if w.parquet, w.meta, err = parquetSchema(t, w.props, o.Metadata); err != nil {
		return nil, err
	}
	for range min(o.Workers, len(t.Columns)) {
		w.encoders = append(w.encoders, &encoder{})
	}
	for i, c := range t.Columns {
		switch c.Name {
		case "time":
			w.timeAt = i
		case "date":
			w.dateAt = i
		}
	}
	return w, nil
}

// Rows is how many rows were written so far.
func (w *Writer) Rows() int64 { return w.rowsSeen }

// Write takes a block, which it releases when it has written it. Its columns must be those of the table, in ClickHouse's own types
// (dictionary.Table.Stored).
func (w *Writer) Write(b *source.Block) error {
	if err := w.check(b); err != nil {
		return err
	}
	rows := b.Rows // the block may be given back and filled anew as soon as its last rows are flushed
	for from := 0; from < rows; {
		to := min(rows, from+int(w.options.RowGroupRows)-w.group.rows)
		w.group.add(b, from, to)
		w.rowsSeen += int64(to - from)
		from = to
		if w.group.rows == int(w.options.RowGroupRows) {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// check refuses a block that is not of this table.
func (w *Writer) check(b *source.Block) error {
	if b.Columns() != len(w.table.Columns) {
		return fmt.Errorf("a block of %s has %d columns instead of %d", w.table.Name, b.Columns(), len(w.table.Columns))
	}
	for i, c := range w.table.Columns {
		if b.Name(i) != c.Name {
			return fmt.Errorf("a block of %s has column %s in place of %s", w.table.Name, b.Name(i), c.Name)
		}
	}
	return nil
}

// flush begins to write the waiting row group, when the one before is written.
func (w *Writer) flush() error {
	if err := w.wait(); err != nil {
		return err
	}
	g := w.group
	w.group, w.spare = w.spare, g
	w.writing = make(chan error, 1)
	go func(result chan<- error) { result <- w.write(g) }(w.writing)
	return nil
}

// wait waits until no row group is being written.
func (w *Writer) wait() error {
	if w.writing == nil {
		return nil
	}
	err := <-w.writing
	w.writing = nil
	return err
}

// write writes a row group, into a new file if there is none, and ends the file if it is large enough.
func (w *Writer) write(g *rowGroup) error {
	if w.current == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	f := w.current
	if err := g.extremes(&f.File, w.timeAt, w.dateAt); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	rows := int64(g.rows)
	if err := g.write(w.table, f.writer, w.encoders); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	f.Rows, f.RowGroups = f.Rows+rows, f.RowGroups+1
	w.rowsDone += rows
	if f.Bytes < w.options.TargetBytes {
		return nil
	}
	if w.options.ExpectedRows > 0 {
		left := float64(w.options.ExpectedRows-w.rowsDone) * float64(w.bytesDone+f.Bytes) / float64(w.rowsDone)
		if left < float64(w.options.LeastBytes) {
			return nil
		}
	}
	return w.end()
}

func (w *Writer) begin() error {
	path, to, err := w.open(len(w.done) + 1)
	if err != nil {
		return err
	}
	f := &openFile{File: File{Path: path}, to: to, sum: sha256.New()}
	f.writer, err = file.NewParquetWriterWithError(f, w.parquet.Root(), file.WithWriterProps(w.props), file.WithWriteMetadata(w.meta))
	if err != nil {
		to.Abort()
		return fmt.Errorf("begin %s: %w", path, err)
	}
	w.current = f
	return nil
}

func (w *Writer) end() error {
	f := w.current
	w.current = nil
	if err := f.writer.Close(); err != nil {
		f.to.Abort()
		return fmt.Errorf("end %s: %w", f.Path, err)
	}
	if err := f.to.Commit(); err != nil {
		return err
	}
	f.SHA256 = hex.EncodeToString(f.sum.Sum(nil))
	w.done = append(w.done, f.File)
	w.bytesDone += f.Bytes
	return nil
}

// Close writes what is waiting, ends the last file and returns all of them, none if there was no row.
func (w *Writer) Close() ([]File, error) {
	if w.group.rows > 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	if err := w.wait(); err != nil {
		return nil, err
	}
	if w.current != nil {
		if err := w.end(); err != nil {
			return nil, err
		}
	}
	return w.done, nil
}

// Abort gives the file that is being written up.
func (w *Writer) Abort() {
	_ = w.wait() // whatever it says, there is an error already
	if w.current != nil {
		w.current.to.Abort()
		w.current = nil
	}
}

// Copy writes all blocks that next returns until io.EOF, reading ahead of the encoding by a few blocks. When it gives up it calls cancel,
// which must make a running next return. progress is told of each block's rows.
func (w *Writer) Copy(ctx context.Context, next func() (*source.Block, error), cancel func(), progress func(rows int64)) error {
	type item struct {
		block *source.Block
		err   error
	}
	ahead := make(chan item, 2)
	stop := make(chan struct{})
	ended := make(chan struct{})
	defer func() {
		close(stop)
		cancel()
		<-ended
	}()
	go func() {
		defer close(ended)
		for {
			block, err := next()
			select {
			case ahead <- item{block, err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		i := <-ahead
		if errors.Is(i.err, io.EOF) {
			return ctx.Err()
		}
		if i.err != nil {
			return i.err
		}
		rows := int64(i.block.Rows)
		if err := w.Write(i.block); err != nil {
			return err
		}
		progress(rows)
	}
}

// sortedKeys returns a map's keys in order.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
