package export

import (
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog/hadoop"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/opentable"
)

// icebergRows reads an Iceberg table.
func icebergRows(t *testing.T, root, name string) (rows []string, snapshots int) {
	t.Helper()
	catalog, err := hadoop.NewCatalog("spillway", filepath.Join(root, opentable.Folder), iceberg.Properties{})
	require.NoError(t, err)
	own, err := catalog.LoadTable(t.Context(), table.Identifier{"spillway", name})
	require.NoError(t, err)
	all, err := own.Scan().ToArrowTable(t.Context())
	require.NoError(t, err)
	defer all.Release()
	reader := array.NewTableReader(all, 0)
	defer reader.Release()
	for reader.Next() {
		rows = append(rows, rowsOf(reader.RecordBatch())...)
	}
	sort.Strings(rows)
	return rows, len(own.Metadata().Snapshots())
}

// The Iceberg tables hold what the manifests list, once, whoever follows the chain, and can be made again.
func TestIcebergTables(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	open := func(c *Config) { c.Iceberg, c.Events = true, 400 }
	f.insert(streamA, 0, 1, 1000, day0)
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number, '', '', 'view', 'person', 0, 'page', toDateTime('2025-11-18 00:15:00', 'UTC'), 2, 0 FROM numbers(30)")
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 60, '2025-11-20 01:02:03.456')")
	require.Equal(t, 3, f.once(root, func(c *Config) { c.Events = 400 }).Cuts, "three cuts before there was a table")
	require.Zero(t, f.once(root, open).Cuts)
	rows, snapshots := icebergRows(t, root, "events")
	sameRows(t, publishedRows(t, s, "events"), rows)
	require.Equal(t, 1, snapshots)

	f.insert(streamA, 0, 1001, 2000, day0)
	require.Equal(t, 3, f.once(root, open).Cuts)
	rows, snapshots = icebergRows(t, root, "events")
	sameRows(t, publishedRows(t, s, "events"), rows)
	require.Equal(t, 2, snapshots)
	rows, _ = icebergRows(t, root, "days")
	sameRows(t, publishedRows(t, s, "days"), rows)

	// Several follow at once.
	f.insert(streamB, 0, 1, 2000, day0)
	var running sync.WaitGroup
	for range 3 {
		e := f.exporter(root, open)
		running.Go(func() {
			if _, err := e.Once(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	rows, _ = icebergRows(t, root, "events")
	sameRows(t, publishedRows(t, s, "events"), rows)
	require.Len(t, rows, 4000)

	require.NoError(t, os.RemoveAll(filepath.Join(root, opentable.Folder)))
	require.Zero(t, f.once(root, open).Cuts)
	rows, _ = icebergRows(t, root, "events")
	require.Len(t, rows, 4000)

	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(root, link))
	f.insert(streamB, 0, 2001, 2100, day0)
	require.Equal(t, 1, f.once(link, open).Cuts, "the same by another name")

	// In a copy the tables would name the first export's files, and write into its folder.
	copied := filepath.Join(t.TempDir(), "copied")
	require.NoError(t, os.CopyFS(copied, os.DirFS(root)))
	_, err := f.exporter(copied, open).Once(t.Context())
	require.ErrorContains(t, err, "moved or copied since")
	require.ErrorContains(t, err, "remove the folder "+filepath.Join(copied, opentable.Folder)+", it is made again")
	require.NoError(t, os.RemoveAll(filepath.Join(copied, opentable.Folder)))
	require.Zero(t, f.once(copied, open).Cuts)
	rows, _ = icebergRows(t, copied, "events")
	sameRows(t, publishedRows(t, openStore(t, copied), "events"), rows)
	require.Len(t, rows, 4100)
}
