package journal

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/journal/disk"
)

// segmentOf returns a segment's bytes with n records, and the payloads by number.
func segmentOf(t testing.TB, n int) ([]byte, map[uint64][]byte) {
	files := disk.NewMemory()
	next := uint64(8)
	j, err := Open(Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, Lanes: lanes, manual: true, ids: func() uint64 { next++; return next }})
	require.NoError(t, err)
	payloads := map[uint64][]byte{}
	for i := range n {
		e := click(i)
		k, ok := j.Append(e)
		require.True(t, ok)
		payloads[k] = encoded(t, e)
	}
	return bytes.Clone(files.Content(segmentName(1+1, 9))), payloads
}

// FuzzSegment reads a damaged segment of a stream that an older start left: it must end, return only what was written, and account
// for every number up to its end.
func FuzzSegment(f *testing.F) {
	whole, payloads := segmentOf(f, 40)
	f.Add([]byte{}, uint16(0), uint16(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(recordsStart), uint16(0))
	f.Add(make([]byte, 4096), uint16(0), uint16(0))
	f.Add(whole[recordsStart:recordsStart+512], uint16(recordsStart+1024), uint16(0))
	f.Add([]byte{1}, uint16(recordsStart+16), uint16(recordsStart+300))
	f.Add(whole[:headerSize], uint16(4096), uint16(96))
	f.Fuzz(func(t *testing.T, patch []byte, at, cut uint16) {
		files := disk.NewMemory()
		file, err := files.Create(segmentName(2, 9))
		require.NoError(t, err)
		b := bytes.Clone(whole)
		copy(b[min(int(at), len(b)):], patch)
		if cut > 0 {
			b = b[:min(int(cut), len(b))]
		}
		_, err = file.WriteAt(b, 0)
		require.NoError(t, err)
		j, err := Open(Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, Lanes: lanes, manual: true})
		require.NoError(t, err)
		for _, s := range j.Streams() {
			if s.ID() != 9 {
				continue
			}
			r := s.Reader()
			first := r.Position() + 1
			got, err := drain(t, r)
			require.Error(t, err)
			r.Close()
			m, err := s.Mark()
			require.NoError(t, err)
			require.True(t, m.Final)
			accounted := uint64(len(got))
			for _, x := range m.Unreadable {
				accounted += x.Last - x.First + 1
			}
			require.Equal(t, m.K, first-1+accounted, "every number is read or called unreadable")
			for k, b := range got {
				require.Equal(t, payloads[k], b, "only what was written is read")
			}
		}
	})
}

func FuzzState(f *testing.F) {
	s := state{lanes: lanes, beganUs: 5, acknowledged: 7, end: 9, origin: "here", unreadable: []Range{{1, 2}, {5, 9}}}
	f.Add(s.encode(3, 4))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, stream, generation, ok := decodeState(b)
		if !ok {
			return
		}
		again, stream2, generation2, ok := decodeState(s.encode(stream, generation))
		require.True(t, ok)
		require.Equal(t, s, again)
		require.Equal(t, stream, stream2)
		require.Equal(t, generation, generation2)
	})
}

// The bytes on the disk are a contract: a journal of last year is read by this year's program.
func TestTheFormatOnTheDisk(t *testing.T) {
	b, payloads := segmentOf(t, 1)
	le := binary.LittleEndian
	for _, header := range [][]byte{b, b[4096:]} {
		require.Equal(t, "SPILLWAY", string(header[:8]))
		require.Equal(t, uint32(1), le.Uint32(header[8:]))
		require.Equal(t, uint64(9), le.Uint64(header[16:]), "stream")
		require.Equal(t, uint64(2), le.Uint64(header[24:]), "segment")
		require.Equal(t, uint64(1), le.Uint64(header[32:]), "first k")
		require.Equal(t, uint32(3), le.Uint32(header[40:]), "P")
		require.Equal(t, uint32(4), le.Uint32(header[44:]), "R")
	}
	record := b[8192:]
	require.Equal(t, uint32(len(payloads[1])), le.Uint32(record), "commit word")
	require.Equal(t, uint64(2), le.Uint64(record[8:]), "segment")
	require.Equal(t, uint64(1), le.Uint64(record[16:]), "k")
	require.Equal(t, payloads[1], record[24:24+len(payloads[1])])
}

