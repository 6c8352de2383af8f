package api_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/export"
	"spillway.dev/schemas/dictionary"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// library is a platform with events: the operator, and another creator with a profile.
type library struct {
	*creator
	conn  driver.Conn
	table string
	mine  string   // a profile of the operator's account
	other *creator // a client of another account
	their string   // its profile
	bulk  string   // a profile that has no row: it was deleted
}

// The seconds of the library's events.
var libraryStart = time.Date(2025, 11, 30, 20, 0, 0, 0, time.UTC)

const (
	mineEvents, theirEvents = 12_000, 3_000
	bulkEvents              = 60_000
)

func newLibrary(t *testing.T, exporting ...export.Options) *library {
	t.Helper()
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, where.MigrateClickHouse(t.Context()))
	l := &library{creator: newCreatorOn(t, where, exporting...), bulk: "777"}
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	l.conn, err = clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { l.conn.Close() })
	l.table = layout.Local("events")
	l.mine = l.profile("ada")
	_, secret, err := account.NewStore(l.pool).CreateAccount(t.Context(), "bob@example.org")
	require.NoError(t, err)
	l.other = l.as(secret)
	l.their = l.other.profile("bob")
	require.NoError(t, l.conn.Exec(t.Context(), "INSERT INTO "+layout.Local("terms")+" VALUES (3, 1)"))
	l.insert(l.mine, 0xfedcba9876543210, mineEvents)
	l.insert(l.their, 0xb0b, theirEvents)
	return l
}

// insert makes events of a profile, over the end of a month and of its days, every column different from row to row.
func (l *library) insert(profile string, stream uint64, events int) {
	l.t.Helper()
	require.NoError(l.t, l.conn.Exec(l.t.Context(), fmt.Sprintf(`INSERT INTO %s SELECT
		%d AS stream, 3 AS partition, number + 1 AS sequence, number * 7 AS offset, 1 AS term,
		fromUnixTimestamp64Micro(%d + toInt64(number) * 1000000 + toInt64(cityHash64(number) %% 1000000), 'UTC') AS time,
		toDate(time + toIntervalHour([-11, 0, 13][1 + number %% 3])) AS date,
		if(cityHash64(number, 1) %% 3 = 0, 'view', 'click') AS kind, if(cityHash64(number, 2) %% 10 = 0, 'bot', 'person') AS class,
		if(class = 'bot', 'user agent', '') AS reason, 4000000000 AS rules_version, cityHash64(number, 3) %% 100 = 0 AS suspect,
		%s AS profile_id, if(kind = 'view', 0, cityHash64(number, 5) %% 20) AS link_id, cityHash64(number, 6) AS visitor, 'page' AS surface,
		['', 'bio', '"story", she said', 'naïve ☃', '=1+1', 'a\nb'][1 + cityHash64(number, 7) %% 6] AS place, '' AS variant, cityHash64(number, 8) %% 4294967296 AS layout,
		'spill.example' AS host, ['US', 'DE', ''][1 + cityHash64(number, 9) %% 3] AS country, 'en' AS language, ['phone', 'desktop'][1 + cityHash64(number, 10) %% 2] AS device,
		'Firefox' AS browser, 'Linux' AS os, concat('Mozilla/5.0 (', toString(cityHash64(number, 11) %% 300), ') ', repeat('x', cityHash64(number) %% 200)) AS user_agent,
		concat('https://', toString(cityHash64(number, 12) %% 5000), '.example/') AS referrer, 'x.example' AS referrer_host, 'social' AS channel,
		'newsletter' AS utm_source, '' AS utm_medium, concat('c', toString(cityHash64(number, 13) %% 40)) AS utm_campaign, '' AS utm_term, toString(number) AS utm_content
		FROM numbers(%d)`, l.table, stream, libraryStart.UnixMicro(), profile, events)))
}

