package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/parquetfile"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/schemas/dictionary"
)

// closedDay is a version of a closed day.
type closedDay struct {
	date     time.Time // midnight UTC
	closedAt time.Time
	events   uint64
}

func (d closedDay) name() string { return d.date.Format(time.DateOnly) }

// freshDays returns the days that were closed, or closed again, since they were published, oldest first.
func freshDays(ctx context.Context, t cut.Table, s *manifest.State) ([]closedDay, error) {
	all, err := readClosed(ctx, t)
	if err != nil {
		return nil, err
	}
	var fresh []closedDay
	for _, d := range all {
		if s.Scope.Since != nil && d.date.Before(s.Scope.Since.Truncate(24*time.Hour)) || s.Scope.Until != nil && !d.date.Before(*s.Scope.Until) {
			continue
		}
		if last, ok := s.Days[d.name()]; !ok || last.ClosedAt.Before(d.closedAt) {
			fresh = append(fresh, d)
		}
	}
	slices.SortFunc(fresh, func(a, b closedDay) int { return cmp.Compare(a.date.Unix(), b.date.Unix()) })
	return fresh, nil
}

// readClosed reads the newest version of every closed day.
func readClosed(ctx context.Context, t cut.Table) ([]closedDay, error) {
	var all []closedDay
	err := t.Source.Rows(ctx, source.Query{SQL: "SELECT date, max(closed_at), argMax(events, closed_at) AS n FROM " + t.Layout.All("closed_days") +
		" GROUP BY date HAVING n > 0"}, // without: it is about to be closed again
		func(r source.Row) error {
			all = append(all, closedDay{date: r.Date(0), closedAt: r.Time(1), events: r.Uint(2)})
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read which days are closed: %w", err)
	}
	return all, nil
}

// writeDay writes one closed day. A day that is being closed again just now is left for the next cut.
func (e *Exporter) writeDay(ctx context.Context, files *attempt, m *manifest.Manifest, d closedDay) error {
	t := dictionary.Days()
	before := len(files.paths)
	from := " FROM " + e.table.Layout.All(t.Source) + " WHERE date = toDate('" + d.name() + "')"
	var rows int64
	err := e.source.Rows(ctx, source.Query{SQL: "SELECT count()" + from}, func(r source.Row) error {
		rows = int64(r.Uint(0))
		return nil
	})
	if err != nil {
		return fmt.Errorf("count the closed day %s: %w", d.name(), err)
	}
	writer, err := parquetfile.NewWriter(t, e.options(files, 0), func(int) (string, store.Writer, error) {
		return files.create(ctx, t.Name+"/dt="+d.name()+"/")
	})
	if err != nil {
		return err
	}
	sql := "SELECT " + t.Stored() + " FROM (SELECT *" + from + " ORDER BY profile_id, dimension, kind, class, link_id, surface, bucket, value)"
	blocks, err := e.source.Blocks(ctx, source.Query{SQL: sql, Params: map[string]string{"closed_at": d.closedAt.UTC().Format("2006-01-02 15:04:05.000000")}})
	if err != nil {
		return fmt.Errorf("read the closed day %s: %w", d.name(), err)
	}
	defer blocks.Close()
	written, failed := e.write(ctx, writer, blocks, rows, func(int64) {})
	if failed != nil {
		failed = fmt.Errorf("export the closed day %s: %w", d.name(), failed)
	}
	if failed != nil && !errors.Is(failed, cut.ErrChanged) {
		return failed
	}
	// Fewer or more rows than were counted: either it was closed again meanwhile, or something is wrong.
	all, err := readClosed(ctx, e.table)
	if err != nil {
		return err
	}
	same := func(c closedDay) bool { return c.date.Equal(d.date) && c.closedAt.Equal(d.closedAt) }
	if !slices.ContainsFunc(all, same) {
		again := attempt{store: e.store, paths: files.paths[before:]}
		again.remove(ctx)
		files.paths = files.paths[:before]
		return nil
	}
	if failed != nil {
		return failed
	}
	day := manifest.Day{Date: d.name(), ClosedAt: d.closedAt, Events: d.events, Rows: writer.Rows(), Supersedes: e.state.Days[d.name()].Cut, Files: []string{}}
	for _, f := range written {
		day.Files = append(day.Files, f.Path)
	}
	m.Files = append(m.Files, entries(t, written)...)
	m.Days = append(m.Days, day)
	return nil
}
