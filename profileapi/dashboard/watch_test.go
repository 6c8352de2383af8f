package dashboard_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAPageThatWasJustMadeIsNotReadAgain: its event stream says what has changed since, not what it shows.
func TestAPageThatWasJustMadeIsNotReadAgain(t *testing.T) {
	b, server, pool := signedUp(t)
	counted := func(views int, at time.Time) {
		t.Helper()
		_, err := pool.Exec(t.Context(), `INSERT INTO profile_counters VALUES (1, 'person', $1, 0, 0, 1, 1, 1, $2)
			ON CONFLICT (profile_id, class) DO UPDATE SET views = excluded.views, as_of = excluded.as_of`, views, at)
		require.NoError(t, err)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	counted(10, at)
	_, err := pool.Exec(t.Context(), `INSERT INTO completeness (complete_through, computed_at) VALUES (now(), now())`)
	require.NoError(t, err)
	_, page := b.send("GET", "/pages/ada?part=numbers", nil)
	shown := fmt.Sprint(at.UnixMicro())
	require.Contains(t, page, `data-state="`+shown+`"`)

	// watched returns the stream's events, up to the one that was waited for.
	watched := func(path string) func(until string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		require.NoError(t, err)
		answer, err := b.Do(request)
		require.NoError(t, err)
		t.Cleanup(func() { answer.Body.Close() })
		lines := bufio.NewScanner(answer.Body)
		return func(until string) string {
			var names []string
			for lines.Scan() {
				if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
					names = append(names, name)
					if name == until {
						return strings.Join(names, " ")
					}
				}
			}
			require.Fail(t, "the stream ended", "%v", lines.Err())
			return ""
		}
	}
	stale, fresh := watched("/pages/ada/live?seen=1"), watched("/pages/ada/live?seen="+shown)
	require.Equal(t, "changed through", stale("through"))
	require.Equal(t, "through", fresh("through"))
	counted(11, at.Add(time.Second))
	require.Equal(t, "changed", fresh("changed"))
	require.Equal(t, "changed", stale("changed"))
}