// stored returns the rows that ClickHouse has, by way of its native protocol and converted here as the data dictionary says, in no order.
func (l *library) stored(condition string) []string {
	l.t.Helper()
	columns := dictionary.Events().Columns
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = "`" + c.Name + "`"
	}
	rows, err := l.conn.Query(l.t.Context(), "SELECT "+strings.Join(names, ", ")+" FROM "+l.table+" WHERE "+condition)
	require.NoError(l.t, err)
	defer rows.Close()
	into := make([]any, len(columns))
	for i, t := range rows.ColumnTypes() {
		into[i] = reflect.New(t.ScanType()).Interface()
	}
	var all []string
	var b strings.Builder
	for rows.Next() {
		require.NoError(l.t, rows.Scan(into...))
		b.Reset()
		for i, c := range columns {
			value := reflect.ValueOf(into[i]).Elem().Interface()
			switch {
			case c.Name == "stream" || c.Name == "visitor":
				value = fmt.Sprintf("%016x", value)
			case c.Type == dictionary.Timestamp:
				value = value.(time.Time).UTC().Format(time.RFC3339Nano)
			case c.Type == dictionary.Date:
				value = value.(time.Time).Format(time.DateOnly)
			}
			fmt.Fprintf(&b, "%s=%v|", c.Name, value)
		}
		all = append(all, b.String())
	}
	require.NoError(l.t, rows.Err())
	return all
}

// get asks for an export. The caller reads and closes the body.
func (c *creator) get(ctx context.Context, base, query string, headers ...string) *http.Response {
	c.t.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", base+"/v1/export?"+query, nil)
	require.NoError(c.t, err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(request)
	require.NoError(c.t, err)
	return response
}

// whole asks for an export and returns all of it.
func (c *creator) whole(query string, headers ...string) (*http.Response, []byte) {
	c.t.Helper()
	response := c.get(c.t.Context(), c.server.URL, query, headers...)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, 200, response.StatusCode, "%s", data)
	return response, data
}

// row writes a row as stored does.
func row(value func(c dictionary.Column, at int) string) string {
	var b strings.Builder
	for i, c := range dictionary.Events().Columns {
		text := value(c, i)
		if c.Type == dictionary.Timestamp {
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				return err.Error()
			}
			text = at.UTC().Format(time.RFC3339Nano)
		}
		fmt.Fprintf(&b, "%s=%s|", c.Name, text)
	}
	return b.String()
}

// batchRows are the rows of an Arrow batch, whose types must be the dictionary's.
func batchRows(t *testing.T, batch arrow.RecordBatch) (rows []string) {
	t.Helper()
	columns := dictionary.Events().Columns
	require.EqualValues(t, len(columns), batch.NumCols())
	for i, c := range columns {
		require.Equal(t, c.Name, batch.ColumnName(i))
		require.Equal(t, c.Type.Arrow(), batch.Column(i).DataType().String(), c.Name)
		require.False(t, batch.Schema().Field(i).Nullable, c.Name)
	}
	for r := range int(batch.NumRows()) {
		rows = append(rows, row(func(_ dictionary.Column, at int) string { return batch.Column(at).ValueStr(r) }))
	}
	return rows
}

