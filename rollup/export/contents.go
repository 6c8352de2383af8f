package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/store"
)

// contents reads a manifest's files.
func (a *audit) contents(ctx context.Context, m *manifest.Manifest) error {
	seen, err := newMarks(m)
	if err != nil {
		a.report.problem("%v", err)
		return nil
	}
	for _, f := range m.Files {
		if err := a.content(ctx, f, seen); err != nil {
			return err
		}
	}
	for _, s := range m.Streams {
		if n := seen.count(s); n != s.Rows {
			a.report.problem("%s: of stream %s partition %d %d events are in the files, not %d", manifest.Path(m.Cut), s.Stream, s.Partition, n, s.Rows)
		}
	}
	return nil
}

// content reads one file.
func (a *audit) content(ctx context.Context, f manifest.File, seen *marks) error {
	from, err := a.store.Read(ctx, f.Path)
	if errors.Is(err, store.ErrNotFound) {
		return nil // the listing says so
	}
	if err != nil {
		return err
	}
	defer from.Close()
	spool, err := os.CreateTemp("", "spillway-audit-")
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	defer func() {
		_ = spool.Close()
		_ = os.Remove(spool.Name())
	}()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(spool, sum), from); err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		a.report.problem("%s has another content than when it was published (checksum)", f.Path)
		return nil
	}
	raw, err := file.NewParquetReader(spool)
	if err != nil {
		a.report.problem("%s is no Parquet file: %v", f.Path, err)
		return nil
	}
	if raw.NumRows() != f.Rows {
		a.report.problem("%s has %d rows instead of %d", f.Path, raw.NumRows(), f.Rows)
	}
	if f.Table != "events" {
		return nil
	}
	if err := a.names(ctx, f, raw, seen); err != nil {
		a.report.problem("%s: %v", f.Path, err)
	}
	return ctx.Err()
}

// names marks the events of a file.
func (a *audit) names(ctx context.Context, f manifest.File, raw *file.Reader, seen *marks) error {
	reader, err := pqarrow.NewFileReader(raw, pqarrow.ArrowReadProperties{BatchSize: 1 << 16}, memory.DefaultAllocator)
	if err != nil {
		return err
	}
	var columns []int
	for _, name := range []string{"stream", "partition", "sequence"} {
		at := raw.MetaData().Schema.ColumnIndexByName(name)
		if at < 0 {
			return fmt.Errorf("it has no column %s", name)
		}
		columns = append(columns, at)
	}
	records, err := reader.GetRecordReader(ctx, columns, nil)
	if err != nil {
		return err
	}
	defer records.Release()
	for records.Next() {
		batch := records.RecordBatch()
		streams, isText := batch.Column(0).(*array.String)
		partitions, isInt := batch.Column(1).(*array.Int32)
		sequences, isLong := batch.Column(2).(*array.Int64)
		if !isText || !isInt || !isLong {
			return fmt.Errorf("its columns stream, partition and sequence are of other types")
		}
		for i := range int(batch.NumRows()) {
			if problem := seen.mark(streams.Value(i), uint32(partitions.Value(i)), uint64(sequences.Value(i))); problem != "" {
				a.report.problem("%s: the event %s/%d/%d %s", f.Path, streams.Value(i), partitions.Value(i), sequences.Value(i), problem)
			}
		}
	}
	return records.Err()
}

// marks is a bit for each event of a manifest.
type marks struct {
	lanes map[string]map[uint32][]marked
}

type marked struct {
	cut.Range
	bits []uint64
}

func newMarks(m *manifest.Manifest) (*marks, error) {
	if _, err := m.Vector(); err != nil {
		return nil, err
	}
	s := &marks{lanes: map[string]map[uint32][]marked{}}
	for _, stream := range m.Streams {
		if s.lanes[stream.Stream] == nil {
			s.lanes[stream.Stream] = map[uint32][]marked{}
		}
		for _, r := range stream.Ranges {
			s.lanes[stream.Stream][stream.Partition] = append(s.lanes[stream.Stream][stream.Partition], marked{r, make([]uint64, (r.Len()+63)/64)})
		}
	}
	return s, nil
}

// mark notes an event, and says what is wrong with it.
func (s *marks) mark(stream string, partition uint32, sequence uint64) string {
	for _, r := range s.lanes[stream][partition] {
		if sequence < r.First || sequence > r.Last {
			continue
		}
		at := sequence - r.First
		if r.bits[at/64]&(1<<(at%64)) != 0 {
			return "is in the cut twice"
		}
		r.bits[at/64] |= 1 << (at % 64)
		return ""
	}
	return "is not one of the cut"
}

// count is how many events of a stream were marked.
func (s *marks) count(stream manifest.Stream) (n int64) {
	for _, r := range s.lanes[stream.Stream][stream.Partition] {
		for _, word := range r.bits {
			n += int64(bits.OnesCount64(word))
		}
	}
	return n
}
