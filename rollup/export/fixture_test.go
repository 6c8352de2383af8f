package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/schemas/dictionary"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// tables is a fresh ClickHouse database with Spillway's tables.
type tables struct {
	t         testing.TB
	addresses engines.Addresses
	source    *source.ClickHouse
}

func newTables(t testing.TB) *tables {
	t.Helper()
	f := &tables{t: t, addresses: engines.Addresses{ClickHouse: enginetest.ClickHouse(t)}}
	require.NoError(t, f.addresses.MigrateClickHouse(t.Context()))
	var err error
	f.source, _, err = source.Open(f.addresses)
	require.NoError(t, err)
	f.exec("INSERT INTO terms SELECT number, 1 FROM numbers(64)")
	return f
}

// exec runs a statement in the database.
func (f *tables) exec(statement string) {
	f.t.Helper()
	u, err := url.Parse(f.addresses.ClickHouse)
	require.NoError(f.t, err)
	database := strings.Trim(u.Path, "/")
	u.Path, u.RawQuery = "/", url.Values{"database": {database}}.Encode()
	response, err := http.Post(u.String(), "text/plain", strings.NewReader(statement))
	require.NoError(f.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	require.Equal(f.t, http.StatusOK, response.StatusCode, "%s: %s", statement, body)
}

// number is the answer of a query for one number.
func (f *tables) number(query string) (n uint64) {
	f.t.Helper()
	require.NoError(f.t, f.source.Rows(context.Background(), source.Query{SQL: "SELECT toUInt64((" + query + "))"}, func(r source.Row) error {
		n = r.Uint(0)
		return nil
	}))
	return n
}

// day0 is the UTC date that test events begin with.
var day0 = time.Date(2025, 11, 18, 0, 0, 0, 0, time.UTC)

// insert puts the sequences first … last of a stream's partition into the table, in one insert, with every column different from row to
// row. Sequence n is n seconds after the given time.
func (f *tables) insert(stream uint64, partition uint32, first, last uint64, from time.Time) {
	f.t.Helper()
	f.exec(fmt.Sprintf(`INSERT INTO events SELECT
		%[1]d AS stream, %[2]d AS partition, number AS sequence, number * 7 AS offset, 1 AS term,
		fromUnixTimestamp64Micro(%[5]d + toInt64(number) * 1000000 + toInt64(cityHash64(number) %% 1000000), 'UTC') AS time, toDate(time) AS date,
		if(cityHash64(number, 1) %% 3 = 0, 'view', 'click') AS kind,
		if(cityHash64(number, 2) %% 10 = 0, 'bot', 'person') AS class, if(class = 'bot', 'user agent', '') AS reason, 3 AS rules_version,
		cityHash64(number, 3) %% 100 = 0 AS suspect,
		1 + cityHash64(number, 4) %% 50 AS profile_id, if(kind = 'view', 0, profile_id * 20 + cityHash64(number, 5) %% 20) AS link_id,
		cityHash64(number, 6, stream) AS visitor, 'page' AS surface, ['', 'bio', 'story', 'naïve ☃'][1 + cityHash64(number, 7) %% 4] AS place,
		'' AS variant, cityHash64(number, 8) %% 4294967296 AS layout, 'spill.example' AS host, ['US', 'DE', ''][1 + cityHash64(number, 9) %% 3] AS country,
		'en' AS language, ['phone', 'desktop'][1 + cityHash64(number, 10) %% 2] AS device, 'Firefox' AS browser, 'Linux' AS os,
		concat('Mozilla/5.0 (', toString(cityHash64(number, 11) %% 300), ')') AS user_agent,
		concat('https://', toString(cityHash64(number, 12) %% 5000), '.example/') AS referrer, 'x.example' AS referrer_host, 'social' AS channel,
		'newsletter' AS utm_source, '' AS utm_medium, concat('c', toString(cityHash64(number, 13) %% 40)) AS utm_campaign, '' AS utm_term,
		toString(number) AS utm_content
		FROM numbers(%[3]d, %[4]d)`, stream, partition, first, last-first+1, from.UnixMicro()))
}

// exporter makes an exporter of these tables to a place.
func (f *tables) exporter(to string, change ...func(*Config)) *Exporter {
	f.t.Helper()
	config := Config{To: to, Hold: 0}
	for _, c := range change {
		c(&config)
	}
	e, err := New(f.t.Context(), config, f.addresses, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry(), nil)
	require.NoError(f.t, err)
	e.source = e.source.With(map[string]string{"max_threads": "2"})
	return e
}

// once exports what is there and returns what was published.
func (f *tables) once(to string, change ...func(*Config)) Summary {
	f.t.Helper()
	summary, err := f.exporter(to, change...).Once(f.t.Context())
	require.NoError(f.t, err)
	return summary
}

// published returns the manifests of an export in their order.
func published(t testing.TB, s store.Store) []*manifest.Manifest {
	t.Helper()
	chain := manifest.Chain{Store: s}
	head, err := chain.Head(t.Context())
	require.NoError(t, err)
	var all []*manifest.Manifest
	for n := uint64(1); n <= head; n++ {
		m, _, err := chain.Read(t.Context(), n)
		require.NoError(t, err)
		all = append(all, m)
	}
	return all
}

func openStore(t testing.TB, address string) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// rowsOf writes each row of a batch as one text, whatever way its strings are encoded.
func rowsOf(batch arrow.RecordBatch) []string {
	rows := make([]string, batch.NumRows())
	for i := range rows {
		var b strings.Builder
		for c, column := range batch.Columns() {
			for _, part := range []string{batch.ColumnName(c), "=", column.ValueStr(i), "|"} {
				b.WriteString(part)
			}
		}
		rows[i] = b.String()
	}
	return rows
}

// readFile returns a Parquet file's rows and its metadata.
func readFile(t testing.TB, s store.Store, path string) ([]string, *file.Reader) {
	t.Helper()
	data, err := store.ReadAll(t.Context(), s, path)
	require.NoError(t, err)
	raw, err := file.NewParquetReader(bytes.NewReader(data))
	require.NoError(t, err)
	reader, err := pqarrow.NewFileReader(raw, pqarrow.ArrowReadProperties{BatchSize: 8192}, memory.DefaultAllocator)
	require.NoError(t, err)
	records, err := reader.GetRecordReader(t.Context(), nil, nil)
	require.NoError(t, err)
	defer records.Release()
	var rows []string
	for records.Next() {
		rows = append(rows, rowsOf(records.RecordBatch())...)
	}
	require.NoError(t, records.Err())
	return rows, raw
}

// publishedRows returns the rows of all files of a table that the manifests list, sorted.
func publishedRows(t testing.TB, s store.Store, table string) []string {
	t.Helper()
	var rows []string
	for _, m := range published(t, s) {
		for _, f := range m.Files {
			if f.Table == table {
				own, _ := readFile(t, s, f.Path)
				require.Len(t, own, int(f.Rows), f.Path)
				rows = append(rows, own...)
			}
		}
	}
	sort.Strings(rows)
	return rows
}

// wantEvents returns ClickHouse's own answer for the exported columns, sorted as text.
func (f *tables) wantEvents(condition string) []string {
	f.t.Helper()
	records, err := f.source.Query(f.t.Context(), source.Query{SQL: "SELECT " + dictionary.Events().Select(nil) + " FROM (SELECT * FROM events " + condition + ")"})
	require.NoError(f.t, err)
	defer records.Close()
	var rows []string
	for {
		batch, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(f.t, err)
		rows = append(rows, rowsOf(batch)...)
	}
	sort.Strings(rows)
	return rows
}

// sameRows compares two sorted lists without printing all of them.
func sameRows(t testing.TB, want, got []string) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i], got[i], "row %d", i)
	}
}
