package journal

import (
	"runtime"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/journal/disk"
)

// acknowledging keeps a journal from filling up: it reads and acknowledges everything, as an instant Kafka would.
func acknowledging(b *testing.B, j *Journal) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
				s := j.Live()
				s.Acknowledge(s.Last())
			}
		}
	}()
	return func() { close(quit); <-done }
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name     string
		parallel bool
	}{{"alone", false}, {"contended", true}} {
		b.Run(c.name, func(b *testing.B) {
			j := open(b, Options{Dir: b.TempDir()})
			defer acknowledging(b, j)()
			b.SetBytes(int64(len(encoded(b, click(1)))))
			b.ReportAllocs()
			b.ResetTimer()
			// Nobody writes more than a disk takes for long, and an event that finds no room costs nothing: so it is appended in rounds for which there is room.
			const round = 100_000
			workers := 1
			if c.parallel {
				workers = runtime.GOMAXPROCS(0)
			}
			for left := b.N; left > 0; left -= round {
				b.StopTimer()
				require.Eventually(b, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return len(j.live.ready) == ahead }, time.Minute, time.Millisecond)
				b.StartTimer()
				var all sync.WaitGroup
				for w := range workers {
					all.Go(func() {
						e := click(1)
						for range (min(left, round) + w) / workers {
							j.Append(e)
						}
					})
				}
				all.Wait()
			}
			b.StopTimer()
			require.Zero(b, j.Stats().Dropped)
		})
	}
	b.Run("memcpy of the same bytes", func(b *testing.B) {
		payload := encoded(b, click(1))
		dst := make([]byte, 32<<20)
		b.SetBytes(int64(len(payload)))
		at := 0
		clear(dst) // its pages are there
		b.ResetTimer()
		for range b.N {
			if at+len(payload) > len(dst) {
				at = 0
			}
			at += copy(dst[at:], payload)
		}
	})
}

// BenchmarkAppendLatency appends at a visitor's pace while the disk is being written to, and reports the slowest ones.
func BenchmarkAppendLatency(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), SyncInterval: 20 * time.Millisecond})
	defer acknowledging(b, j)()
	e := click(1)
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		t := time.Now()
		j.Append(e)
		took = append(took, time.Since(t))
		for time.Since(t) < 10*time.Microsecond {
		}
	}
	b.StopTimer()
	sort.Slice(took, func(a, c int) bool { return took[a] < took[c] })
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*999/1000]), "p99.9-ns")
	b.ReportMetric(float64(took[len(took)-1]), "max-ns")
}

func BenchmarkRead(b *testing.B) {
	j := open(b, Options{Files: disk.NewMemory(), SegmentBytes: 64 << 20, MaxBytes: 256 << 20, manual: true})
	n := 100_000
	for i := range n {
		_, ok := j.Append(click(i))
		require.True(b, ok)
	}
	b.SetBytes(int64(len(encoded(b, click(1)))))
	b.ResetTimer()
	var r *Reader
	for i := range b.N {
		if i%n == 0 {
			r = j.Live().Reader()
		}
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
