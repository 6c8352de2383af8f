package directory

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/outage"
	"spillway.dev/redirector/page"
	schema "spillway.dev/schemas/postgres"
	"spillway.dev/service/enginetest"
)

// world is a PostgreSQL with a schema, and a door before it.
type world struct {
	t    testing.TB
	door *outage.Door
	url  string        // through the door
	sql  *pgxpool.Pool // past the door
}

func newWorld(t testing.TB) *world {
	direct := enginetest.Postgres(t)
	require.NoError(t, schema.Migrate(t.Context(), direct))
	sql, err := pgxpool.New(t.Context(), direct)
	require.NoError(t, err)
	t.Cleanup(sql.Close)
	w := &world{t: t, sql: sql}
	w.door, w.url = outage.Postgres(t, direct)
	w.exec(`INSERT INTO accounts (email) VALUES ('a@example.com')`)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.sql.Exec(context.Background(), sql, args...)
	require.NoError(w.t, err)
}

func (w *world) profile(handle string) (id int64) {
	w.t.Helper()
	require.NoError(w.t, w.sql.QueryRow(context.Background(),
		`INSERT INTO profiles (account_id, handle, title) SELECT min(id), $1, 'Title of ' || $1 FROM accounts RETURNING id`, handle).Scan(&id))
	return id
}

func (w *world) link(profile int64, host, code, url string) {
	w.t.Helper()
	w.exec(`INSERT INTO links (profile_id, host, code, title, url) VALUES ($1, $2, $3, 'Title', $4)`, profile, host, code, url)
}

// directory makes a directory behind the door. run says whether it hears of changes.
func (w *world) directory(o Options, run bool) *Directory {
	w.t.Helper()
	config, err := pgxpool.ParseConfig(w.url)
	require.NoError(w.t, err)
	config.ConnConfig.ConnectTimeout = time.Second
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(w.t, err)
	w.t.Cleanup(pool.Close)
	d, err := New(o, pool, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(w.t, err)
	w.t.Cleanup(d.Close)
	if run {
		w.run(d)
		w.eventually("listening", func() bool { return testutil.ToFloat64(d.metrics.listening) == 1 })
	}
	return d
}

// run runs d and returns what stops it.
func (w *world) run(d *Directory) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return stop
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// leads returns where a code leads.
func leads(d *Directory, host, code string) string {
	l, err := d.Link(host, []byte(code))
	if err != nil {
		return err.Error()
	}
	return string(l.Target.Plain())
}

func TestLinksAndProfilesAreFound(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{}, false)
	id := w.profile("aurora")
	w.exec(`UPDATE profiles SET timezone = 'Asia/Kolkata', layout = 4 WHERE id = $1`, id)
	w.link(id, "", "one", "https://example.com/1")
	w.link(id, "", "two", "https://example.com/2")
	w.exec(`UPDATE links SET position = CASE code WHEN 'one' THEN 2 ELSE 1 END, utm_source = 'bio', query_mode = 'append'`)
	w.link(id, "", "bad", "javascript:alert(1)")
	w.exec(`INSERT INTO links (profile_id, code, title, url, hidden) VALUES ($1, 'hidden', 'Hidden', 'https://example.com/h', true)`, id)
	w.exec(`INSERT INTO links (profile_id, code, title, url, deleted_at) VALUES ($1, 'gone', 'Gone', 'https://example.com/g', now())`, id)

	link, err := d.Link("", []byte("one"))
	require.NoError(t, err)
	require.EqualValues(t, id, link.ProfileID)
	require.Equal(t, "Asia/Kolkata", link.Zone.String())
	require.Equal(t, "https://example.com/1?utm_source=bio&x=1", string(link.Target.Append(nil, []byte("x=1"))))
	require.Equal(t, "https://example.com/h", leads(d, "", "hidden"), "a hidden link is off the page, and still leads where it led")
	for _, code := range []string{"bad", "gone", "none", "ONE", "", "a b", "a\x00", "\xff", "a/b", string(make([]byte, 500))} {
		require.Equal(t, ErrUnknown.Error(), leads(d, "", code), "%q", code)
	}
	require.Equal(t, ErrUnknown.Error(), leads(d, "go.example", "one"))

	profile, err := d.Profile([]byte("aurora"))
	require.NoError(t, err)
	require.EqualValues(t, 4, profile.Layout)
	renderer, err := page.NewRenderer("https://spill.example", page.Rendered)
	require.NoError(t, err)
	shown, err := profile.Page(renderer)
	require.NoError(t, err)
	require.Regexp(t, `(?s)/l/two\?sw_page=4.*/l/one\?sw_page=4`, string(shown.HTML))
	require.NotContains(t, string(shown.HTML), "/l/hidden")
	require.NotContains(t, string(shown.HTML), "/l/gone")
	again, err := profile.Page(renderer)
	require.NoError(t, err)
	require.Same(t, shown, again, "rendered once")
	_, err = d.Profile([]byte("nobody"))
	require.ErrorIs(t, err, ErrUnknown)
}

