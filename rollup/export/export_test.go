package export

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/store"
)

const (
	streamA = 0xfedcba9876543210
	streamB = 0x0000000000000b0b
)

// Holes fill later, events come late: each event is in exactly one file, and what was published stays as it is.
func TestEveryEventOnce(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)

	f.insert(streamA, 0, 1, 1000, day0)
	f.insert(streamA, 1, 1, 500, day0)
	f.insert(streamA, 1, 601, 900, day0.Add(time.Hour)) // 501 … 600 are missing
	f.insert(streamB, 0, 1, 2, day0.AddDate(0, -2, 0))
	summary := f.once(root)
	require.EqualValues(t, 1502, summary.Events)
	require.EqualValues(t, 300, summary.Held)
	require.EqualValues(t, 1, summary.Head)
	sameRows(t, f.wantEvents("WHERE NOT (stream = 18364758544493064720 AND partition = 1 AND sequence > 600)"), publishedRows(t, s, "events"))
	first := published(t, s)[0]
	require.Equal(t, []cut.Range{{First: 1, Last: 500}}, []cut.Range(first.Streams[2].Ranges))

	// Nothing new: no cut.
	require.Zero(t, f.once(root).Cuts)

	// The hole is filled in two steps, another stream goes on, and one comes late by two months.
	f.insert(streamA, 1, 501, 550, day0)
	f.insert(streamB, 0, 3, 40, day0.AddDate(0, -2, 0))
	require.EqualValues(t, 50+38, f.once(root).Events)
	f.insert(streamA, 1, 551, 600, day0)
	summary = f.once(root)
	require.EqualValues(t, 50+300, summary.Events)
	require.Zero(t, summary.Held)
	require.EqualValues(t, 3, summary.Head)
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
	require.Equal(t, first, published(t, s)[0], "a published manifest does not change")
}

// A hole that stays is gone around after a while; what fills it later is published then.
func TestHoleIsGoneAround(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	f.insert(streamA, 3, 1, 100, day0)
	f.insert(streamA, 3, 201, 300, day0)
	f.insert(streamA, 3, 401, 70_000, day0)
	hold := func(c *Config) { c.Hold = time.Hour }
	clock := func(e *Exporter, at time.Time) *Exporter {
		e.now = func() time.Time { return at }
		return e
	}
	summary, err := clock(f.exporter(root, hold), day0.Add(59*time.Minute)).Once(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 100, summary.Events)
	require.EqualValues(t, 100+69_600, summary.Held)
	summary, err = clock(f.exporter(root, hold), day0.Add(68*time.Minute)).Once(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 100+69_600, summary.Events)
	require.Zero(t, summary.Held)
	f.insert(streamA, 3, 101, 150, day0)
	f.insert(streamA, 3, 170, 200, day0)
	f.insert(streamA, 3, 70_001, 70_010, day0)
	require.EqualValues(t, 50+31+10, f.once(root).Events)
	f.insert(streamA, 3, 151, 169, day0)
	f.insert(streamA, 3, 301, 400, day0)
	require.EqualValues(t, 19+100, f.once(root).Events)
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
}

// A run of several cuts, and one that finds rows twice in the table.
func TestSmallCutsAndDoubledRows(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	f.insert(streamA, 0, 1, 1000, day0)
	f.insert(streamA, 1, 1, 1000, day0)
	f.insert(streamB, 1, 1, 700, day0)
	want := f.wantEvents("")
	f.insert(streamA, 1, 300, 400, day0)
	require.EqualValues(t, 101, f.number("SELECT count() - uniqExact(stream, partition, sequence) FROM events"))
	summary := f.once(root, func(c *Config) { c.Events = 450 })
	require.EqualValues(t, 2700, summary.Events)
	require.Equal(t, 6, summary.Cuts)
	sameRows(t, want, publishedRows(t, s, "events"))
	// What is doubled after it was published changes nothing.
	f.insert(streamB, 1, 1, 700, day0)
	require.Zero(t, f.once(root).Cuts)
}

// Closed days are published, and published again when they were closed again.
func TestClosedDays(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	closeDay := func(rows, events int, at string) {
		f.exec("ALTER TABLE days DROP PARTITION '2025-11-18'")
		f.exec(fmt.Sprintf("INSERT INTO days SELECT toDate('2025-11-18'), number %% 7, if(number %% 2 = 0, '', 'country'), if(number %% 2 = 0, '', toString(number)), 'click', 'person', number, 'qr', "+
			"if(number %% 2 = 0, toDateTime('2025-11-18 00:15:00', 'UTC') + number * 900, toDateTime(0, 'UTC')), number, 3 FROM numbers(%d)", rows))
		f.exec(fmt.Sprintf("INSERT INTO closed_days VALUES ('2025-11-18', %d, '%s')", events, at))
	}
	closeDay(40, 900, "2025-11-20 01:02:03.456")
	summary := f.once(root)
	require.Equal(t, []int{1, 1, 1}, []int{summary.Cuts, summary.Days, summary.Files})
	require.Zero(t, f.once(root).Cuts)
	rows := publishedRows(t, s, "days")
	require.Len(t, rows, 40)
	require.Contains(t, rows, "date=2025-11-18|closed_at=2025-11-20T01:02:03.456Z|profile_id=0|dimension=|value=|kind=click|class=person|link_id=0|surface=qr|bucket=2025-11-18T00:15:00Z|events=0|visitors=3|")
	require.Contains(t, rows, "date=2025-11-18|closed_at=2025-11-20T01:02:03.456Z|profile_id=1|dimension=country|value=1|kind=click|class=person|link_id=1|surface=qr|bucket=(null)|events=1|visitors=3|")

	closeDay(50, 1000, "2025-11-21 01:02:03.456")
	f.insert(streamA, 0, 1, 10, day0)
	summary = f.once(root)
	require.Equal(t, []int{1, 1, 2}, []int{summary.Cuts, summary.Days, summary.Files})
	day := published(t, s)[1].Days[0]
	require.EqualValues(t, 1, day.Supersedes)
	require.EqualValues(t, 1000, day.Events)
	require.EqualValues(t, 50, day.Rows)
	require.Len(t, publishedRows(t, s, "days"), 90, "the older version stays as it was published")
}

