package clickhouse

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// row has a column of every type that Spillway's tables use, and of those that other clients like to read.
type row struct {
	Id       uint64            `ch:"id"`
	Small    uint32            `ch:"small"`
	Signed   int64             `ch:"signed"`
	At       time.Time         `ch:"at"`
	Day      time.Time         `ch:"day"`
	Low      string            `ch:"low"`
	LowNull  *string           `ch:"low_null"`
	Text     string            `ch:"text"`
	Kind     string            `ch:"kind"`
	Holes    [][]any           `ch:"holes"`
	Flag     bool              `ch:"flag"`
	Country  string            `ch:"country"`
	Maybe    *uint32           `ch:"maybe"`
	Names    []string          `ch:"names"`
	LowNames []string          `ch:"low_names"`
	Address  string            `ch:"address"`
	Map      map[string]uint64 `ch:"map"`
	Share    float64           `ch:"share"`
}

const everyType = `CREATE TABLE every (
	id UInt64, small UInt32, signed Int64, at DateTime64(6, 'UTC'), day Date, low LowCardinality(String),
	low_null LowCardinality(Nullable(String)), text String, kind Enum8('view' = 1, 'click' = 2), holes Array(Tuple(UInt64, UInt64)),
	flag Bool, country FixedString(2), maybe Nullable(UInt32), names Array(String), low_names Array(LowCardinality(String)), address String,
	map Map(String, UInt64), share Float64
) ENGINE = MergeTree ORDER BY id`

func sample(i int) row {
	r := row{
		Id: math.MaxUint64 - uint64(i), Small: uint32(i), Signed: -int64(i) * 1_000_000_007,
		At:  time.Date(2026, 2, 28, 23, 59, 59, 999_999_000, time.UTC).Add(time.Duration(i) * time.Microsecond),
		Day: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, i%300),
		Low: fmt.Sprint("low-", i%7), Text: strings.Repeat("é\x00'\\", i%40), Kind: []string{"view", "click"}[i%2],
		Flag: i%3 == 0, Country: []string{"DE", "FR"}[i%2], Address: fmt.Sprint(i), Share: float64(i) / 3,
		Holes: [][]any{}, Names: []string{}, LowNames: []string{}, Map: map[string]uint64{},
	}
	for n := range i % 4 {
		r.Holes = append(r.Holes, []any{uint64(i + n), uint64(n)})
		r.Names = append(r.Names, fmt.Sprint("name", n))
		r.LowNames = append(r.LowNames, fmt.Sprint("l", n%2))
		r.Map[fmt.Sprint(n)] = uint64(n)
	}
	if i%2 == 0 {
		n, s := uint32(i), fmt.Sprint("null-", i%3)
		r.Maybe, r.LowNull = &n, &s
	}
	return r
}

// Everything that clickhouse-go writes comes back, whatever it compresses with.
func TestEveryTypeComesBack(t *testing.T) {
	ctx := context.Background()
	methods := map[string]*clickhousego.Compression{
		"none":    nil,
		"lz4":     {Method: clickhousego.CompressionLZ4},
		"zstd":    {Method: clickhousego.CompressionZSTD, Level: 1},
		"gzip":    {Method: clickhousego.CompressionGZIP, Level: 3},
		"br":      {Method: clickhousego.CompressionBrotli, Level: 3},
		"deflate": {Method: clickhousego.CompressionDeflate, Level: 3},
	}
	for name, method := range methods {
		t.Run(name, func(t *testing.T) {
			conn, _ := database(t, func(o *clickhousego.Options) {
				o.Compression = method
				if name == "gzip" || name == "br" || name == "deflate" {
					o.Settings = clickhousego.Settings{"enable_http_compression": 1}
				}
			})
			require.NoError(t, conn.Exec(ctx, everyType))
			const rows = 2000
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO every")
			require.NoError(t, err)
			for i := range rows {
				r := sample(i)
				require.NoError(t, batch.AppendStruct(&r))
			}
			require.NoError(t, batch.Send())

			got, err := conn.Query(ctx, "SELECT * FROM every ORDER BY small")
			require.NoError(t, err)
			defer got.Close()
			i := 0
			for got.Next() {
				var r row
				require.NoError(t, got.ScanStruct(&r))
				want := sample(i)
				r.Day = r.Day.UTC()
				require.Equal(t, want, r)
				i++
			}
			require.NoError(t, got.Err())
			require.Equal(t, rows, i)
		})
	}
}

