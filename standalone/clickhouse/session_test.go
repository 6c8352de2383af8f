package clickhouse

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A session keeps SET, USE and temporary tables; a setting of one request ends with it; a GET changes nothing there either.
func TestASessionKeepsWhatWasSet(t *testing.T) {
	_, name := database(t)
	s := "session_id=s-" + name
	status, body := post(t, s+"&session_check=1", "SELECT 1")
	require.NotEqual(t, 200, status)
	require.Contains(t, body, "Code: 372.")
	require.Equal(t, "default\n", curl(t, s, "SELECT currentDatabase()"))
	curl(t, s, "USE "+name)
	require.Equal(t, name+"\n", curl(t, s, "SELECT currentDatabase()"))
	curl(t, s, "SET max_block_size = 77")
	curl(t, s, "CREATE TEMPORARY TABLE mine (n UInt64)")
	curl(t, s+"&query=INSERT+INTO+mine+FORMAT+TSV", "5\n6\n")
	require.Equal(t, "11\t77\t5\n", curl(t, s+"&max_threads=5", "SELECT sum(n), getSetting('max_block_size'), getSetting('max_threads') FROM mine"))
	require.NotEqual(t, "5\n", curl(t, s, "SELECT getSetting('max_threads')"))
	status, _ = post(t, "", "SELECT * FROM mine")
	require.Equal(t, 404, status, "another request does not see the session's table")

	response, err := shared.server.Client().Get(shared.server.URL + "/?" + s + "&query=DROP+TABLE+mine")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.NotEqual(t, 200, response.StatusCode)
	require.Equal(t, "2\n", curl(t, s, "SELECT count() FROM mine"))
	curl(t, s+"&close_session=1", "SELECT 1")
	status, _ = post(t, s+"&session_check=1", "SELECT 1")
	require.NotEqual(t, 200, status)
}

func TestASessionIsOneStatementAtATimeAndExpires(t *testing.T) {
	_, name := database(t)
	s := "session_id=t-" + name + "&session_timeout=1"
	done := make(chan int, 1)
	go func() {
		status, _ := postPlain(s+"&log_comment=tag-session"+slowSettings, "SELECT sleepEachRow(0.1) FROM numbers(5)")
		done <- status
	}()
	require.Eventually(t, func() bool { return running(t, "tag-session") == 1 }, time.Minute, 2*time.Millisecond)
	status, body := post(t, s, "SELECT 1")
	require.Equal(t, 500, status)
	require.Contains(t, body, "Code: 373.")
	require.Equal(t, 200, <-done)
	curl(t, s+"&session_check=1", "SELECT 1")
	require.Eventually(t, func() bool {
		// Asking would keep the session alive: an expired one is one that can be made again without its table.
		time.Sleep(1200 * time.Millisecond)
		status, body := post(t, s+"&session_check=1", "SELECT 1")
		return status != 200 && strings.Contains(body, "Code: 372.")
	}, time.Minute, time.Millisecond)
}

// A statement of a session that failed does not stay in system.processes, where KILL … SYNC would wait for it for ever.
func TestAFailedStatementOfASessionIsNotShown(t *testing.T) {
	_, name := database(t)
	s := "session_id=f-" + name + "&log_comment=tag-failed"
	for _, statement := range []string{"SELECT throwIf(number = 10) FROM numbers(100)", "INSERT INTO nowhere VALUES (1)", "SELECT nothing"} {
		status, _ := post(t, s, statement)
		require.NotEqual(t, 200, status)
		require.Zero(t, running(t, "tag-failed"))
	}
}
