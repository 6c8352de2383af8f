package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

var lanes = event.Lanes{Partitions: 3, Run: 4}

func click(i int) *event.Event {
	return &event.Event{TimeUs: int64(1e15) + int64(i), Kind: event.Kind_KIND_CLICK, Class: event.Class_CLASS_PERSON,
		ProfileId: 7, LinkId: uint64(i), UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", Country: "DE", Host: "example.org"}
}

func encoded(t testing.TB, e *event.Event) []byte {
	b, err := event.AppendEvent(nil, e)
	require.NoError(t, err)
	return b
}

func open(t testing.TB, o Options) *Journal {
	if o.Lanes.Partitions == 0 {
		o.Lanes = lanes
	}
	j, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

// drain reads what is there and returns the events by number.
func drain(t testing.TB, r *Reader) (map[uint64][]byte, error) {
	got := map[uint64][]byte{}
	for {
		rec, err := r.Next()
		if err != nil {
			return got, err
		}
		if _, twice := got[rec.K]; twice {
			t.Fatalf("event %d is read twice", rec.K)
		}
		got[rec.K] = append([]byte(nil), rec.Event...)
	}
}

func TestWhatIsAppendedIsReadInOrderAsItIsSentToKafka(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), SegmentBytes: 64 << 10, MaxBytes: 1 << 20})
	s := j.Live()
	require.NotZero(t, s.ID())
	require.Equal(t, lanes, s.Lanes())
	r := s.Reader()
	defer r.Close()
	_, err := r.Next()
	require.ErrorIs(t, err, ErrNothing)
	for i := 1; i <= 2000; i++ {
		var k uint64
		ok := false
		for try := 0; !ok && try < 1000; try++ { // another segment may not be ready yet
			if k, ok = j.Append(click(i)); !ok {
				time.Sleep(time.Millisecond)
			}
		}
		require.Equal(t, uint64(i), k)
		rec, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, k, rec.K)
		require.Equal(t, encoded(t, click(i)), rec.Event)
		s.Acknowledge(k)
	}
	_, err = r.Next()
	require.ErrorIs(t, err, ErrNothing)
	j.End()
	_, err = r.Next()
	require.ErrorIs(t, err, io.EOF)
	_, ok := j.Append(click(1))
	require.False(t, ok, "an ended stream takes nothing more")
	m, err := s.Mark()
	require.NoError(t, err)
	require.True(t, m.Final)
	require.Equal(t, uint64(2000), m.K)
	r.Close()
	require.NoError(t, s.Finish())
	require.Empty(t, j.Streams())
}

func TestAStartFindsWhatTheLastOneLeft(t *testing.T) {
	dir := t.TempDir()
	var ids []uint64
	for start := range 3 {
		j, err := Open(Options{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, Lanes: lanes})
		require.NoError(t, err)
		require.Len(t, j.Streams(), start+1)
		for i, s := range j.Streams()[:start] {
			require.Equal(t, ids[i], s.ID(), "oldest first")
			require.True(t, s.Ended())
			r := s.Reader()
			got, err := drain(t, r)
			require.ErrorIs(t, err, io.EOF)
			require.Len(t, got, 10*(i+1))
			r.Close()
		}
		ids = append(ids, j.Live().ID())
		for i := range 10 * (start + 1) {
			_, ok := j.Append(click(i))
			require.True(t, ok)
		}
		require.NoError(t, j.Close())
	}
}

func TestASecondProcessIsTurnedAway(t *testing.T) {
	dir := t.TempDir()
	open(t, Options{Dir: dir})
	_, err := Open(Options{Dir: dir})
	require.ErrorIs(t, err, disk.ErrLocked)
	require.Regexp(t, `^journal .*: directory is locked: held by process \d+; stop it, or give each redirector a directory of its own$`, err.Error())
}

func TestOptionsThatMakeNoSenseAreRefusedWithTheCure(t *testing.T) {
	for _, o := range []Options{{}, {Dir: "x", SegmentBytes: 5000}, {Dir: "x", SegmentBytes: 1 << 20, MaxBytes: 1 << 20}} {
		_, err := Open(o)
		require.Error(t, err)
	}
}

