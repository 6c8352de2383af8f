package parquetfile

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow-go/v18/parquet/file"

	"spillway.dev/rollup/export/source"
	"spillway.dev/schemas/dictionary"
)

// piece is some rows of a block.
type piece struct {
	block    *source.Block
	from, to int
}

// rowGroup collects blocks until they fill a row group. Blocks are held, not copied.
type rowGroup struct {
	pieces []piece
	rows   int
}

func (g *rowGroup) add(b *source.Block, from, to int) {
	g.pieces = append(g.pieces, piece{b, from, to})
	g.rows += to - from
}

// release gives the blocks back whose last rows are in this group: the group before, which may have their first rows, is written already.
func (g *rowGroup) release() {
	for _, p := range g.pieces {
		if p.to == p.block.Rows {
			p.block.Release()
		}
	}
	g.pieces, g.rows = g.pieces[:0], 0
}

// write encodes the row group into a file, as many columns at once as there are encoders, and empties it.
func (g *rowGroup) write(t dictionary.Table, to *file.Writer, encoders []*encoder) error {
	defer g.release()
	group, err := to.AppendBufferedRowGroupChecked()
	if err != nil {
		return fmt.Errorf("begin a row group: %w", err)
	}
	errs := make([]error, len(t.Columns))
	next := make(chan int, len(t.Columns))
	for i := range t.Columns {
		next <- i
	}
	close(next)
	var running sync.WaitGroup
	for _, e := range encoders {
		running.Go(func() {
			for i := range next {
				errs[i] = e.encode(g, t.Columns[i], i, group)
			}
		})
	}
	running.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("encode column %s: %w", t.Columns[i].Name, err)
		}
	}
	if err := group.Close(); err != nil {
		return fmt.Errorf("write a row group: %w", err)
	}
	return nil
}

// extremes widens a file's limits by the group's rows.
func (g *rowGroup) extremes(f *File, timeAt, dateAt int) error {
	if timeAt >= 0 {
		low, high, err := g.limits(timeAt)
		if err != nil {
			return err
		}
		f.MinTime, f.MaxTime = widen(f.MinTime, f.MaxTime, time.UnixMicro(low).UTC(), time.UnixMicro(high).UTC())
	}
	if dateAt >= 0 {
		low, high, err := g.limits(dateAt)
		if err != nil {
			return err
		}
		f.MinDate, f.MaxDate = widen(f.MinDate, f.MaxDate, time.Unix(low*86400, 0).UTC(), time.Unix(high*86400, 0).UTC())
	}
	return nil
}

// limits are the smallest and the largest value of a column of times or dates.
func (g *rowGroup) limits(column int) (low, high int64, err error) {
	low, high = math.MaxInt64, math.MinInt64
	for _, p := range g.pieces {
		switch c := p.block.Column(column).(type) {
		case *proto.ColInt64:
			for _, v := range (*c)[p.from:p.to] {
				low, high = min(low, v), max(high, v)
			}
		case *proto.ColDate:
			for _, v := range (*c)[p.from:p.to] {
				low, high = min(low, int64(v)), max(high, int64(v))
			}
		default:
			return 0, 0, fmt.Errorf("column %s is no time", p.block.Name(column))
		}
	}
	return low, high, nil
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
