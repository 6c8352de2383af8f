package versus

import (
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/schemas/event"
)

// counter counts what is written to it.
type counter struct{ bytes int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.bytes += int64(len(b))
	return len(b), nil
}

// disk compares the merged table with what keeps the same visits today: a web server's log, compressed.
func (b *Bench) disk(ctx context.Context) (*Table, error) {
	w, err := b.warehouse(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	n := pick(b, 1_000_000, 60_000)
	const step = 5 * time.Millisecond // 200 a second
	c, err := newCrowd(ctx, 10_000, time.Now().Add(-time.Duration(n)*step), step)
	if err != nil {
		return nil, err
	}
	var zipped counter
	out := gzip.NewWriter(&zipped)
	var broken error
	plain := int64(0)
	all, err := c.batches(n, func(e *event.Event, p *person) {
		line := logLine(e, p) + "\n"
		plain += int64(len(line))
		if _, err := out.Write([]byte(line)); err != nil {
			broken = err
		}
	})
	if err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil || broken != nil {
		return nil, fmt.Errorf("compress the log: %w", err)
	}
	ready, err := blocks(all, 100_000)
	if err != nil {
		return nil, err
	}
	if err := own(ctx, w.Columns); err != nil {
		return nil, err
	}
	if err := w.insert(ctx, ready); err != nil {
		return nil, err
	}
	if err := w.Do(ctx, "OPTIMIZE TABLE "+w.Database()+".events FINAL"); err != nil {
		return nil, err
	}
	if err := w.Merged(ctx); err != nil {
		return nil, err
	}
	where := " FROM system.%s WHERE database = '" + w.Database() + "' AND table = 'events' AND active"
	total, err := w.Number(ctx, "SELECT sum(bytes_on_disk)"+fmt.Sprintf(where, "parts"))
	if err != nil {
		return nil, err
	}
	projections, err := w.Number(ctx, "SELECT sum(bytes_on_disk)"+fmt.Sprintf(where, "projection_parts"))
	if err != nil {
		return nil, err
	}
	parts, err := w.Ask(ctx, "SELECT column || ' ' || toString(round(sum(column_data_compressed_bytes) / "+fmt.Sprint(n)+", 2))"+
		fmt.Sprintf(where, "parts_columns")+" GROUP BY column ORDER BY sum(column_data_compressed_bytes) DESC LIMIT 8", nil)
	if err != nil {
		return nil, err
	}
	line := float64(zipped.bytes) / float64(n)
	row := func(what string, bytes, goal float64) Row {
		each := bytes / float64(n)
		return Row{What: what, Ours: measure.Number(each), Peer: "gzip'd line: " + measure.Number(line), Ratio: measure.Series{each / line}, Goal: goal}
	}
	return &Table{Title: "Bytes on disk", How: fmt.Sprintf("%d views and clicks of people on 1000 profiles, 200 a second, merged (OPTIMIZE FINAL), against the combined log of the same visits, "+
		"gzip level 6 (%s bytes a line before).", n, measure.Number(float64(plain)/float64(n))),
		Rows: []Row{
			row("bytes an event, all", total, 0.5),
			row("… without the projections", total-projections, 0),
		}, Notes: []string{"The largest columns, bytes an event: " + strings.Join(strings.Split(strings.TrimSpace(string(parts)), "\n"), ", ") +
			". A visitor's id is eight random bytes, which nothing compresses, once a visitor and day; the log has the address instead, which Spillway keeps nowhere."}}, nil
}