func TestAFullJournalDropsCountsAndRecovers(t *testing.T) {
	clock := time.UnixMicro(2e15)
	j := open(t, Options{Files: disk.NewMemory(), SegmentBytes: 16 << 10, MaxBytes: 48 << 10, Clock: func() time.Time { return clock }, manual: true})
	appended, dropped := uint64(0), uint64(0)
	for dropped < 10 {
		j.attend()
		if k, ok := j.Append(click(1)); ok {
			appended++
			require.Equal(t, appended, k)
		} else {
			dropped++
		}
	}
	s := j.Live()
	m, err := s.Mark()
	require.NoError(t, err)
	require.Equal(t, Dropped{Count: 10, SinceUs: 1e15 + 1, UntilUs: 1e15 + 1}, m.Dropped)
	require.Equal(t, appended, m.K)
	require.Equal(t, Stats{Appended: appended, Written: appended * uint64(len(encoded(t, click(1)))), Dropped: 10, Pending: appended, Bytes: 48 << 10, Streams: 1}, j.Stats())

	r := s.Reader()
	_, err = drain(t, r)
	require.ErrorIs(t, err, ErrNothing)
	s.Acknowledge(appended)
	j.attend()
	k, ok := j.Append(click(1))
	require.True(t, ok, "acknowledging makes room")
	require.Equal(t, appended+1, k, "what was dropped has no number")
	r.Close()
}

func TestAFullDiskDropsAndRecovers(t *testing.T) {
	files := disk.NewMemory()
	files.Capacity = 200 << 10
	j := open(t, Options{Files: files, SegmentBytes: 64 << 10, MaxBytes: 1 << 20, manual: true})
	n := 0
	for ; ; n++ {
		j.attend()
		if _, ok := j.Append(click(n)); !ok {
			break
		}
	}
	require.Greater(t, n, 1000)
	require.Positive(t, j.Stats().Failures)
	files.Capacity = 1 << 20
	j.attend()
	_, ok := j.Append(click(n))
	require.True(t, ok)
}

func TestAnEventThatNoSegmentHoldsIsDropped(t *testing.T) {
	j := open(t, Options{Files: disk.NewMemory(), SegmentBytes: 16 << 10, MaxBytes: 48 << 10, manual: true})
	e := click(1)
	e.UserAgent = string(make([]byte, 20<<10))
	_, ok := j.Append(e)
	require.False(t, ok)
	e.UserAgent = string(make([]byte, MaxEvent))
	_, ok = j.Append(e)
	require.False(t, ok)
	k, ok := j.Append(click(1))
	require.True(t, ok)
	require.Equal(t, uint64(1), k)
}

func TestAMarkIsNeverBehindAnEventThatItCovers(t *testing.T) {
	now := int64(3e15)
	j := open(t, Options{Files: disk.NewMemory(), SegmentBytes: 1 << 20, Clock: func() time.Time { return time.UnixMicro(now) }, manual: true})
	s := j.Live()
	e := &event.Event{TimeUs: now - 5}
	j.Append(e)
	require.Equal(t, now-5, e.TimeUs, "the time of the answer stands")
	m, err := s.Mark()
	require.NoError(t, err)
	require.Equal(t, now, m.TimeUs)
	require.Equal(t, uint64(1), m.K)
	late := &event.Event{TimeUs: now - 1}
	j.Append(late)
	require.Equal(t, now+1, late.TimeUs, "a time that was taken before the mark and journaled after it is moved behind it")
	unset := &event.Event{}
	now += 10
	j.Append(unset)
	require.Equal(t, now, unset.TimeUs)

	now -= 1_000_000
	m, err = s.Mark()
	require.NoError(t, err)
	require.Equal(t, int64(3e15), m.TimeUs, "a clock that is set back a little: the mark's time stands still")
	j.attend()
	require.Len(t, j.Streams(), 1)

	now -= 3600_000_000
	_, err = s.Mark()
	require.NoError(t, err)
	j.attend()
	require.Len(t, j.Streams(), 2, "a clock that is set back far: the stream ends, another begins")
	require.True(t, s.Ended())
	require.NotEqual(t, s, j.Live())
	back := &event.Event{}
	k, ok := j.Append(back)
	require.True(t, ok)
	require.Equal(t, uint64(1), k)
	require.Equal(t, now, back.TimeUs)
	final, err := s.Mark()
	require.NoError(t, err)
	require.True(t, final.Final)
	require.Equal(t, uint64(3), final.K)
	require.GreaterOrEqual(t, final.TimeUs, int64(3e15))
}

