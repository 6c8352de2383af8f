package export

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/cut"
)

const (
	streamA = 0xfedcba9876543210
	streamB = 0x0000000000000b0b
)

// Holes fill later, events come late: each event is in exactly one file, and what was published stays as it is.
func TestEveryEventOnce(t *testing.T) {
	f := newTables(t)
	root := t.TempDir()
	s := openDirectory(t, root)

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
	f := newTables(t)
	root := t.TempDir()
	s := openDirectory(t, root)
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
	f := newTables(t)
	root := t.TempDir()
	s := openDirectory(t, root)
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
