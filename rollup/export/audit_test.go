package export

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
)

// The audit finds what was done to an export behind its back, and to the table.
func TestAuditFinds(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	f.insert(streamA, 0, 1, 400, day0)
	f.insert(streamB, 1, 1, 300, day0)
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 1, '2025-11-20 00:00:00')")
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number, '', '', 'view', 'person', 0, 'page', toDateTime('2025-11-18 00:15:00', 'UTC'), 2, 0 FROM numbers(30)")
	small := func(c *Config) { c.Events = 250 }
	e := f.exporter(root, small)
	e.chain.StateEvery = 2
	_, err := e.Once(t.Context())
	require.NoError(t, err)

	audit := func() *Report {
		report, err := Audit(t.Context(), root, f.addresses, true)
		require.NoError(t, err)
		return report
	}
	finds := func(what string) {
		t.Helper()
		report := audit()
		require.False(t, report.OK())
		require.Contains(t, strings.Join(report.Problems, "\n"), what)
		require.Contains(t, report.String(), "PROBLEM")
	}
	clean := audit()
	require.True(t, clean.OK(), clean)
	require.EqualValues(t, 700, clean.Events)
	require.EqualValues(t, 3, clean.Cuts)
	require.Contains(t, clean.String(), "every event up to the newest cut is in one file, once")
	data, err := json.Marshal(clean)
	require.NoError(t, err)
	require.Contains(t, string(data), `"problems":[]`)

	nowhere := filepath.Join(t.TempDir(), "typo")
	_, err = Audit(t.Context(), nowhere, f.addresses, true)
	require.ErrorContains(t, err, "nothing is exported there: check the address")
	require.NoDirExists(t, nowhere, "an audit only looks")

	all := published(t, openStore(t, root))
	path := func(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }
	// with changes a file, looks what the audit says, and restores it.
	with := func(name string, change func([]byte) []byte, what string) {
		t.Helper()
		before, err := os.ReadFile(path(name))
		require.NoError(t, err)
		if after := change(before); after == nil {
			require.NoError(t, os.Remove(path(name)))
		} else {
			require.NoError(t, os.WriteFile(path(name), after, 0o644))
		}
		finds(what)
		require.NoError(t, os.WriteFile(path(name), before, 0o644))
	}
	file := all[1].Files[0].Path
	with(file, func([]byte) []byte { return nil }, file+" is listed but not there")
	with(file, func(b []byte) []byte { return append([]byte{}, b[:len(b)-1]...) }, "bytes instead of")
	with(file, func(b []byte) []byte {
		b = append([]byte{}, b...)
		b[100] ^= 1
		return b
	}, "another content")
	with(manifest.Path(2), func([]byte) []byte { return nil }, "not found")
	// Without its newest manifest a chain looks whole. Nobody may publish another one in its place: it may have been loaded.
	with(manifest.Path(3), func([]byte) []byte { return nil }, "_SUCCESS names manifests/000000000003.json, which is not there")
	require.NoError(t, os.Rename(path("manifests"), path("gone")))
	finds("which is not there")
	_, err = e.Once(t.Context())
	require.ErrorIs(t, err, manifest.ErrDamaged, "of an exporter that runs")
	_, err = f.exporter(root).Once(t.Context())
	require.ErrorIs(t, err, manifest.ErrDamaged)
	require.ErrorContains(t, err, "bring it back, or export to another place")
	require.NoError(t, os.Rename(path("gone"), path("manifests")))
	with(manifest.Path(2), func(b []byte) []byte { return []byte(strings.Replace(string(b), all[1].Run, all[0].Run, 1)) }, "another predecessor")
	with(all[1].State.Path, func(b []byte) []byte { return []byte(strings.Replace(string(b), "0b0b", "0b0c", 1)) }, "not the state of cut 2")
	// A manifest that is consistent in itself but lists events that are published already, or more than its files have.
	rewrite := func(change func(*manifest.Manifest)) func([]byte) []byte {
		return func(b []byte) []byte {
			var m manifest.Manifest
			require.NoError(t, json.Unmarshal(b, &m))
			change(&m)
			b, err := json.Marshal(m)
			require.NoError(t, err)
			return b
		}
	}
	last := manifest.Path(3)
	with(last, rewrite(func(m *manifest.Manifest) { m.Streams[0].Ranges = cut.Of(cut.Range{First: 1, Last: 300}) }), "published already")
	with(last, rewrite(func(m *manifest.Manifest) {
		m.Streams[0].Ranges = m.Streams[0].Ranges.Union(cut.Of(cut.Range{First: 301, Last: 310}))
		m.Streams[0].Rows += 10
	}), "events, its streams")
	with(last, rewrite(func(m *manifest.Manifest) { m.Rows++ }), "it says")
	with(last, rewrite(func(m *manifest.Manifest) {
		m.Streams[0].Ranges = m.Streams[0].Ranges.Union(cut.Of(cut.Range{First: 401, Last: 410}))
	}), "stream fedcba9876543210 partition 0: 10 published events are in no file, but only 0 have expired")
	// The file of one cut in place of another's.
	other, err := os.ReadFile(path(all[0].Files[0].Path))
	require.NoError(t, err)
	with(all[2].Files[0].Path, func([]byte) []byte { return other }, "instead of")
	sum := manifest.Sum(other)
	before, err := os.ReadFile(path(all[2].Files[0].Path))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path(all[2].Files[0].Path), other, 0o644))
	with(last, rewrite(func(m *manifest.Manifest) { m.Files[0].SHA256, m.Files[0].Bytes = sum, int64(len(other)) }), "is not one of the cut")
	require.NoError(t, os.WriteFile(path(all[2].Files[0].Path), before, 0o644))

	require.NoError(t, os.WriteFile(path("events/stray.parquet"), nil, 0o644))
	report := audit()
	require.True(t, report.OK(), report)
	require.Equal(t, 1, report.Unlisted)
	// The table goes on, is closed again, and loses events.
	f.insert(streamB, 1, 301, 310, day0)
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 1, '2025-11-22 00:00:00')")
	report = audit()
	require.True(t, report.OK(), report)
	require.EqualValues(t, 10, report.Unpublished)
	require.Equal(t, 1, report.UnpublishedDays)
	f.exec("ALTER TABLE events DELETE WHERE stream = 2827 AND sequence BETWEEN 7 AND 9 SETTINGS mutations_sync = 2")
	finds("stream 0000000000000b0b partition 1: the events [[7,9]] were published, but ClickHouse does not have them any more")
}