func TestConcurrentAppendsAndMarks(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), SegmentBytes: 1 << 20, MaxBytes: 64 << 20, SyncInterval: time.Millisecond})
	const writers, each = 8, 3000
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, ok := j.Append(&event.Event{UserAgent: "x"}); !ok {
					t.Error("dropped")
					return
				}
			}
		})
	}
	done := make(chan []Mark)
	stop := make(chan struct{})
	go func() {
		var marks []Mark
		for {
			m, err := j.Live().Mark()
			if err != nil {
				t.Error(err)
			}
			marks = append(marks, m)
			select {
			case <-stop:
				done <- marks
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	r := j.Live().Reader()
	times := map[uint64]int64{}
	for len(times) < writers*each {
		arrived := j.Appended()
		rec, err := r.Next()
		if errors.Is(err, ErrNothing) {
			select {
			case <-arrived:
			case <-time.After(10 * time.Second):
				t.Fatalf("no wake-up after %d events", len(times))
			}
			continue
		}
		require.NoError(t, err)
		b, err := event.ParseBatch(append(event.AppendHeader(nil, 1, 1), rec.Event...))
		require.NoError(t, err)
		b.Events(func(_ uint64, enc []byte) bool {
			var e event.Event
			require.NoError(t, e.UnmarshalVT(enc))
			times[rec.K] = e.TimeUs
			return true
		})
	}
	wg.Wait()
	close(stop)
	for _, m := range <-done {
		for k, at := range times {
			if at <= m.TimeUs && k > m.K {
				t.Fatalf("event %d at %d is behind the mark of %d at %d", k, at, m.K, m.TimeUs)
			}
		}
	}
	r.Close()
}

func TestAppendAllocatesNothing(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := click(1)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, ok := j.Append(e); !ok {
			t.Fatal("dropped")
		}
	}))
}

func TestReadAllocatesNothing(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	for i := range 300 {
		_, ok := j.Append(click(i))
		require.True(t, ok)
	}
	r := j.Live().Reader()
	defer r.Close()
	require.Zero(t, testing.AllocsPerRun(250, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}))
}

func TestMetricsAreWellFormed(t *testing.T) {
	registry := prometheus.NewRegistry()
	j := open(t, Options{Dir: t.TempDir(), Registerer: registry})
	j.Append(click(1))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.NoError(t, j.Close())
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families, "a closed journal leaves no metrics")
}

func TestAFinishedStreamIsRemovedEvenIfTheProcessDiedInBetween(t *testing.T) {
	for step := range 12 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			files := disk.NewMemory()
			j := open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
			s := j.Live()
			for i := range 300 {
				_, ok := j.Append(click(i))
				require.True(t, ok)
				j.attend()
			}
			j.End()
			r := s.Reader()
			_, err := drain(t, r)
			require.ErrorIs(t, err, io.EOF)
			r.Close()
			s.Acknowledge(300)
			_, err = s.Mark()
			require.NoError(t, err)
			left := step
			var after *disk.Memory
			files.Fault = func(disk.Operation, string) error {
				if left--; left == 0 {
					after = files.Kill()
				}
				return nil
			}
			require.NoError(t, s.Finish())
			if after == nil {
				after = files.Kill()
			}
			again := open(t, Options{Files: after, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
			for _, x := range again.Streams() {
				if x.ID() != s.ID() {
					continue
				}
				r := x.Reader()
				got, err := drain(t, r)
				require.ErrorIs(t, err, io.EOF)
				require.Empty(t, got, "all was acknowledged")
				r.Close()
				m, err := x.Mark()
				require.NoError(t, err)
				require.True(t, m.Final)
				require.Equal(t, uint64(300), m.K, "its end is known to the last")
				require.Empty(t, m.Unreadable)
				require.NoError(t, x.Finish())
			}
			require.Len(t, again.Streams(), 1)
		})
	}
}

// What a newer program wrote is not half understood, and above all not thrown away.
func TestAnotherFormatIsLeftAlone(t *testing.T) {
	files := disk.NewMemory()
	j := open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
	id := j.Live().ID()
	j.Append(click(1))
	require.NoError(t, j.Close())
	before, err := files.List()
	require.NoError(t, err)
	newer := func(b []byte) {
		b[8] = version + 1
		binary.LittleEndian.PutUint32(b[12:], checksum(b))
	}
	for _, name := range before {
		b := files.Content(name)
		switch {
		case strings.HasSuffix(name, segmentSuffix):
			newer(b[:headerSize])
			newer(b[disk.PageSize:][:headerSize])
		case strings.HasSuffix(name, stateSuffix):
			for at := 0; at < len(b); at += slotSize {
				if slot := b[at:]; string(slot[:8]) == stateMagic {
					newer(slot[:binary.LittleEndian.Uint32(slot[16:])])
				}
			}
		}
	}
	j = open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
	require.Len(t, j.Streams(), 1)
	require.NotEqual(t, id, j.Live().ID())
	require.NoError(t, j.Close())
	after, err := files.List()
	require.NoError(t, err)
	for _, name := range before {
		if !strings.HasSuffix(name, spareSuffix) {
			require.Contains(t, after, name)
		}
	}
}