func TestAChangeIsServedWithinASecond(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{}, true)
	id := w.profile("aurora")
	w.link(id, "", "a", "https://example.com/1")
	require.Equal(t, "https://example.com/1", leads(d, "", "a"))
	_, err := d.Profile([]byte("aurora"))
	require.NoError(t, err)
	require.Equal(t, ErrUnknown.Error(), leads(d, "", "later"))

	within := func(what string, change func(), ok func() bool) {
		t.Helper()
		began := time.Now()
		change()
		w.eventually(what, ok)
		require.Less(t, time.Since(began), time.Second, what)
	}
	within("target", func() { w.exec(`UPDATE links SET url = 'https://example.com/2' WHERE code = 'a'`) },
		func() bool { return leads(d, "", "a") == "https://example.com/2" })
	within("unknown code made", func() { w.link(id, "", "later", "https://example.com/3") },
		func() bool { return leads(d, "", "later") == "https://example.com/3" })
	within("profile's title", func() { w.exec(`UPDATE profiles SET title = 'New' WHERE id = $1`, id) },
		func() bool { p, err := d.Profile([]byte("aurora")); return err == nil && p.row.shown.Title == "New" })
	within("links on the page", func() { w.exec(`UPDATE links SET hidden = true WHERE code = 'later'`) },
		func() bool { p, err := d.Profile([]byte("aurora")); return err == nil && len(p.row.shown.Links) == 1 })
	within("time zone", func() { w.exec(`UPDATE profiles SET timezone = 'Pacific/Auckland' WHERE id = $1`, id) },
		func() bool {
			l, err := d.Link("", []byte("a"))
			return err == nil && l.Zone.String() == "Pacific/Auckland"
		})
	within("own domain", func() { w.link(id, "go.example", "a", "https://example.com/own") },
		func() bool { return leads(d, d.Domain([]byte("go.example")), "a") == "https://example.com/own" })
	within("handle", func() { w.exec(`UPDATE profiles SET handle = 'boreas' WHERE id = $1`, id) },
		func() bool {
			_, old := d.Profile([]byte("aurora"))
			_, fresh := d.Profile([]byte("boreas"))
			return old == ErrUnknown && fresh == nil
		})
	within("link deleted", func() { w.exec(`UPDATE links SET deleted_at = now() WHERE code = 'a' AND host = ''`) },
		func() bool { return leads(d, "", "a") == ErrUnknown.Error() })
	within("profile deleted", func() { w.exec(`UPDATE profiles SET deleted_at = now() WHERE id = $1`, id) },
		func() bool {
			_, err := d.Profile([]byte("boreas"))
			return err == ErrUnknown && leads(d, "", "later") == ErrUnknown.Error()
		})
}

