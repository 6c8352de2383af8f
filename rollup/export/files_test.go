package export

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/schemas/dictionary"
)

// Files are as warehouses want them.
func TestFilesForWarehouses(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	f.insert(streamA, 0, 1, 130_000, day0)
	f.insert(streamB, 1, 1, 10_000, day0.AddDate(0, 0, 40))
	e := f.exporter(root)
	summary, err := e.Once(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 140_000, summary.Events)
	require.Equal(t, 1, summary.Files)

	m := published(t, s)[0]
	entry := m.Files[0]
	rows, reader := readFile(t, s, entry.Path)
	require.Len(t, rows, 140_000)
	require.Equal(t, []int64{122_880, 17_120}, []int64{reader.RowGroup(0).NumRows(), reader.RowGroup(1).NumRows()})
	require.Equal(t, 2, entry.RowGroups)
	require.Equal(t, "2025-11-18", entry.MinDate)
	require.Equal(t, "2025-12-28", entry.MaxDate)
	require.Equal(t, f.number("SELECT toUnixTimestamp64Micro(min(time)) FROM events"), uint64(entry.MinTime.UnixMicro()))
	require.Equal(t, f.number("SELECT toUnixTimestamp64Micro(max(time)) FROM events"), uint64(entry.MaxTime.UnixMicro()))

	meta := reader.MetaData()
	version := meta.KeyValueMetadata().FindValue("spillway.schema.version")
	require.Equal(t, strconv.Itoa(dictionary.Version), *version)
	require.Equal(t, "events", *meta.KeyValueMetadata().FindValue("spillway.table"))
	require.Equal(t, "1", *meta.KeyValueMetadata().FindValue("spillway.cut"))
	types := map[string]string{}
	for i := range meta.Schema.NumColumns() {
		column := meta.Schema.Column(i)
		types[column.Name()] = fmt.Sprintf("%s %s", column.PhysicalType(), column.LogicalType())
		require.Zero(t, column.MaxDefinitionLevel(), "%s is required", column.Name())
		require.EqualValues(t, i+1, column.SchemaNode().FieldID(), "%s", column.Name())
		chunk, err := meta.RowGroup(0).ColumnChunk(i)
		require.NoError(t, err)
		require.Equal(t, compress.Codecs.Zstd, chunk.Compression())
		set, err := chunk.StatsSet()
		require.NoError(t, err)
		require.True(t, set, "%s has statistics", column.Name())
		require.True(t, chunk.HasIndexPage() || chunk.NumValues() == 122_880)
		for _, encoding := range chunk.Encodings() {
			require.Contains(t, []parquet.Encoding{parquet.Encodings.Plain, parquet.Encodings.RLE, parquet.Encodings.RLEDict, parquet.Encodings.PlainDict}, encoding)
		}
	}
	require.Equal(t, "INT64 Timestamp(isAdjustedToUTC=true, timeUnit=microseconds, is_from_converted_type=false, force_set_converted_type=false)", types["time"])
	require.Equal(t, "INT32 Date", types["date"])
	require.Equal(t, "BYTE_ARRAY String", types["country"])
	require.Equal(t, "BYTE_ARRAY String", types["visitor"])
	require.Equal(t, "INT64 Int(bitWidth=64, isSigned=true)", types["profile_id"])
	require.Equal(t, "BOOLEAN None", types["suspect"])

	// A column is written through a dictionary where that is smaller.
	coded := func(name string) bool {
		chunk, err := meta.RowGroup(0).ColumnChunk(meta.Schema.ColumnIndexByName(name))
		require.NoError(t, err)
		return chunk.HasDictionaryPage()
	}
	for name, want := range map[string]bool{"country": true, "stream": true, "profile_id": true, "referrer": true, "utm_content": false, "visitor": false, "sequence": false, "layout": false} {
		require.Equal(t, want, coded(name), name)
	}

	// Sorted within the whole file.
	var last [3]string
	column := func(row int, name string) string { return field(rows[row], name) }
	for i := range rows {
		now := [3]string{column(i, "date"), fmt.Sprintf("%08s", column(i, "profile_id")), column(i, "time")}
		require.LessOrEqual(t, slices.Compare(last[:2], now[:2]), 0, "row %d", i)
		last = now
	}

	// Bloom filters know what is in a row group, and nearly always what is not.
	for _, name := range []string{"visitor", "link_id"} {
		filter := bloomFilter(t, reader.GetBloomFilterReader(), reader.RowGroup(0).MetaData(), meta.Schema.ColumnIndexByName(name), 0)
		hash := func(value string) uint64 {
			if name == "link_id" {
				n, err := strconv.ParseInt(value, 10, 64)
				require.NoError(t, err)
				return metadata.GetHash(filter.Hasher(), n)
			}
			return metadata.GetHash(filter.Hasher(), parquet.ByteArray(value))
		}
		for i := 0; i < 122_880; i += 997 {
			require.True(t, filter.CheckHash(hash(column(i, name))), "%s", name)
		}
		hits := 0
		for i := range 1000 {
			if filter.CheckHash(hash(fmt.Sprintf("%016d", 9_000_000_000+i))) {
				hits++
			}
		}
		require.Less(t, hits, 50, "%s", name)
	}
}

// field reads a column from what rowsOf wrote.
func field(row, name string) string {
	at := 0
	if row[:len(name)+1] != name+"=" {
		at = index(row, "|"+name+"=") + 1
	}
	rest := row[at+len(name)+1:]
	return rest[:index(rest, "|")]
}

func index(text, part string) int {
	for i := 0; i+len(part) <= len(text); i++ {
		if text[i:i+len(part)] == part {
			return i
		}
	}
	return -1
}

func bloomFilter(t *testing.T, r *metadata.BloomFilterReader, group *metadata.RowGroupMetaData, column, ordinal int) metadata.BloomFilter {
	t.Helper()
	own, err := r.RowGroup(ordinal)
	require.NoError(t, err)
	filter, err := own.GetColumnBloomFilter(column)
	require.NoError(t, err)
	require.NotNil(t, filter, "column %d of %d", column, group.NumColumns())
	return filter
}

// Files are ended at their size, and the last one is not a crumb.
func TestFileSizes(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	s := openStore(t, root)
	f.insert(streamA, 0, 1, 300_000, day0)
	summary := f.once(root, func(c *Config) { c.FileSize = 2_500_000 })
	require.EqualValues(t, 300_000, summary.Events)
	all := published(t, s)[0]
	require.Len(t, all.Files, 3, "one for each row group, which is larger than a file should be")
	for i, file := range all.Files {
		require.GreaterOrEqual(t, file.Bytes, int64(1_600_000), "file %d of %d", i, len(all.Files))
		require.LessOrEqual(t, file.Bytes, int64(2_500_000+1_700_000+5_000_000), "file %d of %d", i, len(all.Files))
		if i > 0 {
			require.GreaterOrEqual(t, file.MinDate, all.Files[i-1].MaxDate)
		}
	}
	require.Equal(t, manifest.Format, all.Format)
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
}
