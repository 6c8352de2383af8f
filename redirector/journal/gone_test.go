package journal

import (
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/journal/disk"
)

// Segments that were given back go in their order also from the disk: whatever a power cut leaves of them, a stream that is rewound has no hole.
func TestAPowerCutLeavesNoHoleInWhatIsRewound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	files := disk.NewMemory()
	options := func(files *disk.Memory) Options {
		return Options{Files: files, SegmentBytes: 16 << 10, MaxBytes: 10 * 16 << 10, Keep: -1, manual: true}
	}
	j := open(t, options(files))
	s := j.Live()
	r := s.Reader()
	for i := range 450 {
		j.attend()
		_, ok := j.Append(click(i))
		require.True(t, ok)
	}
	_, err := drain(t, r)
	require.ErrorIs(t, err, ErrNothing)
	require.NoError(t, j.sync())
	s.mu.Lock()
	done := s.doneLocked(440)
	s.mu.Unlock()
	require.Greater(t, done, 3, "several segments are to be given back at once")
	s.Acknowledge(440)
	var cuts []*disk.Memory
	files.Fault = func(disk.Operation, string) error {
		for range 20 {
			cuts = append(cuts, files.Cut(random))
		}
		return nil
	}
	j.attend()
	files.Fault = nil
	r.Close()
	rewound := uint64(0)
	for _, files := range cuts {
		j := open(t, options(files))
		for _, s := range j.Streams() {
			if s == j.Live() {
				continue
			}
			rewound = max(rewound, s.Rewind())
			r := s.Reader()
			_, err := drain(t, r)
			require.ErrorIs(t, err, io.EOF)
			r.Close()
			s.mu.Lock()
			unreadable := s.state.unreadable
			s.mu.Unlock()
			require.Empty(t, unreadable)
		}
		require.NoError(t, j.Close())
	}
	require.Greater(t, rewound, uint64(150), "several segments were still there")
}