// readers read each format back.
var readers = map[export.Format]func(t *testing.T, data []byte) []string{
	export.Arrow: func(t *testing.T, data []byte) (rows []string) {
		r, err := ipc.NewReader(bytes.NewReader(data))
		require.NoError(t, err)
		defer r.Release()
		for r.Next() {
			rows = append(rows, batchRows(t, r.RecordBatch())...)
		}
		require.NoError(t, r.Err())
		require.Equal(t, "\xff\xff\xff\xff\x00\x00\x00\x00", string(data[len(data)-8:]), "the stream has its end")
		return rows
	},
	export.Parquet: func(t *testing.T, data []byte) (rows []string) {
		raw, err := file.NewParquetReader(bytes.NewReader(data))
		require.NoError(t, err)
		columns := dictionary.Events().Columns
		require.Equal(t, len(columns), raw.MetaData().Schema.NumColumns())
		for i, c := range columns {
			own := raw.MetaData().Schema.Column(i)
			require.Equal(t, c.Name, own.Name())
			require.Zero(t, own.MaxDefinitionLevel(), "%s is required", c.Name)
			require.True(t, strings.HasPrefix(c.Type.Parquet(), own.PhysicalType().String()), "%s is %s", c.Name, own.PhysicalType())
			switch logical := own.LogicalType().String(); c.Type {
			case dictionary.Word, dictionary.Text:
				require.Equal(t, "String", logical)
			case dictionary.Date:
				require.Equal(t, "Date", logical)
			case dictionary.Timestamp:
				require.Contains(t, logical, "isAdjustedToUTC=true, timeUnit=microseconds")
			}
		}
		reader, err := pqarrow.NewFileReader(raw, pqarrow.ArrowReadProperties{BatchSize: 8192}, memory.DefaultAllocator)
		require.NoError(t, err)
		records, err := reader.GetRecordReader(t.Context(), nil, nil)
		require.NoError(t, err)
		defer records.Release()
		for records.Next() {
			batch := records.RecordBatch()
			for r := range int(batch.NumRows()) {
				rows = append(rows, row(func(_ dictionary.Column, at int) string { return batch.Column(at).ValueStr(r) }))
			}
		}
		require.NoError(t, records.Err())
		return rows
	},
	export.CSV: func(t *testing.T, data []byte) (rows []string) {
		all, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		require.NoError(t, err)
		for i, c := range dictionary.Events().Columns {
			require.Equal(t, c.Name, all[0][i])
		}
		for _, fields := range all[1:] {
			rows = append(rows, row(func(_ dictionary.Column, at int) string { return fields[at] }))
		}
		return rows
	},
	export.NDJSON: func(t *testing.T, data []byte) (rows []string) {
		from := json.NewDecoder(bytes.NewReader(data))
		from.UseNumber()
		for {
			var object map[string]any
			if err := from.Decode(&object); err == io.EOF {
				return rows
			} else {
				require.NoError(t, err)
			}
			require.Len(t, object, len(dictionary.Events().Columns))
			rows = append(rows, row(func(c dictionary.Column, _ int) string { return fmt.Sprint(object[c.Name]) }))
		}
	},
}

func sameRows(t *testing.T, want, got []string, what string) {
	t.Helper()
	require.NotEmpty(t, want)
	sort.Strings(want)
	sort.Strings(got)
	require.Len(t, got, len(want), what)
	for i := range want {
		require.Equal(t, want[i], got[i], "%s: row %d", what, i)
	}
}

// Each format gives the rows that ClickHouse has, of one profile and of all, filtered or not.
func TestExportIsWhatClickHouseHas(t *testing.T) {
	l := newLibrary(t)
	mine, everything := l.stored("profile_id = "+l.mine), l.stored("1")
	require.Len(t, mine, mineEvents)
	require.Len(t, everything, mineEvents+theirEvents)
	for _, f := range export.Formats() {
		response, data := l.whole("profile="+l.mine+"&format="+string(f), "Accept-Encoding", "gzip")
		require.Equal(t, f.MediaType(), response.Header.Get("Content-Type"))
		require.Equal(t, `attachment; filename="spillway-events-`+l.mine+`.`+f.Suffix()+`"`, response.Header.Get("Content-Disposition"))
		require.Empty(t, response.Header.Get("Spillway-Complete-Through"), "nothing is known yet")
		if f.IsText() {
			require.Equal(t, "gzip", response.Header.Get("Content-Encoding"))
			unzipped, err := gzip.NewReader(bytes.NewReader(data))
			require.NoError(t, err)
			data, err = io.ReadAll(unzipped)
			require.NoError(t, err)
		} else {
			require.Empty(t, response.Header.Get("Content-Encoding"))
		}
		rows := readers[f](t, data)
		for i := 1; i < len(rows); i += 1000 {
			require.Less(t, field(rows[i-1], "time"), field(rows[i], "time"), "a profile's events come in their order")
		}
		sameRows(t, mine, rows, string(f))

		_, data = l.whole("format=" + string(f))
		sameRows(t, everything, readers[f](t, data), string(f)+", all")
	}

	// What Accept says, filters, and complete_through.
	_, err := l.pool.Exec(t.Context(), "INSERT INTO completeness (complete_through, computed_at) VALUES ('2025-12-01 00:00:00.123456Z', now())")
	require.NoError(t, err)
	since, until := libraryStart.Add(time.Hour), libraryStart.Add(2*time.Hour)
	limits := "&since=" + since.Format(time.RFC3339) + "&until=" + until.Format(time.RFC3339)
	in := fmt.Sprintf("time >= fromUnixTimestamp(%d) AND time < fromUnixTimestamp(%d)", since.Unix(), until.Unix())
	response, data := l.other.whole("profile="+l.their+"&kind=click&class=bot&class=preview"+limits, "Accept", "text/html, text/csv;q=0.8, application/*;q=0.1", "Accept-Encoding", "zstd;q=1, gzip")
	require.Equal(t, `attachment; filename="spillway-events-bob-20251130T210000Z-20251130T220000Z.csv"`, response.Header.Get("Content-Disposition"))
	require.Equal(t, "2025-12-01T00:00:00.123456Z", response.Header.Get("Spillway-Complete-Through"))
	require.Empty(t, l.stored("profile_id = "+l.their+" AND "+in), "they have events in the first hour only")
	plain, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer plain.Close()
	data, err = plain.DecodeAll(data, nil)
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(data, []byte("\n")), "a file without events has the names of its columns")
	for _, f := range []export.Format{export.Arrow, export.Parquet, export.NDJSON} {
		_, data := l.other.whole("profile=" + l.their + limits + "&format=" + string(f))
		require.Empty(t, readers[f](t, data), string(f))
	}
	response, data = l.whole("profile="+l.mine+"&kind=click&class=bot,person"+limits, "Accept", "*/*")
	require.Equal(t, "application/x-ndjson", response.Header.Get("Content-Type"))
	sameRows(t, l.stored("profile_id = "+l.mine+" AND kind = 'click' AND "+in), readers[export.NDJSON](t, data), "filtered")

	// A sort that does not fit goes through the disk.
	small := newLibrary(t, export.Options{Memory: 96 << 20})
	small.insert(small.bulk, 0xbead, bulkEvents)
	_, data = small.whole("format=arrow&profile=" + small.bulk)
	require.Len(t, readers[export.Arrow](t, data), bulkEvents)
}

