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
	each, err := w.Ask(ctx, "SELECT name || ' ' || toString(round(sum(bytes_on_disk) / "+fmt.Sprint(n)+", 2))"+
		fmt.Sprintf(where, "projection_parts")+" GROUP BY name ORDER BY sum(bytes_on_disk) DESC", nil)
	if err != nil {
		return nil, err
	}
	// What rollup does when all days of a month are closed.
	if err := w.Do(ctx, "ALTER TABLE "+w.Database()+".events CLEAR PROJECTION visitors SETTINGS mutations_sync = 1"); err != nil {
		return nil, err
	}
	closed, err := w.Number(ctx, "SELECT sum(bytes_on_disk)"+fmt.Sprintf(where, "parts"))
	if err != nil {
		return nil, err
	}
	least, given, err := w.floor(ctx)
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
			row("bytes an event, once the days of its month are closed", closed, 0.5),
			row("… before, with the unique visitors of open days", total, 0.5),
			row("… without the projections", total-projections, 0),
			row("what the values hold, column by column", least*float64(n), 0),
		}, Notes: []string{
			"The largest columns, bytes an event: " + list(parts) + ". The projections: " + list(each) +
				" (visitors are the unique visitors of open days: hashes, which nothing compresses; rollup lets go of them when the days of the month are closed). " +
				"A visitor's id is eight random bytes once a visitor and day; the log has the address instead, which Spillway keeps nowhere.",
			fmt.Sprintf("The floor, computed from these events: each visitor's id once; times, sequences and offsets as the entropy of their differences from the row before; "+
				"links as that of a link where the profile is known; profiles and dates nothing, since rows are sorted by them; every other column its own entropy. "+
				"The table without its projections takes %s × that, and half a line is %s ×. With the projections no coding of single columns gets below %s bytes, %s × the line, while days are open. "+
				"If what follows from the user agent (class, reason, device, browser, system) and from the referrer (its host, the channel) took nothing, the floor would be %s.",
				measure.Number((total-projections)/float64(n)/least), measure.Number(line/2/least), measure.Number(least+projections/float64(n)),
				measure.Number((least+projections/float64(n))/line), measure.Number(given)),
		}}, nil
}

// list makes lines one line.
func list(lines []byte) string {
	return strings.Join(strings.Split(strings.TrimSpace(string(lines)), "\n"), ", ")
}

// floor is how many bytes an event the values of the table hold when each column is coded by itself, in the table's order, and how many when also
// what follows from the user agent and the referrer takes nothing. It is Shannon's entropy of the values that there are, which of the
// differences, many of which come once only, is a little too low: so it is a bound that cannot be reached, not one that can.
func (w *warehouse) floor(ctx context.Context) (least, given float64, err error) {
	all, err := w.Ask(ctx, "SELECT name FROM system.columns WHERE database = '"+w.Database()+"' AND table = 'events'", nil)
	if err != nil {
		return 0, 0, err
	}
	from := " FROM " + w.Database() + ".events"
	difference := func(number string) string {
		return "(SELECT entropy(d) FROM (SELECT " + number + " - lagInFrame(" + number + ") OVER (ORDER BY date, profile_id, time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS d" + from + "))"
	}
	follows := map[string]bool{"class": true, "reason": true, "device": true, "browser": true, "os": true, "referrer_host": true, "channel": true}
	for column := range strings.Lines(string(all)) {
		column = strings.TrimSpace(column)
		bits := "(SELECT entropy(" + column + ")" + from + ")"
		switch column {
		case "date", "profile_id":
			continue
		case "visitor":
			bits = "(SELECT 64 * uniqExact(visitor) / count()" + from + ")"
		case "time":
			bits = difference("toUnixTimestamp64Micro(time)")
		case "sequence", "offset":
			bits = difference("toInt64(" + column + ")")
		case "link_id":
			bits = "(SELECT entropy(tuple(profile_id, link_id)) - entropy(profile_id)" + from + ")"
		}
		bytes, err := w.Number(ctx, "SELECT "+bits+" / 8")
		if err != nil {
			return 0, 0, err
		}
		least += bytes
		if !follows[column] {
			given += bytes
		}
	}
	return least, given, nil
}
