package clickhouse

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"spillway.dev/service/spillwaytest"
	"spillway.dev/standalone/supervise"
)

// The library makes standard input non-blocking. Were it still the pipe from the parent, then a child that reads it would, stopped
// and continued, find neither data nor patience there, take that for the parent's end, and end with status 0.
func TestAChildThatWasStoppedGoesOn(t *testing.T) {
	program, err := spillwaytest.Program()
	require.NoError(t, err)
	ready := make(chan string, 1)
	child, err := supervise.Start(supervise.Command{
		Path: program, Args: []string{"engine", "clickhouse", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--with-parent", "--throw-away"},
		Output: func(line string) {
			if address, ok := strings.CutPrefix(line, "ready "); ok {
				ready <- address
			}
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { child.Stop(context.Background(), syscall.SIGTERM, 10*time.Second) })
	var address string
	select {
	case address = <-ready:
	case <-child.Done():
		require.Fail(t, "the engine did not start", child.Reason())
	case <-time.After(time.Minute):
		require.Fail(t, "the engine is not ready")
	}
	base, database, _ := strings.Cut(strings.TrimPrefix(address, "http://"), "/")
	run := func(statement string) (string, error) {
		response, err := http.Post("http://"+base+"/?database="+database, "text/plain", strings.NewReader(statement))
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, child.LastLines())
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return strings.TrimSpace(string(body)), err
	}
	_, err = run("CREATE TABLE rows (n UInt64) ENGINE = MergeTree ORDER BY n")
	require.NoError(t, err)
	// It does so now and then, when several connections insert at a time.
	load, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var inserted atomic.Int64
	var inserting sync.WaitGroup
	for range 4 {
		inserting.Go(func() {
			for load.Err() == nil {
				if _, err := run("INSERT INTO rows FORMAT TSV\n1\n"); !assert.NoError(t, err) {
					return
				}
				inserted.Add(1)
			}
		})
	}
	for load.Err() == nil {
		time.Sleep(300 * time.Millisecond)
		child.Signal(syscall.SIGSTOP)
		time.Sleep(20 * time.Millisecond)
		child.Signal(syscall.SIGCONT)
	}
	inserting.Wait()
	count, err := run("SELECT count() FROM rows")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(inserted.Load()), count)
}