func TestWhileAwayTheKnownIsServedAndAfterwardsComparedAgain(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{LoadTimeout: 300 * time.Millisecond}, true)
	id := w.profile("aurora")
	const links = 1500 // more than one query's share
	w.exec(`INSERT INTO links (profile_id, code, title, url) SELECT $1, 'c' || n, 't', 'https://example.com/' || n FROM generate_series(1, $2) n`, id, links)
	for n := range links {
		require.Equal(t, fmt.Sprintf("https://example.com/%d", n+1), leads(d, "", fmt.Sprintf("c%d", n+1)))
	}
	w.link(id, "", "unseen", "https://example.com/unseen")

	w.door.Shut()
	w.eventually("not listening", func() bool { return testutil.ToFloat64(d.metrics.listening) == 0 })
	w.exec(`UPDATE links SET url = url || '/new'`)
	began := time.Now()
	for n := range links {
		require.Equal(t, fmt.Sprintf("https://example.com/%d", n+1), leads(d, "", fmt.Sprintf("c%d", n+1)))
	}
	require.Less(t, time.Since(began), time.Second)
	require.Equal(t, ErrAway.Error(), leads(d, "", "unseen"), "nobody knows whether it exists")
	require.Equal(t, ErrAway.Error(), leads(d, "", "another"))

	w.door.Open(t)
	w.eventually("everything compared again", func() bool {
		for n := range links {
			if leads(d, "", fmt.Sprintf("c%d", n+1)) != fmt.Sprintf("https://example.com/%d/new", n+1) {
				return false
			}
		}
		return leads(d, "", "unseen") == "https://example.com/unseen/new"
	})
}

func TestAListenerWhoseConnectionIsEndedComparesEverythingAgain(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{}, true)
	id := w.profile("aurora")
	w.link(id, "", "a", "https://example.com/1")
	require.Equal(t, "https://example.com/1", leads(d, "", "a"))
	// A change that nobody hears of.
	w.exec(`ALTER TABLE links DISABLE TRIGGER link_changed`)
	w.exec(`UPDATE links SET url = 'https://example.com/2'`)
	before := testutil.ToFloat64(d.metrics.resyncs)
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spillway listen' AND datname = current_database()`)
	w.eventually("compared again", func() bool { return leads(d, "", "a") == "https://example.com/2" })
	w.eventually("connected again", func() bool { return testutil.ToFloat64(d.metrics.resyncs) > before })
}

func TestALoadThatAChangeOvertakesIsLoadedAgain(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{}, true)
	id := w.profile("aurora")
	w.link(id, "", "a", "https://example.com/new")
	k := key{kindLink, "", "a"}
	hash := d.hashOf(k)
	unborn := key{kindLink, "", "b"}

	// The load has read the old row when the announcement is heard, and ends afterwards.
	c := &call{key: k, hash: hash, done: make(chan struct{})}
	u := &call{key: unborn, hash: d.hashOf(unborn), done: make(chan struct{})}
	d.mu.Lock()
	d.calls[k], d.calls[unborn] = c, u
	d.mu.Unlock()
	d.hear(`{"handles": [], "links": [{"host": "", "code": "a"}, {"host": "", "code": "b"}]}`)
	old := d.newRecord(linkRow{id: 1, profile: uint64(id), code: "a", url: "https://example.com/old", mode: "off"})
	d.settle([]*call{c, u}, map[key]*value{k: {link: old}}, nil)

	require.Equal(t, old, c.value.link, "who waited is served")
	w.eventually("the change", func() bool { return leads(d, "", "a") == "https://example.com/new" })
	require.False(t, d.unknown.has(u.hash), "what may have been made meanwhile is not remembered as unknown")
}

