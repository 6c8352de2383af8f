package clickhouse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	chcompress "github.com/ClickHouse/ch-go/compress"
	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/stretchr/testify/require"
)

func TestParametersAndSettings(t *testing.T) {
	ctx := context.Background()
	conn, _ := database(t)
	var a uint64
	var s string
	var at time.Time
	text := "tab\tnew\nline 'quote' \\ back é"
	moment := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	row := conn.QueryRow(ctx, "SELECT {a:UInt64} + 1, {s:String}, {at:DateTime64(3, 'UTC')}",
		clickhousego.Named("a", "41"), clickhousego.Named("s", text), clickhousego.Named("at", moment.Format("2006-01-02 15:04:05")))
	require.NoError(t, row.Scan(&a, &s, &at))
	require.EqualValues(t, 42, a)
	require.Equal(t, text, s)
	require.True(t, moment.Equal(at))
	require.NoError(t, conn.QueryRow(ctx, "SELECT toUInt64(?), ?", uint64(7), text).Scan(&a, &s))
	require.EqualValues(t, 7, a)
	require.Equal(t, text, s)

	with := clickhousego.Context(ctx, clickhousego.WithSettings(clickhousego.Settings{"max_block_size": 123, "log_comment": "it's"}))
	var size uint64
	require.NoError(t, conn.QueryRow(with, "SELECT toUInt64(getSetting('max_block_size')), getSetting('log_comment')").Scan(&size, &s))
	require.EqualValues(t, 123, size)
	require.Equal(t, "it's", s)
	require.NoError(t, conn.QueryRow(ctx, "SELECT getSetting('log_comment')").Scan(&s))
	require.Empty(t, s, "a setting ends with its request")
}

// The query id and log_comment of what runs are to be seen by others.
func TestRunningStatementsAreShown(t *testing.T) {
	ctx := clickhousego.Context(context.Background(), clickhousego.WithQueryID("my-id"), clickhousego.WithSettings(clickhousego.Settings{"log_comment": "partition 3"}))
	conn, _ := database(t)
	var query, remark string
	require.NoError(t, conn.QueryRow(ctx, "SELECT query, Settings['log_comment'] FROM system.processes WHERE Settings['log_comment'] = 'partition 3'").Scan(&query, &remark))
	require.True(t, strings.HasPrefix(query, "/* my-id */ SELECT"), query)
	require.Equal(t, "partition 3", remark)
}

func TestErrorsAreClickHousesOwn(t *testing.T) {
	ctx := context.Background()
	conn, name := database(t)
	err := conn.Exec(ctx, "SELECT * FROM nowhere")
	var exception *clickhousego.Exception
	require.ErrorAs(t, err, &exception)
	require.EqualValues(t, 60, exception.Code)
	require.Contains(t, exception.Message, "nowhere")

	require.NoError(t, conn.Exec(ctx, "CREATE TABLE c (a UInt8, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a"))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO c")
	require.NoError(t, err)
	require.NoError(t, batch.Append(uint8(11)))
	err = batch.Send()
	require.ErrorAs(t, err, &exception)
	require.EqualValues(t, 469, exception.Code)
	require.Contains(t, exception.Message, "Constraint `small`")

	response, err := http.Post(shared.server.URL+"/?database="+name, "", strings.NewReader("SELEC 1"))
	require.NoError(t, err)
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	require.Equal(t, 400, response.StatusCode)
	require.Equal(t, "62", response.Header.Get("X-ClickHouse-Exception-Code"))
	require.Regexp(t, `^Code: 62\. DB::Exception: Syntax error.*\(SYNTAX_ERROR\) \(version 26\.5\.`, strings.ReplaceAll(string(body), "\n", " "))
	status, text := post(t, "database=missing", "SELECT 1")
	require.Equal(t, 404, status)
	require.Contains(t, text, "Code: 81.")
	for _, statement := range []string{"SELECT 1; SELECT 2", "SELECT 1 INTO OUTFILE '/tmp/x'", "INSERT INTO c FROM INFILE '/etc/passwd' FORMAT CSV", "", "  -- nothing\n"} {
		status, text := post(t, "", statement)
		require.NotEqual(t, 200, status, statement)
		require.Contains(t, text, "Code: ", statement)
	}
	status, _ = post(t, "no_such_setting=1", "SELECT 1")
	require.Equal(t, 400, status)
}