// field reads a column of a row.
func field(row, name string) string {
	_, rest, _ := strings.Cut("|"+row, "|"+name+"=")
	value, _, _ := strings.Cut(rest, "|")
	return value
}

// Nobody gets somebody else's events.
func TestExportIsForWhoMayHaveIt(t *testing.T) {
	l := newLibrary(t)
	const path = "/v1/export?format=csv&"
	_, data := l.whole("format=csv&profile=" + l.their)
	require.Equal(t, theirEvents, len(readers[export.CSV](t, data)), "the operator may have any profile's")
	l.other.must(404, "GET", path+"profile="+l.mine, nil)
	l.other.must(404, "GET", path+"profile="+l.bulk, nil)
	l.other.must(403, "GET", path, nil)
	l.as("").must(401, "GET", path+"profile="+l.their, nil)
	for scope, status := range map[string]int{"insights": 403, "read": 200} {
		secret := l.must(201, "POST", "/v1/tokens", map[string]any{"name": scope, "scopes": []string{scope}}).body["token"].(string)
		require.Equal(t, status, l.as(secret).send("GET", path+"profile="+l.mine, nil).StatusCode, scope)
		l.as(secret).must(403, "GET", path, nil)
		l.as(secret).must(map[string]int{"insights": 403, "read": 404}[scope], "GET", path+"profile="+l.their, nil)
	}
	shared := l.other.must(201, "POST", "/v1/profiles/"+l.their+"/shares", map[string]any{"name": "label"}).body["token"].(string)
	l.as(shared).must(403, "GET", path+"profile="+l.their, nil)

	for _, bad := range []string{"profile=x", "profile=0x1", "format=xls", "since=yesterday", "since=1999-01-01T00:00:00Z", "since=2025-12-02T00:00:00Z&until=2025-12-01T00:00:00Z", "kind=buy", "class=ghost", "classes=person"} {
		l.must(422, "GET", "/v1/export?"+bad, nil)
	}
	l.must(404, "GET", "/v1/export?profile=0", nil)
	l.must(406, "GET", "/v1/export", nil, "Accept", "application/pdf, text/csv;q=0")
	head := l.send("HEAD", "/v1/export?format=parquet", nil)
	require.Equal(t, 200, head.StatusCode)
	require.Equal(t, "application/vnd.apache.parquet", head.Header.Get("Content-Type"))
}

// processes is how many exports ClickHouse is working on.
func (l *library) processes() (n uint64) {
	l.t.Helper()
	require.NoError(l.t, l.conn.QueryRow(l.t.Context(), "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'spillway api export'").Scan(&n))
	return n
}