// Markers, written states, garbage, and a clock that goes back.
func TestHoursAndGarbage(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	run := func(at string) Summary {
		t.Helper()
		e := f.exporter(root)
		e.chain.StateEvery = 2
		e.now = func() time.Time {
			now, err := time.Parse("15:04", at)
			require.NoError(t, err)
			return now.AddDate(2025, 10, 19).Add(123456789)
		}
		summary, err := e.Once(t.Context())
		require.NoError(t, err)
		return summary
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
		return err == nil
	}
	f.insert(streamA, 0, 1, 10, day0)
	run("10:15")
	require.Contains(t, published(t, s)[0].Files[0].Path, "events/dt=2025-11-20/hour=10/cut-000000000001-")
	marker, err := os.ReadFile(filepath.Join(root, "_SUCCESS"))
	require.NoError(t, err)
	require.Contains(t, string(marker), `"manifest": "manifests/000000000001.json"`)
	require.False(t, exists("events/dt=2025-11-20/hour=10/_SUCCESS"), "more may come in this hour")
	require.Zero(t, run("10:45").Cuts)
	require.Equal(t, 1, run("11:05").Cuts, "an empty cut says that the hour is over")
	require.True(t, exists("events/dt=2025-11-20/hour=10/_SUCCESS"))
	require.Zero(t, run("12:05").Cuts, "once")
	// A clock that went back cannot put anything into an hour that is complete.
	f.insert(streamA, 0, 11, 20, day0)
	run("10:59")
	require.Contains(t, published(t, s)[2].Files[0].Path, "events/dt=2025-11-20/hour=11/")

	// What a dead exporter left of cut 4 stays while that cut may still be published, and goes when it is.
	garbage := []string{"events/dt=2025-11-20/hour=11/cut-000000000004-dead-0001.parquet", "days/dt=2025-11-18/cut-000000000004-dead-0002.parquet",
		"states/000000000004-dead.json", ".unfinished/cut-000000000004-dead-0003.parquet.RANDOM"}
	stays := []string{"events/dt=2025-11-20/hour=11/cut-000000000099-dead-0001.parquet", "events/dt=2025-11-20/hour=11/somebody-elses.parquet", ".unfinished/_SUCCESS.RANDOM"}
	for _, name := range append(garbage, stays...) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644))
	}
	run("11:20")
	for _, name := range append(garbage, stays...) {
		require.True(t, exists(name), name)
	}
	f.insert(streamA, 0, 21, 30, day0)
	run("11:30")
	for _, name := range garbage {
		require.False(t, exists(name), name)
	}
	for _, name := range stays {
		require.True(t, exists(name), name)
	}
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
}
