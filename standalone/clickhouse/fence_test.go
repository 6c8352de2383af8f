package clickhouse

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// The tests of this file show on the real engine what the fence protocol assumes of it.

// fenced makes a table whose rows are checked against their partition's term, slowly if asked to: each row of the check takes that
// many seconds.
func fenced(t *testing.T, slow float64) string {
	_, name := database(t)
	db := "database=" + name
	curl(t, db, "CREATE TABLE terms (partition UInt32, term UInt64) ENGINE = Join(ANY, LEFT, partition) SETTINGS join_any_take_last_row = 1, persistent = 0")
	check := fmt.Sprintf("term != 0 AND term = joinGet('%s.terms', 'term', partition)", name)
	if slow > 0 {
		check += fmt.Sprintf(" AND sleepEachRow(%g) = 0", slow)
	}
	curl(t, db, "CREATE TABLE events (partition UInt32, n UInt64, term UInt64, CONSTRAINT fence CHECK "+check+") ENGINE = MergeTree ORDER BY n")
	return name
}

func setTerm(t *testing.T, name string, partition, term uint64) {
	curl(t, "database="+name, fmt.Sprintf("INSERT INTO terms VALUES (%d, %d)", partition, term))
}

// slowSettings let sleepEachRow sleep for as long as the tests want.
const slowSettings = "&function_sleep_max_microseconds_per_block=600000000"

// insertRows inserts n rows of one partition and term, tagged.
func insertRows(name string, partition, term uint64, n int, tag string) (int, string) {
	var rows strings.Builder
	for i := range n {
		fmt.Fprintf(&rows, "%d\t%d\t%d\n", partition, i, term)
	}
	return postPlain("database="+name+slowSettings+"&log_comment="+tag+"&query="+url.QueryEscape("INSERT INTO events (partition, n, term) FORMAT TSV"), rows.String())
}

func running(t *testing.T, tag string) int {
	n, err := strconv.Atoi(strings.TrimSpace(curl(t, "", "SELECT count() FROM system.processes WHERE Settings['log_comment'] = '"+tag+"' AND query NOT LIKE '%system.processes%'")))
	require.NoError(t, err)
	return n
}

func count(t *testing.T, name string) int {
	n, err := strconv.Atoi(strings.TrimSpace(curl(t, "database="+name, "SELECT count() FROM events")))
	require.NoError(t, err)
	return n
}

func TestOnlyTheNewestTermPasses(t *testing.T) {
	name := fenced(t, 0)
	status, body := insertRows(name, 1, 5, 3, "x")
	require.Equal(t, 500, status)
	require.Contains(t, body, "Code: 469.", "without a term nothing passes")
	setTerm(t, name, 1, 5)
	status, body = insertRows(name, 1, 5, 3, "x")
	require.Equal(t, 200, status, body)
	setTerm(t, name, 1, 6)
	status, body = insertRows(name, 1, 5, 3, "x")
	require.Equal(t, 500, status)
	require.Contains(t, body, "Constraint `fence`")
	status, _ = insertRows(name, 2, 6, 3, "x")
	require.Equal(t, 500, status, "a term is a partition's")
	status, body = insertRows(name, 1, 6, 3, "x")
	require.Equal(t, 200, status, body)
	require.Equal(t, 6, count(t, name))
}

// An insert shows in system.processes from before its check until it has ended: while it runs it is there, and once it is not
// there any more, what it wrote is visible or never will be.
func TestAnInsertIsShownUntilNoPartCanAppear(t *testing.T) {
	name := fenced(t, 0.02)
	setTerm(t, name, 1, 5)
	answered := make(chan string, 1)
	go func() {
		status, body := insertRows(name, 1, 5, 50, "tag-shown")
		answered <- fmt.Sprint(status, body)
	}()
	require.Eventually(t, func() bool { return running(t, "tag-shown") == 1 }, time.Minute, 2*time.Millisecond)
	require.Zero(t, count(t, name))
	setTerm(t, name, 1, 6) // what was checked before passes: so it is waited for
	for deadline := time.Now().Add(20 * time.Second); running(t, "tag-shown") > 0; {
		require.True(t, time.Now().Before(deadline), "the insert never ends")
	}
	seen := count(t, name)
	require.Equal(t, "200", <-answered)
	require.Equal(t, 50, seen, "what was no longer shown was not yet visible")
	require.Equal(t, 50, count(t, name))
}