// ended is how many exports ended in a way.
func (l *library) ended(how string) (n int) {
	l.t.Helper()
	families, err := l.metrics.Gather()
	require.NoError(l.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "spillway_profileapi_exports_total" && m.GetLabel()[0].GetValue() == how {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// An export that its client leaves ends in ClickHouse; one that ClickHouse gives up is a transfer that breaks; places are bounded.
func TestExportThatDoesNotEndWell(t *testing.T) {
	l := newLibrary(t)
	for stream := range uint64(3) {
		l.insert(l.bulk, 100+stream, bulkEvents)
	}
	begin := func(query string, headers ...string) (*http.Response, context.CancelFunc) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		response := l.get(ctx, l.server.URL, query, headers...)
		require.Equal(t, 200, response.StatusCode)
		_, err := io.CopyN(io.Discard, response.Body, 50_000)
		require.NoError(t, err)
		return response, func() { cancel(); response.Body.Close() }
	}
	eventually := func(what string, f func() bool) {
		t.Helper()
		require.Eventually(t, f, 20*time.Second, 20*time.Millisecond, what)
	}

	// Left. Two of a client may run; what leaves makes room.
	_, leave := begin("format=csv")
	_, leaveToo := begin("format=csv")
	require.EqualValues(t, 2, l.processes())
	refused := l.must(429, "GET", "/v1/export?format=csv", nil)
	require.Equal(t, "30", refused.Header.Get("Retry-After"))
	_, data := l.other.whole("format=csv&profile=" + l.their)
	require.NotEmpty(t, data, "another client has places of its own")
	leave()
	leaveToo()
	eventually("the queries end", func() bool { return l.processes() == 0 && l.ended("left") == 2 })
	require.Equal(t, 1, l.ended("refused"))

	// Killed in ClickHouse.
	for i, headers := range [][]string{{}, {"Accept-Encoding", "gzip"}, {"Accept-Encoding", "zstd"}} {
		for j, format := range []string{"csv", "arrow", "parquet", "ndjson"} {
			if j > 0 && i > 0 {
				continue
			}
			response, leave := begin("format="+format, headers...)
			require.NoError(t, l.conn.Exec(t.Context(), "KILL QUERY WHERE Settings['log_comment'] = 'spillway api export' ASYNC"))
			rest, err := io.ReadAll(response.Body)
			require.Error(t, err, "%s %v: a client must see that it has not all", format, headers)
			require.NotContains(t, string(rest), "Exception", "ClickHouse's words are not the client's data")
			leave()
		}
	}
	eventually("the places are free", func() bool { return l.ended("broken") == 6 && l.processes() == 0 })
	n, err := testutil.GatherAndCount(l.metrics, "spillway_profileapi_exports_running")
	require.NoError(t, err)
	require.Equal(t, 1, n)

	// A slow client gets everything, though the server bounds the time of requests.
	strict := httptest.NewUnstartedServer(l.server.Config.Handler)
	strict.Config.ReadTimeout, strict.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	strict.Start()
	defer strict.Close()
	response := l.get(t.Context(), strict.URL, "format=csv&profile="+l.bulk)
	defer response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
	var all bytes.Buffer
	for range 5 {
		_, err := io.CopyN(&all, response.Body, 100_000)
		require.NoError(t, err)
		time.Sleep(150 * time.Millisecond)
	}
	_, err = io.Copy(&all, response.Body)
	require.NoError(t, err)
	require.Len(t, readers[export.CSV](t, all.Bytes()), 3*bulkEvents)

	// Refused before the first byte.
	require.NoError(t, l.conn.Exec(t.Context(), "RENAME TABLE "+l.table+" TO "+l.table+"_away"))
	require.NotEmpty(t, l.must(503, "GET", "/v1/export", nil).Header.Get("Retry-After"))
	require.NotEmpty(t, newCreator(t).must(503, "GET", "/v1/export", nil).Header.Get("Retry-After"))
	limited := newLibrary(t, export.Options{Settings: map[string]string{"max_rows_to_read": "10"}})
	require.Contains(t, limited.must(500, "GET", "/v1/export", nil).body["detail"], "logged")
}