func TestAnAnnouncementOfEverything(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{}, true)
	id := w.profile("aurora")
	w.exec(`INSERT INTO links (profile_id, code, title, url) SELECT $1, 'c' || n, 't', 'https://example.com/' || n FROM generate_series(1, 150) n`, id)
	l, err := d.Link("", []byte("c150"))
	require.NoError(t, err)
	require.Equal(t, time.UTC, l.Zone)
	before := testutil.ToFloat64(d.metrics.resyncs)
	w.exec(`UPDATE profiles SET timezone = 'Europe/Berlin'`) // too many links for one notification
	w.eventually("time zone", func() bool {
		l, err := d.Link("", []byte("c150"))
		return err == nil && l.Zone.String() == "Europe/Berlin"
	})
	require.Equal(t, before+1, testutil.ToFloat64(d.metrics.resyncs))
	d.hear("not json")
	require.Equal(t, before+2, testutil.ToFloat64(d.metrics.resyncs))
}

func TestALinkThatGoesViralIsLoadedOnce(t *testing.T) {
	for name, viral := range map[string]string{"on a shelf": "https://example.com/viral", "in the cache": "https://example.com/" + strings.Repeat("v", 2000)} {
		t.Run(name, func(t *testing.T) { testViral(t, viral) })
	}
}

func testViral(t *testing.T, viral string) {
	w := newWorld(t)
	d := w.directory(Options{CacheBytes: 1 << 20}, true)
	id := w.profile("aurora")
	// The shelves are full of what others ask for, again and again, and so is the cache: Ristretto does not admit newcomers easily.
	w.exec(`INSERT INTO links (profile_id, code, title, url) SELECT $1, 'c' || n, 't', 'https://example.com/' || repeat('x', n % 2 * 2000) || n FROM generate_series(1, 2000) n`, id)
	var others sync.WaitGroup
	for v := range 16 {
		others.Go(func() {
			for n := v; n < 4000; n += 16 {
				leads(d, "", fmt.Sprintf("c%d", n%2000+1))
			}
		})
	}
	others.Wait()
	w.link(id, "", "viral", viral)
	before := testutil.ToFloat64(d.metrics.loaded)
	var visitors sync.WaitGroup
	for range 50 {
		visitors.Go(func() {
			for range 200 {
				if got := leads(d, "", "viral"); got != viral {
					t.Error(got)
				}
			}
		})
	}
	visitors.Wait()
	require.LessOrEqual(t, testutil.ToFloat64(d.metrics.loaded)-before, 2.0, "once, and once more for its own announcement")
	// Also when what is held turns over, Ristretto refusing or not.
	for range 4 {
		d.mu.Lock()
		d.turnLocked()
		d.mu.Unlock()
		leads(d, "", "viral")
	}
	require.LessOrEqual(t, testutil.ToFloat64(d.metrics.loaded)-before, 6.0, "a full cache may push it out, but then it is held again")
}

func TestAFloodOfUnknownCodesIsBounded(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{MaxLoads: 64}, true)
	id := w.profile("aurora")
	w.link(id, "", "known", "https://example.com/known")
	require.Equal(t, "https://example.com/known", leads(d, "", "known"))
	var visitors sync.WaitGroup
	for v := range 200 {
		visitors.Go(func() {
			for n := range 20 {
				switch got := leads(d, "", fmt.Sprintf("x%d-%d", v, n)); got {
				case ErrUnknown.Error(), ErrAway.Error():
				default:
					t.Error(got)
				}
				if got := leads(d, "", "known"); got != "https://example.com/known" {
					t.Error(got)
				}
			}
		})
	}
	visitors.Wait()
	before := testutil.ToFloat64(d.metrics.loaded)
	require.Equal(t, ErrUnknown.Error(), leads(d, "", "x0-0again"))
	for range 100 {
		leads(d, "", "x0-0again")
	}
	require.Equal(t, before+1, testutil.ToFloat64(d.metrics.loaded), "an unknown code is asked for once")

	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range uint64(10 * maxUnknown) {
		d.unknown.add(n)
	}
	require.LessOrEqual(t, len(d.unknown.young)+len(d.unknown.old), 2*maxUnknown)
	require.Zero(t, len(d.calls))
}

