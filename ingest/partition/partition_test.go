package partition

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/schemas/event"
)

func TestEachEventOnceHoweverOftenItIsSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.click(0, 1, 1, 10)
	w.click(0, 1, 5, 10) // cut differently
	w.click(0, 2, 30, 5) // not from its beginning
	k := w.worker(quick())
	o := k.start(0)
	w.exact()
	w.click(0, 1, 1, 40)
	w.click(0, 2, 1, 40)
	w.exact()
	require.NoError(t, o.end())
	// From the table alone, too.
	w.exec("TRUNCATE TABLE terms")
	require.NoError(t, w.cluster.DeleteRecords(w.topicName, 0, 0))
	o = k.start(0)
	w.click(0, 1, 1, 50)
	w.exact()
	require.NoError(t, o.end())
}

// Two and three owners of one partition at once: each in turn is a zombie whose insert is kept on its way until the others have gone on.
func TestManyBelieveToOwnThePartition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.click(0, 1, 1, 20)
	var held atomic.Int32
	zombie := w.worker(quick())
	zombie.proxy.Decide(func(r faultproxy.Request) faultproxy.Fate {
		if r.Insert() && held.Add(1) == 1 {
			return faultproxy.Fate{Hold: 400 * time.Millisecond}
		}
		return faultproxy.Fate{}
	})
	first := zombie.start(0)
	require.Eventually(t, func() bool { return held.Load() > 0 }, time.Minute, time.Millisecond)
	second := w.worker(quick()).start(0)
	third := w.worker(quick()).start(0)
	w.exact()
	w.click(0, 1, 21, 20)
	w.exact()
	require.ErrorIs(t, <-first.done, fence.ErrRefused, "the zombie was refused")
	// One of the others was refused; the other owns the partition.
	select {
	case err := <-second.done:
		require.ErrorIs(t, err, fence.ErrRefused)
		require.NoError(t, third.end())
	case err := <-third.done:
		require.ErrorIs(t, err, fence.ErrRefused)
		require.NoError(t, second.end())
	}
}

// One path for every doubt: whatever becomes of an insert and of its answer, the table is exact in the end.
func TestAnInsertWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for what, fate := range map[string]faultproxy.Fate{
		"cut before it was carried out":     {Never: true, Cut: true},
		"cut after it was carried out":      {Cut: true},
		"500 before it was carried out":     {Never: true, Error: true},
		"500 after it was carried out":      {Error: true},
		"answered too late":                 {Slow: 700 * time.Millisecond},
		"carried out after it was given up": {Hold: 700 * time.Millisecond},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			options := quick()
			options.Answer = 300 * time.Millisecond
			k := w.worker(options)
			var inserts atomic.Int32
			k.proxy.Decide(func(r faultproxy.Request) faultproxy.Fate {
				if r.Insert() && inserts.Add(1)%2 == 0 {
					return fate
				}
				return faultproxy.Fate{}
			})
			o := k.start(0)
			for i := range uint64(3) {
				w.click(0, 1, 1+10*i, 10)
				time.Sleep(30 * time.Millisecond)
			}
			w.exact()
			require.NoError(t, o.end())
			k.proxy.Wait()
			require.Empty(t, w.verdict())
		})
	}
}

// An insert touches two months, and only one of them comes to be.
func TestABatchThatSpansAMonthsEndIsCompleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("SYSTEM STOP MERGES events")
	k := w.worker(quick())
	var half atomic.Bool
	k.proxy.Decide(func(r faultproxy.Request) faultproxy.Fate {
		if r.Insert() && half.CompareAndSwap(false, true) {
			return faultproxy.Fate{Error: true, After: func() { w.dropMonth(day(0)) }}
		}
		return faultproxy.Fate{}
	})
	w.click(0, 1, 1, 6)
	o := k.start(0)
	w.exact()
	require.True(t, half.Load())
	require.NoError(t, o.end())
}

func TestNothingIsWrittenAfterItIsToldToStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.worker(quick())
	o := k.start(0)
	w.click(0, 1, 1, 10)
	w.exact()
	require.NoError(t, o.end())
	rows := w.number("SELECT count() FROM events")
	w.click(0, 1, 11, 10)
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, rows, w.number("SELECT count() FROM events"))
}

// What streams announce as lost does not count as there: a copy of the journal may still send it.
func TestWhatIsAnnouncedAsLostIsTakenInWhenItComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.worker(quick()).start(0)
	w.click(0, 1, 1, 4)
	w.produce(0, announce(1, 8, &event.Range{First: 5, Last: 8}))
	w.click(0, 1, 9, 2)
	w.exact()
	w.click(0, 1, 5, 4)
	w.exact()
	require.NoError(t, o.end())
	require.EqualValues(t, 1, w.number("SELECT count() FROM announcements FINAL WHERE partition = 0 AND stream = 1 AND journaled = 8 AND origin = 'test' AND unreadable = [(5, 8)]"))
}
