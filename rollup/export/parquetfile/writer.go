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

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/arrow-go/v18/parquet/schema"

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
	// MaxDictionary is how many values ClickHouse's dictionary of one column may hold; default 65 536. It bounds the memory.
	MaxDictionary int
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
	if o.MaxDictionary == 0 {
		o.MaxDictionary = 1 << 16
	}
	if o.Workers == 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 8)
	}
}

// OutgrownError says that a column has too many different values to be taken as a dictionary: ask for it as plain strings and
// begin again.
type OutgrownError struct{ Column string }

func (e *OutgrownError) Error() string {
	return fmt.Sprintf("column %s has too many different values for a dictionary", e.Column)
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

// Writer writes record batches into as many files as they need. It is not goroutine-safe.
type Writer struct {
	ctx     context.Context
	table   dictionary.Table
	options Options
	open    func(number int) (path string, w store.Writer, err error)

	props     *parquet.WriterProperties
	parquet   *schema.Schema
	meta      metadata.KeyValueMetadata
	arrow     pqarrow.ArrowWriterProperties
	timeAt    int // index of the column, or -1
	dateAt    int
	group     *rowGroup
	current   *openFile
	done      []File
	rowsDone  int64 // rows in row groups that were written
	bytesDone int64 // of ended files
	rowsSeen  int64
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
func NewWriter(ctx context.Context, t dictionary.Table, o Options, open func(number int) (path string, w store.Writer, err error)) (*Writer, error) {
	o.defaults()
	w := &Writer{ctx: ctx, table: t, options: o, open: open, props: properties(t), arrow: pqarrow.DefaultWriterProps(), timeAt: -1, dateAt: -1, group: newRowGroup(len(t.Columns))}
	var err error
	if w.parquet, w.meta, err = parquetSchema(t, w.props, o.Metadata); err != nil {
		return nil, err
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

// Write takes a batch, which it may hold for a while. Its columns must be those of the table, strings as such or as dictionaries.
func (w *Writer) Write(batch arrow.RecordBatch) error {
	if err := w.check(batch); err != nil {
		return err
	}
	for from := int64(0); from < batch.NumRows(); {
		to := min(batch.NumRows(), from+w.options.RowGroupRows-w.group.rows)
		w.group.add(batch, from, to)
		w.rowsSeen += to - from
		from = to
		if w.group.rows == w.options.RowGroupRows {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// check refuses a batch that is not of this table.
func (w *Writer) check(batch arrow.RecordBatch) error {
	if int(batch.NumCols()) != len(w.table.Columns) {
		return fmt.Errorf("a batch of %s has %d columns instead of %d", w.table.Name, batch.NumCols(), len(w.table.Columns))
	}
	for i, c := range w.table.Columns {
		field := batch.Schema().Field(i)
		want := arrowType(c.Type)
		text := want.ID() == arrow.DICTIONARY || want.ID() == arrow.STRING
		d, isDictionary := field.Type.(*arrow.DictionaryType)
		switch {
		case field.Name != c.Name:
			return fmt.Errorf("a batch of %s has column %s in place of %s", w.table.Name, field.Name, c.Name)
		case text && isDictionary && d.ValueType.ID() == arrow.STRING:
			if batch.Column(i).(*array.Dictionary).Dictionary().Len() > w.options.MaxDictionary {
				return &OutgrownError{c.Name}
			}
		case text && field.Type.ID() == arrow.STRING:
		case !text && arrow.TypeEqual(field.Type, want):
		default:
			return fmt.Errorf("column %s of %s is %s instead of %s", c.Name, w.table.Name, field.Type, want)
		}
	}
	return nil
}

// flush writes the waiting row group, into a new file if there is none, and ends the file if it is large enough.
func (w *Writer) flush() error {
	if w.current == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	f := w.current
	w.extremes(&f.File)
	rows := w.group.rows
	if err := w.group.write(w.ctx, f.writer, w.arrow, w.options.Workers); err != nil {
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

// extremes widens a file's limits by the waiting rows.
func (w *Writer) extremes(f *File) {
	if w.timeAt >= 0 {
		for _, piece := range w.group.columns[w.timeAt] {
			values := piece.(*array.Timestamp).Values()
			low, high := time.UnixMicro(int64(slices.Min(values))).UTC(), time.UnixMicro(int64(slices.Max(values))).UTC()
			f.MinTime, f.MaxTime = widen(f.MinTime, f.MaxTime, low, high)
		}
	}
	if w.dateAt >= 0 {
		for _, piece := range w.group.columns[w.dateAt] {
			values := piece.(*array.Date32).Values()
			f.MinDate, f.MaxDate = widen(f.MinDate, f.MaxDate, slices.Min(values).ToTime(), slices.Max(values).ToTime())
		}
	}
}

func widen(first, last, low, high time.Time) (time.Time, time.Time) {
	if first.IsZero() || low.Before(first) {
		first = low
	}
	if last.IsZero() || high.After(last) {
		last = high
	}
	return first, last
}

// Close writes what is waiting, ends the last file and returns all of them, none if there was no row.
func (w *Writer) Close() ([]File, error) {
	if w.group.rows > 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	if w.current != nil {
		if err := w.end(); err != nil {
			return nil, err
		}
	}
	return w.done, nil
}

// Abort gives the file that is being written up, and returns the paths of those that are complete.
func (w *Writer) Abort() []string {
	w.group.release()
	if w.current != nil {
		w.current.to.Abort()
		w.current = nil
	}
	var paths []string
	for _, f := range w.done {
		paths = append(paths, f.Path)
	}
	return paths
}

// Copy writes all batches that next returns until io.EOF, reading ahead of the encoding by a few batches. When it gives up it calls
// cancel, which must make a running next return. progress is told of each batch's rows.
func (w *Writer) Copy(next func() (arrow.RecordBatch, error), cancel func(), progress func(rows int64)) error {
	type item struct {
		batch arrow.RecordBatch
		err   error
	}
	ahead := make(chan item, 2)
	stop := make(chan struct{})
	ended := make(chan struct{})
	defer func() {
		close(stop)
		cancel()
		for i := range ahead {
			if i.batch != nil {
				i.batch.Release()
			}
		}
		<-ended
	}()
	go func() {
		defer close(ended)
		defer close(ahead)
		for {
			batch, err := next()
			if batch != nil {
				batch.Retain()
			}
			select {
			case ahead <- item{batch, err}:
			case <-stop:
				if batch != nil {
					batch.Release()
				}
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for i := range ahead {
		if errors.Is(i.err, io.EOF) {
			return nil
		}
		if i.err != nil {
			return i.err
		}
		err := w.Write(i.batch)
		rows := i.batch.NumRows()
		i.batch.Release()
		if err != nil {
			return err
		}
		progress(rows)
	}
	return w.ctx.Err()
}

// sortedKeys returns a map's keys in order.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
