package export

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/store"
	"spillway.dev/rollup/export/store/storetest"
)

var errKilled = errors.New("killed")

// mortal is a store whose process dies at a certain operation: before it takes effect or right after. From then on every operation
// fails and nothing has any effect, as of a process that is no more.
type mortal struct {
	store.Store
	left  atomic.Int64 // operations until death
	after bool         // the last one takes effect
}

// step runs one operation; do returns its error.
func (m *mortal) step(do func() error) error {
	switch left := m.left.Add(-1); {
	case left < 0:
		return errKilled
	case left == 0:
		if m.after {
			_ = do()
		}
		return errKilled
	}
	return do()
}

func (m *mortal) Create(ctx context.Context, path string) (w store.Writer, err error) {
	err = m.step(func() (err error) {
		w, err = m.Store.Create(ctx, path)
		return err
	})
	if err != nil {
		if w != nil {
			(&mortalWriter{w, m}).Abort()
		}
		return nil, err
	}
	return &mortalWriter{w, m}, nil
}

type mortalWriter struct {
	store.Writer
	m *mortal
}

func (w *mortalWriter) Commit() error {
	err := w.m.step(w.Writer.Commit)
	if errors.Is(err, errKilled) {
		w.Abort()
	}
	return err
}

func (w *mortalWriter) Write(p []byte) (n int, err error) {
	if w.m.left.Load() <= 0 {
		return 0, errKilled
	}
	return w.Writer.Write(p)
}

// Abort is not called any more by a process that is dead: what was begun in a directory stays. A half upload never shows.
func (w *mortalWriter) Abort() {
	if _, directory := w.m.Store.(*store.Directory); !directory || w.m.left.Load() > 0 {
		w.Writer.Abort()
	}
}

func (m *mortal) CreateNew(ctx context.Context, path string, data []byte) error {
	return m.step(func() error { return m.Store.CreateNew(ctx, path, data) })
}

func (m *mortal) Remove(ctx context.Context, path string) error {
	return m.step(func() error { return m.Store.Remove(ctx, path) })
}

func (m *mortal) Read(ctx context.Context, path string) (r io.ReadCloser, err error) {
	err = m.step(func() (err error) {
		r, err = m.Store.Read(ctx, path)
		return err
	})
	if errors.Is(err, errKilled) && r != nil {
		_ = r.Close()
	}
	return r, err
}

func (m *mortal) List(ctx context.Context, prefix string, f func(store.Object) error) error {
	return m.step(func() error { return m.Store.List(ctx, prefix, f) })
}

// on makes an exporter work on another store.
func (e *Exporter) on(s store.Store) *Exporter {
	e.store, e.chain.Store = s, s
	return e
}

// onlyListed asserts that no data file lies in the export that no manifest lists, and that all that are listed are there.
func onlyListed(t *testing.T, s store.Store) {
	t.Helper()
	var listed, there []string
	for _, m := range published(t, s) {
		for _, f := range m.Files {
			listed = append(listed, f.Path)
		}
		if m.State != nil {
			listed = append(listed, m.State.Path)
		}
	}
	require.NoError(t, s.List(t.Context(), "", func(o store.Object) error {
		if _, ok := manifest.AttemptOf(o.Path); ok {
			there = append(there, o.Path)
		}
		return nil
	}))
	slices.Sort(listed)
	slices.Sort(there)
	require.Equal(t, listed, there)
}

// An exporter that dies at any operation, before or after its effect, and is started again publishes the same as one that lives.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	f.insert(streamA, 0, 1, 60, day0)
	f.insert(streamB, 1, 1, 40, day0)
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number, '', '', 'view', 'person', 0, 'page', toDateTime('2025-11-18 00:15:00', 'UTC'), 2, 0 FROM numbers(30)")
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 60, '2025-11-20 01:02:03.456')")
	want := f.wantEvents("")
	small := func(c *Config) { c.Events = 70 }
	// Each run takes every operation, half of them before the effect and half after it, drawn anew.
	half := rand.Int64N(2)
	for step, died := int64(1), true; died; step++ {
		root := t.TempDir()
		m := &mortal{Store: openStore(t, root), after: step%2 == half}
		m.left.Store(step)
		e := f.exporter(root, small).on(m)
		e.chain.StateEvery = 2
		_, err := e.Once(t.Context())
		if died = m.left.Load() <= 0; !died {
			require.NoError(t, err)
			require.Greater(t, step, int64(20), "the walk goes through the whole run")
		}
		e = f.exporter(root, small)
		e.chain.StateEvery = 2
		_, err = e.Once(t.Context())
		require.NoError(t, err, "operation %d, after %t", step, m.after)
		sameRows(t, want, publishedRows(t, openStore(t, root), "events"))
		require.Len(t, publishedRows(t, openStore(t, root), "days"), 30, "operation %d, after %t", step, m.after)
		onlyListed(t, openStore(t, root))
	}
}

// Several exporters work on one place at once; some die; events come in between, with holes that fill later.
func TestExportersAtOnceAndDying(t *testing.T) {
	t.Run("directory", func(t *testing.T) { exportersAtOnce(t, t.TempDir()) })
	t.Run("S3", func(t *testing.T) { exportersAtOnce(t, strings.Replace(storetest.S3(t), "?", "/spillway/export?", 1)) })
}

func exportersAtOnce(t *testing.T, root string) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	f := newTables(t)
	// versitygw keeps objects as files, and removes a folder with its last object even while another is being put there: one stays.
	require.NoError(t, openStore(t, root).CreateNew(t.Context(), "kept", []byte("kept")))
	type piece struct{ first, last uint64 }
	var missing []piece
	next := uint64(1)
	for round := range 5 {
		for range 1 + random.IntN(3) {
			last := next + uint64(random.IntN(100))
			if random.IntN(3) == 0 {
				missing = append(missing, piece{next, last})
			} else {
				f.insert(streamA, 5, next, last, day0)
			}
			next = last + 1
		}
		if len(missing) > 0 && random.IntN(2) == 0 {
			i := random.IntN(len(missing))
			f.insert(streamA, 5, missing[i].first, missing[i].last, day0)
			missing = slices.Delete(missing, i, i+1)
		}
		var running sync.WaitGroup
		for exporter := range 3 {
			m := &mortal{Store: openStore(t, root), after: random.IntN(2) == 0}
			m.left.Store(1 + random.Int64N(60))
			e := f.exporter(root, func(c *Config) { c.Events, c.Hold = 120, []time.Duration{0, time.Hour}[random.IntN(2)] }).on(m)
			e.chain.StateEvery = 3
			running.Go(func() {
				_, err := e.Once(context.Background())
				if m.left.Load() > 0 && err != nil && !errors.Is(err, manifest.ErrConflict) {
					t.Errorf("round %d, exporter %d: %v", round, exporter, err)
				}
			})
		}
		running.Wait()
	}
	for _, p := range missing {
		f.insert(streamA, 5, p.first, p.last, day0)
	}
	f.once(root)
	s := openStore(t, root)
	sameRows(t, f.wantEvents(""), publishedRows(t, s, "events"))
	onlyListed(t, s)
	report, err := Audit(t.Context(), root, f.addresses, true)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	t.Logf("%d cuts, %d events", report.Cuts, next-1)
}
