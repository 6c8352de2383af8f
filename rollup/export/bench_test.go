package export

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkAgainstClickHouse exports the same events with this package and with ClickHouse's own Parquet writer, one after the other,
// and prints how many events a second each does, their ratio (the goal is at least 0.7), and this process's peak memory:
//
//	go test -run - -bench AgainstClickHouse -benchtime 3x ./export
//
// SPILLWAY_BENCH_EVENTS says how many events (2 000 000). Both write the same columns in the same order with zstd and row groups of
// 122 880 rows into a file on the same disk; ClickHouse's goes through the same HTTP interface.
func BenchmarkAgainstClickHouse(b *testing.B) {
	events := uint64(2_000_000)
	if text := os.Getenv("SPILLWAY_BENCH_EVENTS"); text != "" {
		var err error
		events, err = strconv.ParseUint(text, 10, 64)
		require.NoError(b, err)
	}
	f := newTables(b)
	for first := uint64(1); first <= events; first += 500_000 {
		f.busy(first, min(events, first+499_999))
	}
	f.exec("OPTIMIZE TABLE events FINAL")
	plan := f.exporter(b.TempDir())
	require.NoError(b, plan.load(b.Context()))
	var ours, theirs time.Duration
	var size, otherSize int64
	for b.Loop() {
		began := time.Now()
		summary := f.once(b.TempDir(), func(c *Config) { c.Events = events })
		ours += time.Since(began)
		require.EqualValues(b, events, summary.Events)
		size = summary.Bytes
		began = time.Now()
		otherSize = f.outfile(b, filepath.Join(b.TempDir(), "clickhouse.parquet"))
		theirs += time.Since(began)
	}
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	rate := func(d time.Duration) float64 { return float64(events) * float64(b.N) / d.Seconds() }
	b.ReportMetric(rate(ours), "events/s")
	b.ReportMetric(rate(theirs), "clickhouse-events/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(float64(size)/float64(events), "B/event")
	b.ReportMetric(float64(otherSize)/float64(events), "clickhouse-B/event")
	b.ReportMetric(float64(usage.Maxrss)/1024, "peak-MB")
}

// outfile has ClickHouse write the events as Parquet and returns the file's size.
func (f *tables) outfile(t testing.TB, path string) int64 {
	u, err := url.Parse(f.addresses.ClickHouse)
	require.NoError(t, err)
	database := strings.Trim(u.Path, "/")
	u.Path, u.RawQuery = "/", url.Values{"database": {database}, "output_format_parquet_row_group_size": {"122880"}, "output_format_parquet_compression_method": {"zstd"}}.Encode()
	response, err := http.Post(u.String(), "text/plain", strings.NewReader("SELECT * EXCEPT (term) FROM events ORDER BY date, profile_id, time FORMAT Parquet"))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	n, err := io.Copy(file, response.Body)
	require.NoError(t, err)
	require.NoError(t, file.Sync())
	return n
}

// busy inserts events as a platform has them: a few profiles with most of the views, 2 000 user agents, many referrers.
func (f *tables) busy(first, last uint64) {
	f.exec(fmt.Sprintf(`INSERT INTO events SELECT 1000003 * (1 + number %% 3) AS stream, intDiv(number, 3) %% 8 AS partition, intDiv(number, 24) + 1 AS sequence, number AS offset, 1 AS term,
		toDateTime64('2025-11-18 00:00:00', 6, 'UTC') + toIntervalMicrosecond(intDiv(number * 86400 * 3, 50) + rand(1) %% 5000000) AS time, toDate(time) AS date,
		if(rand(2) %% 3 = 0, 'view', 'click') AS kind, if(rand(3) %% 10 = 0, 'bot', 'person') AS class, if(class = 'bot', 'user agent', '') AS reason, 1 AS rules_version,
		rand(4) %% 1000 = 0 AS suspect, 1 + toUInt64(pow(rand(5) / 4294967296.0, 3) * 20000) AS profile_id, if(kind = 'view', 0, profile_id * 20 + rand(6) %% 20) AS link_id,
		cityHash64(rand(7) %% 1500000) AS visitor, 'page' AS surface, ['', '', '', 'bio', 'story'][1 + rand(8) %% 5] AS place, '' AS variant, 3 AS layout, 'spill.example' AS host,
		['US', 'DE', 'GB', 'FR', 'BR', 'IN', 'JP'][1 + rand(9) %% 7] AS country, ['en', 'de', 'fr', 'pt'][1 + rand(10) %% 4] AS language, ['phone', 'desktop', 'tablet'][1 + rand(11) %% 3] AS device,
		['Chrome', 'Safari', 'Firefox'][1 + rand(12) %% 3] AS browser, ['iOS', 'Android', 'Windows'][1 + rand(13) %% 3] AS os,
		concat('Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/', toString(rand(14) %% 2000), '.0 Safari/537.36') AS user_agent,
		['', 'https://www.instagram.example/', 'https://t.example/', 'https://search.example/'][1 + rand(15) %% 4] || if(rand(16) %% 3 = 0, concat('p/', hex(rand(17) %% 100000)), '') AS referrer,
		['', 'www.instagram.example', 't.example', 'search.example'][1 + rand(15) %% 4] AS referrer_host, ['direct', 'social', 'search'][1 + rand(18) %% 3] AS channel,
		['', 'newsletter', 'ig'][1 + rand(19) %% 3] AS utm_source, ['', 'email'][1 + rand(20) %% 2] AS utm_medium, concat('c', toString(rand(21) %% 50)) AS utm_campaign, '' AS utm_term,
		if(rand(22) %% 20 = 0, toString(rand(23) %% 10000), '') AS utm_content
		FROM numbers(%d, %d)`, first-1, last-first+1))
}
