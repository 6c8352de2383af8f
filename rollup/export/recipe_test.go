package export

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store/storetest"
	"spillway.dev/schemas/dictionary"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// The statements of docs/warehouse/clickhouse.md load an export from an object store into another ClickHouse, cut by cut, and again without effect.
func TestRecipeForClickHouse(t *testing.T) {
	f := newTables(t)
	place := strings.Replace(storetest.S3(t), "?", "/spillway?", 1)
	f.insert(streamA, 0, 1, 3000, day0)
	f.insert(streamB, 1, 1, 500, day0.AddDate(0, 1, 0))
	f.once(place, func(c *Config) { c.Events = 1000 })
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 1, '2025-11-20 00:00:00')")
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number, '', '', 'view', 'person', 0, 'page', toDateTime('2025-11-18 00:15:00', 'UTC'), 2, 0 FROM numbers(30)")
	require.Equal(t, 1, f.once(place).Days, "a cut without events")
	s := openStore(t, place)

	page, err := os.ReadFile("../../docs/warehouse/clickhouse.md")
	require.NoError(t, err)
	create := regexp.MustCompile("(?s)```sql\n(CREATE TABLE events.*?);\n```").FindSubmatch(page)
	load := regexp.MustCompile(`(?s)clickhouse-client --query "(INSERT INTO events .*?)"\n`).FindSubmatch(page)
	require.NotNil(t, create)
	require.NotNil(t, load)
	require.Contains(t, string(page), `jq -e 'any(.files[]; .table == "events")' "$manifest" > /dev/null || continue`)
	other := &tables{t: t, addresses: engines.Addresses{ClickHouse: enginetest.ClickHouse(t)}}
	other.source, _, err = source.Open(other.addresses)
	require.NoError(t, err)
	other.exec(string(create[1]))
	u, err := url.Parse(place)
	require.NoError(t, err)
	credentials := fmt.Sprintf("', '%s', '%s', 'Parquet'", os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"))
	loadAll := func() {
		for _, m := range published(t, s) {
			if !slices.ContainsFunc(m.Files, func(f manifest.File) bool { return f.Table == "events" }) {
				continue
			}
			statement := strings.NewReplacer(
				"https://bucket.s3.amazonaws.com/spillway/$pattern", fmt.Sprintf("%s/%s/spillway/events/*/*/cut-%012d-%s-*.parquet", u.Query().Get("endpoint"), u.Host, m.Cut, m.Run),
				"', 'Parquet'", credentials,
				`$(basename "$manifest" .json)`, strings.TrimSuffix(strings.TrimPrefix(manifest.Path(m.Cut), "manifests/"), ".json"),
			).Replace(string(load[1]))
			other.exec(statement)
		}
	}
	loadAll()
	loadAll()

	columns := dictionary.Events().Columns
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = "`" + c.Name + "`"
		switch c.Type {
		case dictionary.Word, dictionary.Text:
			parts[i] = "CAST(toString(" + parts[i] + "), 'String')"
		case dictionary.Int32:
			parts[i] = "toInt32(" + parts[i] + ")"
		case dictionary.Int64:
			parts[i] = "toInt64(" + parts[i] + ")"
		}
		parts[i] += " AS `" + c.Name + "`"
	}
	records, err := other.source.Query(t.Context(), source.Query{SQL: "SELECT " + strings.Join(parts, ", ") + " FROM (SELECT * FROM events)"})
	require.NoError(t, err)
	defer records.Close()
	var rows []string
	for {
		batch, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		rows = append(rows, rowsOf(batch)...)
	}
	sort.Strings(rows)
	sameRows(t, f.wantEvents(""), rows)
}
