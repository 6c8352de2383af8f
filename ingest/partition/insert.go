package partition

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/deadletter"
	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/table"
)

// insert turns what waits into one insert and waits for its answer. Without an answer, or with an error for an answer, it is a doubt:
// nothing is ever sent twice.
func (f *following) insert(ctx context.Context) error {
	if err := f.fill(ctx); err != nil {
		return err
	}
	defer f.giveBack()
	block := f.block
	if block.Rows() > 0 {
		if err := f.send(ctx, block); err != nil {
			return err
		}
		now := time.Now()
		f.Metrics.freshness.observe(block.Times(), now)
		f.Hints.Add(block.Touched())
	}
	f.rows, f.bytes = 0, 0
	f.done = f.position
	return nil
}

// borrow waits for a block. Owners hold one while they fill and insert it, and while they gather much: so what a process gathers is
// bounded by its blocks, whatever the number of its partitions.
func (f *following) borrow(ctx context.Context) (err error) {
	if f.block != nil {
		return nil
	}
	if f.block, err = f.Blocks.Get(ctx); err == nil {
		f.block.Reset(f.partition, uint64(f.term))
	}
	return err
}

func (f *following) giveBack() {
	if f.block != nil {
		f.Blocks.Put(f.block)
		f.block = nil
	}
}

// fill decodes what waits into the block. What does not decode, and what is older than the retention, is set aside.
func (f *following) fill(ctx context.Context) error {
	if err := f.borrow(ctx); err != nil {
		return err
	}
	oldest := oldest(time.Now(), f.options.RetentionDays)
	for i := range f.waiting {
		w := &f.waiting[i]
		_, expired, err := f.block.Append(&w.batch, w.record.Offset, w.wanted, oldest)
		reason := deadletter.Unreadable
		if err == nil && expired > 0 {
			f.Metrics.expired.Add(float64(expired))
			reason, err = deadletter.Expired, fmt.Errorf("%d of %d events are of a month older than the retention of %d days", expired, w.batch.Count, f.options.RetentionDays)
		}
		if err != nil {
			if err := f.letters.Send(w.record, reason, err); err != nil {
				return err
			}
		}
	}
	clear(f.waiting)
	f.waiting, f.wanted = f.waiting[:0], f.wanted[:0]
	hits, misses := f.block.Lookups()
	f.Metrics.hits.Add(float64(hits))
	f.Metrics.misses.Add(float64(misses))
	return nil
}

// oldest returns the first day (since 1970-01-01) that is kept: the beginning of the month in which the retention begins, because
// raw events are dropped by months.
func oldest(now time.Time, retentionDays int) uint16 {
	first := now.UTC().AddDate(0, 0, -retentionDays)
	day := time.Date(first.Year(), first.Month(), 1, 0, 0, 0, 0, time.UTC).Unix() / (24 * 60 * 60)
	return uint16(max(day, 0))
}

// send inserts a block.
func (f *following) send(ctx context.Context, block *columns.Block) error {
	body, err := block.Encode()
	if err != nil {
		return doubtful(causeInsert, err)
	}
	limited, cancel := f.patient(ctx)
	defer cancel()
	began := time.Now()
	err = f.table.Do(limited, table.Insert{
		Statement: "INSERT INTO " + f.table.Layout.Local("events") + " (" + strings.Join(block.Names(), ", ") + ") FORMAT Native",
		Body:      body,
		Tag:       f.fence.Tag(f.partition, f.term),
	})
	f.inserted = time.Now()
	f.took = f.inserted.Sub(began)
	if err != nil {
		// The request may still be on its way to somewhere. It must never come to hold rows of another term.
		block.LetGo()
		return f.notInserted(ctx, fmt.Errorf("insert %d rows: %w", block.Rows(), err))
	}
	f.doubts = 0
	f.Metrics.insertSeconds.Observe(f.took.Seconds())
	f.Metrics.rowsAnInsert.Observe(float64(block.Rows()))
	f.Metrics.rows.Add(float64(block.Rows()))
	f.Metrics.inserts.Inc()
	return nil
}

// patient returns a context that ends when an insert has taken too long, and a grace after ctx ended: whoever takes the partition next
// would have to wait for the insert anyway.
func (f *following) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.options.Answer)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(f.options.Grace, cancel) })
	return limited, func() { stop(); cancel() }
}

// notInserted tells a refusal, which says who owns the partition, from a doubt.
func (f *following) notInserted(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*table.Exception](err); ok && e.Code == table.ViolatedConstraint {
		switch now := f.fence.Check(ctx, f.partition, f.term); {
		case errors.Is(now, fence.ErrRefused):
			return fmt.Errorf("%w: %w", now, err)
		case errors.Is(now, fence.ErrNoTerm):
			return doubtful(causeTerm, fmt.Errorf("%w: %w", now, err))
		}
	}
	return doubtful(causeInsert, err)
}