// KILL … SYNC from another connection returns when the insert has ended, and then no part of it ever appears.
func TestKilledInsertsLeaveNothing(t *testing.T) {
	name := fenced(t, 0.01)
	setTerm(t, name, 1, 5)
	for _, where := range []string{"Settings['log_comment'] = 'tag-kill'", "query_id = 'id-kill'"} {
		answered := make(chan string, 1)
		go func() {
			status, body := postPlain("database="+name+slowSettings+"&log_comment=tag-kill&query_id=id-kill", "INSERT INTO events SELECT 1, number, 5 FROM numbers(1000)")
			answered <- fmt.Sprint(status, body)
		}()
		require.Eventually(t, func() bool { return running(t, "tag-kill") == 1 }, time.Minute, 2*time.Millisecond)
		killed := curl(t, "", "KILL QUERY WHERE "+where+" SYNC FORMAT TSV")
		require.Contains(t, killed, "finished")
		require.Zero(t, running(t, "tag-kill"))
		require.Zero(t, count(t, name))
		require.Contains(t, <-answered, "Code: 394.")
	}
	// The same for rows that came as data.
	answered := make(chan string, 1)
	go func() {
		status, body := insertRows(name, 1, 5, 1000, "tag-data")
		answered <- fmt.Sprint(status, body)
	}()
	require.Eventually(t, func() bool { return running(t, "tag-data") == 1 }, time.Minute, 2*time.Millisecond)
	require.Contains(t, curl(t, "", "KILL QUERY WHERE Settings['log_comment'] = 'tag-data' SYNC"), "finished")
	require.Zero(t, count(t, name))
	require.Contains(t, <-answered, "500Code: 394.")
}

// A client that goes away after it sent an insert has inserted it once; nobody sends it again. One that goes away while it
// sends has inserted nothing.
func TestAClientThatLeaves(t *testing.T) {
	// A connection of its own each time: one that is kept may be closed by the server just when it is used again.
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	name := fenced(t, 0.02)
	setTerm(t, name, 1, 5)
	ctx, leave := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, shared.server.URL+"/?database="+name+slowSettings+"&log_comment=tag-left",
		strings.NewReader("INSERT INTO events SELECT 1, number, 5 FROM numbers(50)"))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		response, err := fresh.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		done <- err
	}()
	require.Eventually(t, func() bool { return running(t, "tag-left") == 1 }, time.Minute, 2*time.Millisecond)
	leave()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Equal(t, 1, running(t, "tag-left"), "an insert is carried to its end")
	require.Eventually(t, func() bool { return running(t, "tag-left") == 0 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, 50, count(t, name))

	body, writer := io.Pipe()
	ctx, leave = context.WithCancel(context.Background())
	request, err = http.NewRequestWithContext(ctx, http.MethodPost, shared.server.URL+"/?database="+name+"&query="+url.QueryEscape("INSERT INTO events FORMAT TSV"), body)
	require.NoError(t, err)
	go func() {
		response, err := fresh.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		done <- err
	}()
	_, err = io.WriteString(writer, strings.Repeat("1\t1\t5\n", 100))
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond)
	leave()
	require.NoError(t, writer.CloseWithError(io.ErrClosedPipe))
	require.Error(t, <-done)
	time.Sleep(200 * time.Millisecond)
	require.Equal(t, 50, count(t, name))

	// A question whose client leaves is killed.
	ctx, leave = context.WithCancel(context.Background())
	request, err = http.NewRequestWithContext(ctx, http.MethodPost, shared.server.URL+"/?log_comment=tag-ask"+slowSettings, strings.NewReader("SELECT sleepEachRow(0.01) FROM numbers(50000)"))
	require.NoError(t, err)
	go func() {
		response, err := fresh.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		done <- err
	}()
	require.Eventually(t, func() bool { return running(t, "tag-ask") == 1 }, time.Minute, 2*time.Millisecond)
	leave()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Eventually(t, func() bool { return running(t, "tag-ask") == 0 }, time.Minute, 10*time.Millisecond)
}