// An error in the middle of a result is an error to the client, whatever the encoding, and never looks like an end.
func TestAnErrorInTheMiddleOfAResult(t *testing.T) {
	for name, method := range map[string]*clickhousego.Compression{
		"none": nil, "lz4": {Method: clickhousego.CompressionLZ4}, "gzip": {Method: clickhousego.CompressionGZIP, Level: 1},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := database(t, func(o *clickhousego.Options) {
				o.Compression = method
				if name == "gzip" {
					o.Settings = clickhousego.Settings{"enable_http_compression": 1}
				}
			})
			rows, err := conn.Query(context.Background(), "SELECT number, randomString(100), throwIf(number = 90000, 'too far') FROM numbers(100000) SETTINGS max_block_size = 1000, max_threads = 1")
			require.NoError(t, err)
			defer rows.Close()
			n := 0
			for rows.Next() {
				n++
			}
			require.Greater(t, n, 0)
			require.Less(t, n, 100_000)
			var exception *clickhousego.Exception
			require.ErrorAs(t, rows.Err(), &exception)
			require.EqualValues(t, 395, exception.Code)
			require.Contains(t, exception.Message, "too far")
		})
	}
	response, err := http.Post(shared.server.URL, "", strings.NewReader("SELECT number, randomString(100), throwIf(number = 90000) FROM numbers(100000) SETTINGS max_block_size = 1000, max_threads = 1"))
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "the body must not look complete")
	status, body := post(t, "wait_end_of_query=1", "SELECT number, randomString(100), throwIf(number = 90000) FROM numbers(100000) SETTINGS max_block_size = 1000, max_threads = 1")
	require.Equal(t, 500, status)
	require.True(t, strings.HasPrefix(body, "Code: 395."), body[:min(len(body), 100)])
	require.Len(t, curl(t, "wait_end_of_query=1", "SELECT randomFixedString(1000) FROM numbers(1000) FORMAT RowBinary"), 1_000_000)
	// What waits in a file and what comes later in small pieces keeps its order.
	var ordered strings.Builder
	for i := range 40_000 {
		fmt.Fprintln(&ordered, i)
	}
	require.Equal(t, ordered.String(), curl(t, "wait_end_of_query=1", "SELECT number FROM numbers(40000) SETTINGS max_block_size = 500, max_threads = 1 FORMAT TSV"))
}

// Whatever the format, a result is one document, and whole.
func TestFormatsOfOtherClients(t *testing.T) {
	status, body := get(t, "SELECT 1")
	require.Equal(t, 200, status)
	require.Equal(t, "1\n", body)
	require.Equal(t, "{\"number\":0}\n{\"number\":1}\n", curl(t, "output_format_json_quote_64bit_integers=0", "SELECT number FROM numbers(2) FORMAT JSONEachRow"))
	require.Equal(t, "a,b\n1,\"x\"\n", strings.ReplaceAll(curl(t, "default_format=CSVWithNames", "SELECT 1 AS a, 'x' AS b;"), "\"a\",\"b\"", "a,b"))
	var doc struct {
		Rows int
		Data []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(curl(t, "", "SELECT number AS n, toString(number) AS s FROM numbers(100000) FORMAT JSON SETTINGS max_block_size = 1000")), &doc))
	require.Equal(t, 100000, doc.Rows)
	require.Len(t, doc.Data, 100000)
	parquet := curl(t, "", "SELECT number AS n FROM numbers(300000) SETTINGS max_threads = 1 FORMAT Parquet")
	require.Equal(t, 2, strings.Count(parquet, "PAR1"))
	_, name := database(t)
	curl(t, "database="+name, "CREATE TABLE p (n UInt64) ENGINE = MergeTree ORDER BY n")
	curl(t, "database="+name+"&query=INSERT+INTO+p+FORMAT+Parquet", parquet)
	arrow := curl(t, "default_format=ArrowStream", "WITH 5 AS x SELECT number + x AS n FROM numbers(100000)")
	curl(t, "database="+name+"&query=INSERT+INTO+p+FORMAT+ArrowStream", arrow)
	require.Equal(t, "400000\n", curl(t, "database="+name, "SELECT count() FROM p"))
	require.Equal(t, "format\n", curl(t, "", "SELECT 'format' AS format FORMAT TSV"))
	require.Equal(t, "1\n", curl(t, "", "/* FORMAT CSV */ SELECT 1 -- FORMAT JSON"))
	require.Equal(t, "2\n", curl(t, "query=SELECT+1%2B", "1"), "query and body are one statement")
	require.Contains(t, curl(t, "", "SHOW DATABASES"), name)
	require.Contains(t, curl(t, "database="+name, "DESCRIBE TABLE p FORMAT JSON"), "\"UInt64\"")
	require.Empty(t, curl(t, "", "SELECT 1 WHERE 0"))
}