func TestRangesJoin(t *testing.T) {
	var r []Range
	for _, x := range []Range{{10, 12}, {1, 2}, {20, 30}, {13, 13}, {3, 4}, {5, 25}} {
		r = addRange(r, x)
	}
	require.Equal(t, []Range{{1, 30}}, r)
	require.Equal(t, []Range{{1, 7}, {100, 200}}, coarsen([]Range{{1, 2}, {5, 7}, {100, 200}}, 2))
}

// A recycled file still holds whole records of its older use; none may be taken for the new one's.
func TestARecycledSegmentHidesItsOlderUse(t *testing.T) {
	files := disk.NewMemory()
	j := open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 48 << 10, Keep: -1, manual: true})
	s := j.Live()
	r := s.Reader()
	k := uint64(0)
	for range 40 { // many times around the same files
		j.attend()
		for range 25 {
			_, ok := j.Append(click(int(k + 1)))
			require.True(t, ok)
			k++
		}
		_, err := drain(t, r)
		require.ErrorIs(t, err, ErrNothing)
		s.Acknowledge(k - 5)
	}
	require.LessOrEqual(t, j.Stats().Bytes, int64(48<<10))
	again := open(t, Options{Files: files.Kill(), SegmentBytes: 16 << 10, MaxBytes: 48 << 10, manual: true})
	old := again.Streams()[0]
	or := old.Reader()
	got, err := drain(t, or)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNothing)
	for n, b := range got {
		require.Equal(t, encoded(t, click(int(n))), b)
	}
	require.Contains(t, got, k)
	require.Equal(t, k, or.Position())
	m, err := old.Mark()
	require.NoError(t, err)
	require.Empty(t, m.Unreadable)
}

func TestWhatIsAcknowledgedIsKeptForAWhileAsLongAsThereIsRoom(t *testing.T) {
	j := open(t, Options{Files: disk.NewMemory(), SegmentBytes: 16 << 10, MaxBytes: 10 * 16 << 10, Keep: 2, manual: true})
	s := j.Live()
	k := uint64(0)
	add := func(n int) {
		for range n {
			j.attend()
			var ok bool
			k, ok = j.Append(click(int(k + 1)))
			require.True(t, ok)
		}
	}
	r := s.Reader()
	read := func() {
		_, err := drain(t, r)
		require.ErrorIs(t, err, ErrNothing)
		s.Acknowledge(r.Position())
		j.attend()
	}
	for range 5 {
		add(200)
		read()
	}
	back := s.Rewind()
	require.Greater(t, back, uint64(100), "two segments and the present one")
	require.Less(t, back, uint64(300))
	r.Close()
	r = s.Reader()
	got, err := drain(t, r)
	require.ErrorIs(t, err, ErrNothing)
	require.Len(t, got, int(back))
	require.Equal(t, k-back, s.Acknowledged())
	s.Acknowledge(k)
	r.Close()
	full := 0
	for ; full < 2000; full++ { // nothing is read: what was kept is given up before anything is dropped
		j.attend()
		if _, ok := j.Append(click(int(k + 1))); !ok {
			break
		}
		k++
	}
	require.Greater(t, full, 9*50, "nearly the whole limit is used for what is not acknowledged")
	require.LessOrEqual(t, j.Stats().Bytes, int64(10*16<<10))
}

// A spare that somebody cut is not used and not tried for ever.
func TestASpareOfTheWrongSizeIsReplaced(t *testing.T) {
	files := disk.NewMemory()
	j := open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
	require.NoError(t, j.Close())
	j = open(t, Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, manual: true})
	j.attend()
	require.NoError(t, j.discardReady(j.Live()))
	names, err := files.List()
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, spareSuffix) {
			files.Shorten(name, 5000)
		}
	}
	for range 10 {
		j.attend()
	}
	_, ok := j.Append(click(1))
	require.True(t, ok)
	require.Zero(t, j.Stats().Bytes%(16<<10), "what was cut is gone, and not counted")
}
