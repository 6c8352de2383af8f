package export

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/store/storetest"
	"spillway.dev/service/spillwaytest"
)

// silence is how long the exporter waits for an object store in trouble.
const silence = 600 * time.Millisecond

// moody is what stands between an exporter and an S3 server: it passes requests on, or does them harm.
type moody struct {
	to     http.Handler
	gone   atomic.Bool // nothing is answered any more
	mu     sync.Mutex
	random *rand.Rand // guarded by mu
	harmed map[string]int
}

func (m *moody) draw() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.random.IntN(100)
	for _, h := range []struct {
		below int
		what  string
	}{{4, "refused"}, {8, "answer lost"}, {11, "cut before"}, {14, "cut after"}, {17, "slow"}, {18, "silent"}} {
		if n < h.below {
			m.harmed[h.what]++
			break
		}
	}
	return n
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	failed := func() {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte("<Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>"))
	}
	if m.gone.Load() {
		failed()
		return
	}
	switch n := m.draw(); {
	case n < 4: // refused
		failed()
	case n < 8: // done, but the answer says otherwise
		m.to.ServeHTTP(httptest.NewRecorder(), r)
		failed()
	case n < 11: // the connection breaks before it is done
		panic(http.ErrAbortHandler)
	case n < 14: // and after
		m.to.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case n < 17: // slow, but not too slow
		time.Sleep(100 * time.Millisecond)
		m.to.ServeHTTP(w, r)
	case n < 18: // silent, until the client has given up: who does not read its body does not see it leave
		time.Sleep(2 * silence)
	default:
		m.to.ServeHTTP(w, r)
	}
}

// An object store that fails, hangs, and loses answers to what it did is asked again; nothing is lost or doubled. One that fails for good ends
// the run, after a bounded time, with an error that says so.
func TestObjectStoreInTrouble(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	f := newTables(t)
	calm := strings.Replace(storetest.S3(t), "?", "/trouble?", 1)
	u, err := url.Parse(calm)
	require.NoError(t, err)
	options := u.Query()
	server, err := url.Parse(options.Get("endpoint"))
	require.NoError(t, err)
	between := &moody{to: httputil.NewSingleHostReverseProxy(server), random: rand.New(rand.NewPCG(seed, 3)), harmed: map[string]int{}}
	proxy := httptest.NewServer(between)
	defer proxy.Close()
	proxy.Config.ErrorLog = nil
	options.Set("endpoint", proxy.URL)
	options.Set("timeout", silence.String())
	u.RawQuery = options.Encode()

	for part := range uint64(4) {
		f.insert(streamA, 2, 1+part*500, (part+1)*500, day0)
		e := f.exporter(u.String(), func(c *Config) { c.Events = 200 })
		e.chain.StateEvery = 3
		summary, err := e.Once(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 500, summary.Events)
	}
	require.GreaterOrEqual(t, len(between.harmed), 5, "%v", between.harmed)
	t.Log(between.harmed)
	s := openStore(t, calm)
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
	report, err := Audit(t.Context(), calm, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)

	f.insert(streamA, 2, 2001, 2100, day0)
	e := f.exporter(u.String())
	between.gone.Store(true)
	began := time.Now()
	_, err = e.Once(t.Context())
	require.ErrorContains(t, err, "InternalError")
	require.Less(t, time.Since(began), 20*time.Second)
	between.gone.Store(false)
	_, err = e.Once(t.Context())
	require.NoError(t, err, "the same exporter goes on")
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
}

// The program goes on until it is told to stop; told in the middle of a file it ends at once, with status 0, and leaves nothing behind.
func TestProgramStopsInTheMiddleOfAFile(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	f.insert(streamA, 0, 1, 1000, day0)
	c := f.command(t, root, "--every", "1s", "--hold", "0")
	var output spillwaytest.Output
	c.Stdout, c.Stderr = &output, &output
	require.NoError(t, c.Start())
	defer func() { _ = c.Process.Kill() }()
	list := func(pattern ...string) int {
		all, err := filepath.Glob(filepath.Join(append([]string{root}, pattern...)...))
		require.NoError(t, err)
		return len(all)
	}
	require.Eventually(t, func() bool { return list("manifests", "*.json") == 1 }, 30*time.Second, 10*time.Millisecond, "the first cut")
	f.insert(streamA, 0, 1001, 300_000, day0)
	require.Eventually(t, func() bool { return list(".unfinished", "cut-000000000002-*") == 1 }, 30*time.Second, time.Millisecond, "the second cut's file")
	began := time.Now()
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	require.NoError(t, c.Wait(), "%s", output.String())
	require.Less(t, time.Since(began), 10*time.Second)
	require.Equal(t, 1, list("manifests", "*.json"), "it was in the middle")
	require.Zero(t, list(".unfinished", "cut-*"))
	require.Equal(t, 1, list("events", "*", "*", "*.parquet"))
	require.NoError(t, f.command(t, root).Run())
	report, err := Audit(t.Context(), root, f.addresses, true) // the names of all events, and the files' checksums
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.EqualValues(t, 300_000, report.Events)
	onlyListed(t, openStore(t, root))
}