// Success is answered when every part is visible, also of an insert that touches several months.
func TestAnsweredMeansVisible(t *testing.T) {
	ctx := context.Background()
	conn, _ := database(t)
	require.NoError(t, conn.Exec(ctx, "CREATE TABLE months (at DateTime, n UInt64) ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY n"))
	for i := range 10 {
		batch, err := conn.PrepareBatch(clickhousego.Context(ctx, clickhousego.WithSettings(clickhousego.Settings{"log_comment": "months"})), "INSERT INTO months")
		require.NoError(t, err)
		for m := range 3 {
			require.NoError(t, batch.Append(time.Date(2026, time.Month(1+m), 1, 0, 0, 0, 0, time.UTC), uint64(i)))
		}
		require.NoError(t, batch.Send())
		var n uint64
		require.NoError(t, conn.QueryRow(ctx, "SELECT count() FROM months WHERE n = ?", uint64(i)).Scan(&n))
		require.EqualValues(t, 3, n)
	}
}

// Whenever a kill comes, once KILL … SYNC has returned and nothing is shown any more, what the insert left is final: each month's
// part is whole or absent, and nothing appears later. An answer of success means all of them.
func TestAKillAtAnyMomentIsFinal(t *testing.T) {
	_, name := database(t)
	db := "database=" + name
	curl(t, db, "CREATE TABLE months (batch UInt32, at DateTime, n UInt64, PROJECTION counts (SELECT batch, count() GROUP BY batch)) ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY n")
	counts := func(batch int) string {
		return curl(t, db, fmt.Sprintf("SELECT toYYYYMM(at) AS month, count() FROM months WHERE batch = %d GROUP BY month ORDER BY month", batch))
	}
	const rows = 20_000 // in each of three months
	want := fmt.Sprintf("202601\t%d\n202602\t%d\n202603\t%d\n", rows, rows, rows)
	killed, finished := 0, 0
	for batch := range 24 {
		answered := make(chan string, 1)
		go func() {
			status, body := postPlain(db+fmt.Sprintf("&log_comment=tag-moment-%d", batch), fmt.Sprintf(
				"INSERT INTO months SELECT %d, toDateTime('2026-01-15 00:00:00') + INTERVAL (number %% 3) MONTH, number FROM numbers(%d)", batch, 3*rows))
			answered <- fmt.Sprint(status, body)
		}()
		time.Sleep(time.Duration(2*batch) * time.Millisecond)
		tag := fmt.Sprintf("tag-moment-%d", batch)
		if batch%8 == 7 {
			require.Eventually(t, func() bool { return len(answered) == 1 }, time.Minute, time.Millisecond)
		}
		curl(t, "", "KILL QUERY WHERE Settings['log_comment'] = '"+tag+"' SYNC FORMAT Null")
		for deadline := time.Now().Add(20 * time.Second); ; {
			answer := ""
			select {
			case answer = <-answered:
			default:
				// It may not have begun when it was to be killed.
				if time.Now().After(deadline) {
					t.Fatal("an insert is never answered")
				}
				time.Sleep(time.Millisecond)
				continue
			}
			require.Zero(t, running(t, tag), "what is answered is not shown any more")
			seen := counts(batch)
			if strings.HasPrefix(answer, "200") {
				require.Equal(t, want, seen)
				finished++
			} else {
				require.Contains(t, answer, "Code: 394.")
				for _, month := range strings.Split(strings.TrimSpace(seen), "\n") {
					require.True(t, month == "" || strings.HasSuffix(month, fmt.Sprint("\t", rows)), "a part of a part: %q", seen)
				}
				killed++
			}
			time.Sleep(2 * time.Millisecond)
			require.Equal(t, seen, counts(batch), "a part appeared after the end")
			break
		}
	}
	t.Logf("%d killed, %d finished", killed, finished)
	require.Positive(t, killed)
	require.Positive(t, finished)
}