// An export of a time's events has a place of its own.
func TestScope(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	f.insert(streamA, 0, 1, 5000, day0.Add(23*time.Hour))
	f.insert(streamB, 0, 1, 100, day0.AddDate(0, 0, 9))
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 1, '2025-11-20 00:00:00'), ('2025-11-19', 1, '2025-11-20 00:00:00'), ('2025-11-20', 1, '2025-11-21 00:00:00')")
	limits := func(c *Config) { c.Since, c.Until = "2025-11-19", "2025-11-19T00:10:00Z" }
	condition := "WHERE time >= '2025-11-19 00:00:00' AND time < '2025-11-19 00:10:00'"
	summary := f.once(root, limits)
	require.EqualValues(t, f.number("SELECT count() FROM events "+condition), summary.Events)
	require.EqualValues(t, 600, summary.Events)
	require.Equal(t, 1, summary.Days)
	sameRows(t, f.wantEvents(condition), publishedRows(t, s, "events"))
	// Late events of that time, and a run that does not repeat the limits.
	f.insert(0xbeef, 0, 1, 7200, day0.Add(23*time.Hour))
	require.EqualValues(t, 600, f.once(root).Events)
	sameRows(t, f.wantEvents(condition), publishedRows(t, s, "events"))
	_, err := f.exporter(root, func(c *Config) { c.Since = "2025-11-18" }).Once(t.Context())
	require.ErrorContains(t, err, "holds events since 2025-11-19T00:00:00Z until 2025-11-19T00:10:00Z already")
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.EqualValues(t, 5000+100+7200-1200, report.Expired)
}

// late is a store at which somebody else does something just before the first manifest is published.
type late struct {
	store.Store
	meanwhile func()
}

func (l *late) CreateNew(ctx context.Context, path string, data []byte) error {
	if strings.HasPrefix(path, "manifests/") && l.meanwhile != nil {
		l.meanwhile()
		l.meanwhile = nil
	}
	return l.Store.CreateNew(ctx, path, data)
}

// Of two exporters that begin on an empty place at once, with different limits, the slower one keeps to the limits of the faster one, or refuses.
func TestScopesAtOnce(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	f.insert(streamA, 0, 1, 1000, day0)
	limits := func(c *Config) { c.Since = day0.Add(10 * time.Minute).Format(time.RFC3339) }
	root := t.TempDir()
	_, err := f.exporter(root, limits).on(&late{openStore(t, root), func() { f.once(root, func(c *Config) { c.Events = 700 }) }}).Once(t.Context())
	require.ErrorContains(t, err, "holds all events already")
	sameRows(t, f.wantEvents(""), publishedRows(t, openStore(t, root), "events"))

	root = t.TempDir()
	summary, err := f.exporter(root).on(&late{openStore(t, root), func() { f.once(root, limits) }}).Once(t.Context())
	require.NoError(t, err)
	require.Zero(t, summary.Events)
	f.insert(streamA, 0, 1001, 1100, day0)
	require.EqualValues(t, 100, f.once(root).Events)
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.EqualValues(t, f.number("SELECT count() FROM events WHERE time >= '2025-11-18 00:10:00'"), report.Events)
}

// Months that are dropped count as present: before they are dropped, between the record and the drop, and after it.
func TestExpiredMonths(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root, late := t.TempDir(), t.TempDir()
	old := day0.AddDate(-2, 0, 0)
	f.insert(streamA, 0, 1, 300, old)
	f.insert(streamA, 0, 301, 400, day0) // the stream lives on
	f.insert(streamB, 0, 1, 200, old)
	f.insert(streamB, 0, 221, 240, old) // with a hole
	require.EqualValues(t, 600, f.once(root).Events)
	f.exec("INSERT INTO expired_streams (partition, stream, highest, holes, events) VALUES (0, 18364758544493064720, 300, [], 300), (0, 2827, 240, [(201, 220)], 220)")
	require.Zero(t, f.once(root).Cuts, "recorded, not dropped yet")
	require.EqualValues(t, 600, f.once(late).Events, "not dropped yet: exported")
	f.exec("ALTER TABLE events DROP PARTITION 202311")
	require.Zero(t, f.once(root).Cuts, "dropped")
	f.insert(streamA, 0, 401, 500, day0)
	require.EqualValues(t, 100, f.once(root).Events)
	later := t.TempDir()
	summary := f.once(later)
	require.EqualValues(t, 200, summary.Events, "dropped before the first export")
	sameRows(t, f.wantEvents(""), publishedRows(t, openStore(t, later), "events"))
	for _, place := range []string{root, later} {
		report, err := Audit(t.Context(), place, f.addresses, true)
		require.NoError(t, err)
		require.True(t, report.OK(), report)
	}
}