func TestAPostgresThatSaysNothingHoldsNobodyLong(t *testing.T) {
	w := newWorld(t)
	id := w.profile("aurora")
	w.link(id, "", "known", "https://example.com/known")
	w.link(id, "", "cold", "https://example.com/cold")
	d := w.directory(Options{LoadTimeout: 400 * time.Millisecond}, true)
	w.eventually("known", func() bool { return leads(d, "", "known") == "https://example.com/known" })
	w.door.Silence()
	began := time.Now()
	require.Equal(t, ErrAway.Error(), leads(d, "", "cold"))
	require.Less(t, time.Since(began), time.Second)
	w.eventually("known to be away", func() bool { d.mu.RLock(); defer d.mu.RUnlock(); return d.away })
	began = time.Now()
	for n := range 1000 {
		require.Equal(t, ErrAway.Error(), leads(d, "", fmt.Sprintf("cold%d", n)))
	}
	require.Less(t, time.Since(began), 2*time.Second, "one tries now and then, the rest is answered at once")
	require.Equal(t, "https://example.com/known", leads(d, "", "known"))
	w.door.Shut()
}

func TestARestartWhileAwayServesTheSnapshot(t *testing.T) {
	w := newWorld(t)
	o := Options{Snapshot: filepath.Join(t.TempDir(), "deep", "snapshot"), LoadTimeout: 300 * time.Millisecond}
	id := w.profile("aurora")
	w.link(id, "", "a", "https://example.com/1")
	w.link(id, "go.example", "a", "https://example.com/own")
	first := w.directory(o, false)
	stop := w.run(first)
	w.eventually("own domain", func() bool { return first.Domain([]byte("go.example")) != "" })
	require.Equal(t, "https://example.com/1", leads(first, "", "a"))
	require.Equal(t, "https://example.com/own", leads(first, "go.example", "a"))
	_, err := first.Profile([]byte("aurora"))
	require.NoError(t, err)
	stop()

	w.door.Shut()
	began := time.Now()
	second := w.directory(o, false)
	require.Less(t, time.Since(began), time.Second)
	w.run(second)
	require.Equal(t, "https://example.com/1", leads(second, "", "a"))
	require.Equal(t, "https://example.com/own", leads(second, second.Domain([]byte("go.example")), "a"))
	p, err := second.Profile([]byte("aurora"))
	require.NoError(t, err)
	require.Equal(t, "Title of aurora", p.row.shown.Title)
	require.Len(t, p.row.shown.Links, 2)
	require.Equal(t, ErrAway.Error(), leads(second, "", "unseen"))

	w.exec(`UPDATE links SET url = 'https://example.com/2' WHERE host = ''`)
	w.door.Open(t)
	w.eventually("compared with PostgreSQL", func() bool { return leads(second, "", "a") == "https://example.com/2" })
}

func TestASnapshotThatIsDamagedIsNotUsed(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "snapshot")
	o := Options{Snapshot: path, LoadTimeout: 200 * time.Millisecond}
	w.link(w.profile("aurora"), "", "a", "https://example.com/1")
	first := w.directory(o, false)
	require.Equal(t, "https://example.com/1", leads(first, "", "a"))
	first.save()
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	w.door.Shut()
	for name, damage := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(b, 0) },
		"version": func(b []byte) []byte { b[len(snapshotMagic)]++; return b },
		"empty":   func([]byte) []byte { return nil },
		"other":   func(b []byte) []byte { b[0]++; return b },
	} {
		require.NoError(t, os.WriteFile(path, damage(append([]byte(nil), good...)), 0o600))
		require.Equal(t, ErrAway.Error(), leads(w.directory(o, false), "", "a"), name)
	}
	require.NoError(t, os.WriteFile(path, good, 0o600))
	require.Equal(t, "https://example.com/1", leads(w.directory(o, false), "", "a"))
	o.SnapshotBytes = 16
	require.Equal(t, ErrAway.Error(), leads(w.directory(o, false), "", "a"), "larger than the limit")
}
