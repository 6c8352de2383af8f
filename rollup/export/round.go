package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
	"time"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/parquetfile"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/schemas/dictionary"
)

// round makes and publishes one cut. It returns no manifest when there is nothing to publish, and how many events are held.
func (e *Exporter) round(ctx context.Context) (*manifest.Manifest, uint64, error) {
	began := e.now()
	// Cut times never go back, whatever the clock does: an hour that a later cut has left behind is complete.
	at := began.UTC().Truncate(time.Microsecond)
	if at.Before(e.state.At) {
		at = e.state.At
	}
	limits := cut.Limits{Events: e.config.Events, Lanes: maxLanes, Hold: e.config.Hold, Now: began,
		Condition: cut.Condition{Since: e.scope.Since, Until: e.scope.Until}}
	if !e.state.At.IsZero() {
		limits.Recent = e.state.At.AddDate(0, 0, -2)
	}
	plan, err := e.table.Next(ctx, e.state.Vector, limits)
	if err != nil {
		return nil, 0, err
	}
	e.progress.Stage("cut " + strconv.FormatUint(e.state.Head+1, 10))
	e.progress.Total(float64(plan.Add.Len() + plan.Left))
	closed, err := freshDays(ctx, e.table, e.state)
	if err != nil {
		return nil, plan.Held, err
	}
	closed = closed[:min(len(closed), maxDays)]
	// A cut without anything is made once after an hour with events, to say that the hour is complete.
	over := !e.state.Hour.IsZero() && e.state.Hour.Before(manifest.HourOf(at))
	if len(plan.Add) == 0 && len(closed) == 0 && !over {
		return nil, plan.Held, nil
	}
	m, err := e.make(ctx, at, plan, closed)
	if err != nil {
		return nil, plan.Held, err
	}
	e.winner[m.Cut] = m.Run
	e.metrics.cuts.Inc()
	e.metrics.bytes.Add(float64(m.Bytes))
	e.metrics.events.Add(float64(plan.Total))
	e.metrics.head.Set(float64(m.At.Unix()))
	e.metrics.seconds.Observe(e.now().Sub(began).Seconds())
	return m, plan.Held, e.chain.Mark(ctx, e.state)
}

// make writes a cut's files and publishes them. If it fails for certain they are removed.
func (e *Exporter) make(ctx context.Context, at time.Time, plan *cut.Plan, closed []closedDay) (_ *manifest.Manifest, err error) {
	files := &attempt{Attempt: e.newAttempt(), store: e.store}
	defer func() {
		// When a manifest's fate is unknown its files stay: if it was not published, a later run finds them to be garbage.
		if err != nil && !files.unknown {
			files.remove(ctx)
		}
	}()
	m := &manifest.Manifest{At: at, Run: files.Run, SchemaVersion: dictionary.Version, Files: []manifest.File{}, Streams: []manifest.Stream{}}
	for _, lane := range plan.Add.Lanes() {
		m.Streams = append(m.Streams, manifest.Stream{Stream: cut.StreamName(lane.Stream), Partition: lane.Partition, Ranges: plan.Add[lane], Rows: plan.Rows[lane]})
	}
	if plan.Total > 0 {
		if err := e.writeEvents(ctx, files, m, plan); err != nil {
			return nil, e.overtaken(ctx, err)
		}
	} else {
		e.progress.Add(float64(plan.Add.Len()))
	}
	for _, d := range closed {
		if err := e.writeDay(ctx, files, m, d); err != nil {
			return nil, e.overtaken(ctx, err)
		}
	}
	if len(m.Files) > manifest.MaxFiles {
		return nil, fmt.Errorf("cut %d has %d files, a manifest takes %d: make --cut-events smaller or --file-bytes larger", files.Cut, len(m.Files), manifest.MaxFiles)
	}
	for _, f := range m.Files {
		m.Rows += f.Rows
		m.Bytes += f.Bytes
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.chain.Publish(ctx, e.state, m); err != nil {
		files.unknown = !errors.Is(err, manifest.ErrConflict)
		return nil, err
	}
	return m, nil
}

// overtaken returns what to say of an error while files were written: once another exporter has published the cut, these files are
// garbage, which it may have removed already.
func (e *Exporter) overtaken(ctx context.Context, err error) error {
	if _, there := e.store.Stat(ctx, manifest.Path(e.state.Head+1)); there == nil {
		return manifest.ErrConflict
	}
	return err
}

// inWords adds the cure to an error that has one.
func (e *Exporter) inWords(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: make room in %s and run it again; what was published stays", err, e.store)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let this user write to %s, or choose another place", err, e.store)
	}
	return err
}

