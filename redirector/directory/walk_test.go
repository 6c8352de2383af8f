package directory

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// TestWalk changes links, asks for them, cuts PostgreSQL off, ends the listener, lets what is held turn over and has shelves and cache let go of links, at
// random, with so few shelves that links drive each other out, and links that are too large for them now and then; when all is quiet, the
// directory agrees with PostgreSQL. A seed that failed is walked again with SPILLWAY_SEED=….
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SPILLWAY_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("SPILLWAY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	padding := func() string {
		return strings.Repeat("x", []int{0, 0, 20, 300, 600, 900, 2 * maxRecord}[random.IntN(7)])
	}
	w := newWorld(t)
	d := w.directory(Options{CacheBytes: 1 << 20, LoadTimeout: 200 * time.Millisecond, Snapshot: filepath.Join(t.TempDir(), "snapshot")}, false)
	d.shelves = newShelves(2 * (shelfBytes + shelfItself))
	w.run(d)
	w.eventually("listening", func() bool { return testutil.ToFloat64(d.metrics.listening) == 1 })
	id := w.profile("aurora")
	const codes = 60
	truth := map[string]string{} // code → where it leads
	answers := func(code string) string {
		if url, ok := truth[code]; ok {
			return url
		}
		return ErrUnknown.Error()
	}
	open := true
	for step := range 400 {
		code := fmt.Sprintf("c%d", random.IntN(codes))
		switch n := random.IntN(100); {
		case n < 55:
			for range 1 + random.IntN(8) {
				d.Link("", []byte(code))
			}
			// served, whatever it is: an older answer is allowed while it is busy
		case n < 80:
			url := fmt.Sprintf("https://example.com/%d/%s", step, padding())
			if _, there := truth[code]; there {
				w.exec(`UPDATE links SET url = $2, deleted_at = NULL WHERE code = $1`, code, url)
			} else {
				w.exec(`INSERT INTO links (profile_id, code, title, url) VALUES ($1, $2, 't', $3)
					ON CONFLICT (host, code) DO UPDATE SET url = excluded.url, deleted_at = NULL`, id, code, url)
			}
			truth[code] = url
		case n < 88:
			w.exec(`UPDATE links SET deleted_at = now() WHERE code = $1`, code)
			delete(truth, code)
		case n < 92:
			if open {
				w.door.Shut()
			} else {
				w.door.Open(t)
			}
			open = !open
		case n < 95:
			w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spillway listen' AND datname = current_database()`)
		case n < 97: // as shelves and the cache do when they are full
			k := key{kindLink, "", code}
			hash := d.hashOf(k)
			d.mu.Lock()
			if _, i := d.shelfLocked(k, hash); i >= 0 {
				d.shelves.replace(hash, i, nil)
			}
			d.mu.Unlock()
			d.cache.Del(hash)
		case n < 98:
			d.save()
		default:
			d.mu.Lock()
			d.turnLocked()
			d.unknown.turn()
			d.mu.Unlock()
		}
	}
	if !open {
		w.door.Open(t)
	}
	agree := func() {
		t.Helper()
		for n := range codes {
			code := fmt.Sprintf("c%d", n)
			w.eventually(fmt.Sprintf("%s leads to %q, not %q (SPILLWAY_SEED=%d)", code, answers(code), leads(d, "", code), seed), func() bool {
				return leads(d, "", code) == answers(code)
			})
		}
	}
	agree()
	// From here on nothing but announcements says what changed, and changes come while the one before is being loaded.
	w.eventually("everything was compared", func() bool { d.mu.RLock(); defer d.mu.RUnlock(); return d.staleLocked() == 0 && d.resynced.IsZero() })
	for step := range 100 {
		code := fmt.Sprintf("c%d", random.IntN(codes))
		for again := range 1 + random.IntN(4) {
			leads(d, "", code)
			if _, there := truth[code]; there && random.IntN(8) > 0 {
				truth[code] = fmt.Sprintf("https://example.com/later/%d/%d/%s", step, again, padding())
				w.exec(`UPDATE links SET url = $2 WHERE code = $1`, code, truth[code])
			}
		}
	}
	agree()
	require.NotZero(t, testutil.ToFloat64(d.metrics.evicted), "links drove each other out")
	// And it stays so.
	for n := range codes {
		code := fmt.Sprintf("c%d", n)
		w.eventually(code+" is loaded again", func() bool {
			got := leads(d, "", code)
			if got == ErrAway.Error() { // it was let go of, and this machine is busy
				return false
			}
			require.Equal(t, answers(code), got, "SPILLWAY_SEED=%d", seed)
			return true
		})
	}
}