func TestCompressedTraffic(t *testing.T) {
	_, name := database(t)
	curl(t, "database="+name, "CREATE TABLE z (n UInt64) ENGINE = MergeTree ORDER BY n")
	request, err := http.NewRequest(http.MethodPost, shared.server.URL+"/?enable_http_compression=1", strings.NewReader("SELECT number FROM numbers(100000)"))
	require.NoError(t, err)
	for _, encoding := range []string{"gzip", "br", "lz4", "zstd", "deflate"} {
		request.Body, _ = request.GetBody()
		request.Header.Set("Accept-Encoding", encoding)
		response, err := shared.server.Client().Transport.RoundTrip(request)
		require.NoError(t, err)
		packed, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, encoding, response.Header.Get("Content-Encoding"))
		// The gateway reads what it wrote.
		back, err := http.NewRequest(http.MethodPost, shared.server.URL+"/?database="+name+"&query=INSERT+INTO+z+FORMAT+TSV", bytes.NewReader(packed))
		require.NoError(t, err)
		back.Header.Set("Content-Encoding", encoding)
		response, err = http.DefaultClient.Do(back)
		require.NoError(t, err)
		body, _ := io.ReadAll(response.Body)
		require.NoError(t, response.Body.Close())
		require.Equal(t, 200, response.StatusCode, string(body))
	}
	require.Equal(t, "500000\n", curl(t, "database="+name, "SELECT count() FROM z"))
	// A body that ends within a frame inserts nothing.
	writer := chcompress.NewWriter(chcompress.LevelZero, chcompress.LZ4)
	require.NoError(t, writer.Compress([]byte(strings.Repeat("1\n", 100000))))
	for _, cut := range []int{1, 16, 25, 30, len(writer.Data) - 1} {
		status, body := post(t, "decompress=1&database="+name+"&query=INSERT+INTO+z+FORMAT+TSV", string(writer.Data[:cut]))
		require.NotEqual(t, 200, status)
		require.Contains(t, body, "nothing was inserted")
	}
	require.Equal(t, "500000\n", curl(t, "database="+name, "SELECT count() FROM z"))
}

func TestExternalTables(t *testing.T) {
	conn, _ := database(t)
	table, err := ext.NewTable("wanted", ext.Column("id", "UInt64"), ext.Column("name", "String"))
	require.NoError(t, err)
	for i := range 10 {
		require.NoError(t, table.Append(uint64(i*2), fmt.Sprint("n", i)))
	}
	ctx := clickhousego.Context(context.Background(), clickhousego.WithExternalTable(table))
	var n uint64
	require.NoError(t, conn.QueryRow(ctx, "SELECT count() FROM numbers(10) WHERE number IN (SELECT id FROM wanted)").Scan(&n))
	require.EqualValues(t, 5, n)
	require.Error(t, conn.QueryRow(context.Background(), "SELECT count() FROM wanted").Scan(&n))
}

// A GET cannot change anything, and what a web page in a browser sends is refused: the engine has no password.
func TestWhatAPageCannotDo(t *testing.T) {
	_, name := database(t)
	status, body := get(t, "CREATE TABLE "+name+".t (a UInt8) ENGINE = Memory")
	require.Equal(t, 500, status)
	require.Contains(t, body, "readonly")
	for header, value := range map[string]string{"Origin": "https://example.com", "Sec-Fetch-Site": "cross-site"} {
		request, err := http.NewRequest(http.MethodPost, shared.server.URL, strings.NewReader("SELECT 1"))
		require.NoError(t, err)
		request.Header.Set(header, value)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusForbidden, response.StatusCode, header)
	}
	request, err := http.NewRequest(http.MethodPost, shared.server.URL, strings.NewReader("SELECT 1"))
	require.NoError(t, err)
	request.Host = "rebound.example.com:18123"
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestPingAndHeaders(t *testing.T) {
	response, err := http.Get(shared.server.URL + "/ping")
	require.NoError(t, err)
	body, _ := io.ReadAll(response.Body)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "Ok.\n", string(body))
	response, err = http.Get(shared.server.URL + "/?query_id=abc&query=" + url.QueryEscape("SELECT number FROM system.numbers LIMIT 10 FORMAT JSONEachRow"))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, "abc", response.Header.Get("X-ClickHouse-Query-Id"))
	require.Equal(t, "UTC", response.Header.Get("X-ClickHouse-Timezone"))
	require.Equal(t, "JSONEachRow", response.Header.Get("X-ClickHouse-Format"))
	require.Equal(t, "application/x-ndjson; charset=UTF-8", response.Header.Get("Content-Type"))
	require.Contains(t, response.Header.Get("X-ClickHouse-Summary"), `"result_rows":"10"`)
}

// Settings of one request must not be seen by another that runs at the same time, nor its database.
func TestRequestsShareNothing(t *testing.T) {
	errs := make(chan error, 16)
	for i := range cap(errs) {
		go func() {
			for range 20 {
				n := rand.IntN(1000) + 1
				status, body := postPlain(fmt.Sprintf("database=default&max_block_size=%d&log_comment=c%d", n, i), "SELECT getSetting('max_block_size'), getSetting('log_comment')")
				if want := fmt.Sprintf("%d\tc%d\n", n, i); status != 200 || body != want {
					errs <- fmt.Errorf("%d %q, not %q", status, body, want)
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
}

func postPlain(params, statement string) (int, string) {
	response, err := http.Post(shared.server.URL+"/?"+params, "text/plain", strings.NewReader(statement))
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}