// attempt is the files of one attempt at a cut.
type attempt struct {
	manifest.Attempt
	store   store.Store
	number  int
	paths   []string
	unknown bool // whether the manifest was published
}

// create begins the attempt's next file in a folder.
func (a *attempt) create(ctx context.Context, folder string) (string, store.Writer, error) {
	a.number++
	path := folder + a.FileName(a.number)
	w, err := a.store.Create(ctx, path)
	if err != nil {
		return "", nil, err
	}
	a.paths = append(a.paths, path)
	return path, w, nil
}

// remove removes the files, as far as it can: what stays is garbage that a later run finds.
func (a *attempt) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, path := range a.paths {
		if a.store.Remove(ctx, path) != nil {
			return
		}
	}
}

// readEvents is the query that gives a plan's events in the order of the files.
func (e *Exporter) readEvents(plan *cut.Plan) source.Query {
	t := dictionary.Events()
	condition := cut.Condition{MinDate: plan.MinDate, MaxDate: plan.MaxDate, Since: e.scope.Since, Until: e.scope.Until}
	once := ""
	if plan.Doubled {
		once = " LIMIT 1 BY stream, partition, sequence"
	}
	// The columns are named outside: a name such as sequence means the table's column inside.
	sql := "SELECT " + t.Stored() + " FROM (SELECT * FROM " + e.table.Layout.All(t.Source) +
		" PREWHERE " + plan.Add.Predicate() + " WHERE 1" + condition.SQL() + " ORDER BY date, profile_id, time" + once + ")"
	return source.Query{SQL: sql, Settings: map[string]string{
		"optimize_read_in_order": "1", // the table is stored in this order: a merge, not a sort
		// Blocks that wait beside a row group are memory: they should be small beside it.
		"max_block_size": "16384",
	}}
}

// writeEvents writes the plan's events.
func (e *Exporter) writeEvents(ctx context.Context, files *attempt, m *manifest.Manifest, plan *cut.Plan) error {
	if plan.Doubled {
		e.log.Warn("ClickHouse holds events twice; each is exported once", "cut", files.Cut)
	}
	t := dictionary.Events()
	writer, err := parquetfile.NewWriter(t, e.options(files, plan.Total), func(int) (string, store.Writer, error) {
		return files.create(ctx, manifest.Partition(t.Name, m.At))
	})
	if err != nil {
		return err
	}
	blocks, err := e.source.Blocks(ctx, e.readEvents(plan))
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer blocks.Close()
	// The bar counts sequences: some of them are not rows, if they expired or are not in the scope.
	each := float64(plan.Add.Len()) / float64(plan.Total)
	var shown float64
	written, err := e.write(ctx, writer, blocks, plan.Total, func(rows int64) {
		shown += float64(rows) * each
		e.progress.Add(float64(rows) * each)
	})
	if err != nil {
		e.progress.Add(-shown)
		return fmt.Errorf("export events: %w", err)
	}
	m.Files = append(m.Files, entries(t, written)...)
	return nil
}

// write writes an answer of so many rows into files.
func (e *Exporter) write(ctx context.Context, to *parquetfile.Writer, blocks *source.Blocks, rows int64, progress func(rows int64)) ([]parquetfile.File, error) {
	err := to.Copy(ctx, blocks.Next, blocks.Cancel, progress)
	if err == nil && to.Rows() != rows {
		err = fmt.Errorf("%w: %d rows were read, %d counted", cut.ErrChanged, to.Rows(), rows)
	}
	var written []parquetfile.File
	if err == nil {
		written, err = to.Close()
	}
	if err != nil {
		to.Abort()
		return nil, err
	}
	return written, nil
}

// options are those of the files of an attempt.
func (e *Exporter) options(files *attempt, rows int64) parquetfile.Options {
	return parquetfile.Options{
		TargetBytes: e.config.FileSize, LeastBytes: e.config.FileSize * 2 / 3, ExpectedRows: rows,
		Metadata: map[string]string{"cut": strconv.FormatUint(files.Cut, 10)},
	}
}

// entries are the files as a manifest lists them.
func entries(t dictionary.Table, written []parquetfile.File) []manifest.File {
	var list []manifest.File
	for _, f := range written {
		entry := manifest.File{Path: f.Path, Table: t.Name, Rows: f.Rows, Bytes: f.Bytes, SHA256: f.SHA256, RowGroups: f.RowGroups,
			SchemaVersion: dictionary.Version, MinDate: f.MinDate.Format(time.DateOnly), MaxDate: f.MaxDate.Format(time.DateOnly)}
		if !f.MinTime.IsZero() {
			entry.MinTime, entry.MaxTime = &f.MinTime, &f.MaxTime
		}
		list = append(list, entry)
	}
	return list
}