// What clickhouse-go cannot read is not needed of it; what it sends as states is merged.
func TestAggregateStatesAreWrittenAndMerged(t *testing.T) {
	ctx := context.Background()
	conn, name := database(t)
	require.NoError(t, conn.Exec(ctx, `CREATE TABLE states (day Date, visitors AggregateFunction(uniq, UInt64)) ENGINE = AggregatingMergeTree ORDER BY day`))
	require.NoError(t, conn.Exec(ctx, `INSERT INTO states SELECT '2026-01-01', uniqState(toUInt64(number % 1000)) FROM numbers(5000)`))
	require.NoError(t, conn.Exec(ctx, `INSERT INTO states SELECT '2026-01-01', uniqState(toUInt64(number % 1500)) FROM numbers(5000)`))
	var n uint64
	require.NoError(t, conn.QueryRow(ctx, "SELECT uniqMerge(visitors) FROM states").Scan(&n))
	require.EqualValues(t, 1500, n)
	// States travel as opaque bytes between programs that are not clickhouse-go.
	blocks := curl(t, "database="+name, "SELECT * FROM states FORMAT Native")
	require.NoError(t, conn.Exec(ctx, "CREATE TABLE copy AS states"))
	curl(t, "database="+name+"&query=INSERT+INTO+copy+FORMAT+Native", blocks)
	require.NoError(t, conn.QueryRow(ctx, "SELECT uniqMerge(visitors) FROM copy").Scan(&n))
	require.EqualValues(t, 1500, n)
	status, body := post(t, "database="+name+"&client_protocol_version=54460&default_format=Native", "SELECT visitors FROM states")
	require.Equal(t, 501, status)
	require.Contains(t, body, "AggregateFunction(uniq, UInt64)")
}

func TestDefaultsAndColumnListsOfInserts(t *testing.T) {
	ctx := context.Background()
	conn, name := database(t)
	require.NoError(t, conn.Exec(ctx, "CREATE TABLE d (a UInt64, b String DEFAULT concat('b', toString(a)), upper String MATERIALIZED upper(b), `format` UInt8 DEFAULT 7) ENGINE = MergeTree ORDER BY a"))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO d (a)")
	require.NoError(t, err)
	require.NoError(t, batch.Append(uint64(1)))
	require.NoError(t, batch.Send())
	batch, err = conn.PrepareBatch(ctx, "INSERT INTO d (b, a)")
	require.NoError(t, err)
	require.NoError(t, batch.Append("two", uint64(2)))
	require.NoError(t, batch.Send())
	db := "database=" + name
	curl(t, db+"&query=INSERT+INTO+d+FORMAT+JSONEachRow", `{"a":3}`+"\n"+`{"a":"18446744073709551615","b":"max"}`)
	curl(t, db, "INSERT INTO d (a, b) FORMAT CSV\n4,\"vier\"\n")
	curl(t, db, "INSERT INTO d (a, b) SETTINGS max_insert_threads = 1 FORMAT TSV\n5\tfive\n")
	curl(t, db, "INSERT INTO d (a, `format`) VALUES (6, 1 + 1), (7, 3)")
	curl(t, db+"&query="+"INSERT+INTO+d+(a)+VALUES", "(8)")
	parquet := curl(t, db, "SELECT toUInt64(9) AS a, 'nine' AS b FORMAT Parquet")
	curl(t, db+"&query=INSERT+INTO+d+(a,b)+FORMAT+Parquet", parquet)
	require.Equal(t, strings.Join([]string{
		"1\tb1\tB1\t7", "2\ttwo\tTWO\t7", "3\tb3\tB3\t7", "4\tvier\tVIER\t7", "5\tfive\tFIVE\t7", "6\tb6\tB6\t2", "7\tb7\tB7\t3", "8\tb8\tB8\t7",
		"9\tnine\tNINE\t7", "18446744073709551615\tmax\tMAX\t7", ""}, "\n"),
		curl(t, db, "SELECT a, b, upper, format FROM d ORDER BY a"))
}

func TestBigAndParallelInserts(t *testing.T) {
	ctx := context.Background()
	conn, _ := database(t, func(o *clickhousego.Options) {
		o.MaxOpenConns = 8
		o.Compression = &clickhousego.Compression{Method: clickhousego.CompressionLZ4}
	})
	require.NoError(t, conn.Exec(ctx, "CREATE TABLE big (worker UInt8, n UInt64, text String) ENGINE = MergeTree ORDER BY (worker, n)"))
	const workers, rows = 6, 100_000
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO big")
			for n := 0; err == nil && n < rows; n++ {
				err = batch.Append(uint8(w), uint64(n), "some text")
			}
			if err == nil {
				err = batch.Send()
			}
			errs <- err
		}()
	}
	for range workers {
		require.NoError(t, <-errs)
	}
	var count, sum, parts uint64
	require.NoError(t, conn.QueryRow(ctx, "SELECT count(), sum(n) FROM big").Scan(&count, &sum))
	require.EqualValues(t, workers*rows, count)
	require.EqualValues(t, workers*rows*(rows-1)/2, sum)
	require.NoError(t, conn.QueryRow(ctx, "SELECT uniqExact(_part) FROM big").Scan(&parts))
	require.LessOrEqual(t, parts, uint64(workers), "an insert is one part")
}
