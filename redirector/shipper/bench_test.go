package shipper

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"spillway.dev/redirector/journal"
	"spillway.dev/schemas/event"
)

// BenchmarkShip appends and ships to a broker in this process that forgets everything at once. CPU is the process's, the broker's share
// included.
func BenchmarkShip(b *testing.B) {
	agents := make([]string, 200)
	for i := range agents {
		agents[i] = fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) AppleWebKit/%d.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36", i, 500+i, 90+i%50)
	}
	for _, size := range []int{16 << 10, 64 << 10, 256 << 10} {
		for _, compression := range []string{"none", "snappy", "lz4"} {
			b.Run(fmt.Sprintf("%s/%dKiB", compression, size>>10), func(b *testing.B) {
				c := cluster(b, kfake.BlackholeProduce())
				j, err := journal.Open(journal.Options{Dir: b.TempDir(), Lanes: event.Lanes{Partitions: 3, Run: 128}})
				require.NoError(b, err)
				defer j.Close()
				stop := start(b, j, Options{Brokers: c.ListenAddrs(), Topic: topic, BatchBytes: size, Compression: compression})
				defer stop()
				e := click(1)
				before := cpu(b)
				b.ResetTimer()
				for i := range b.N {
					e.TimeUs, e.UserAgent, e.LinkId, e.Visitor = 0, agents[i%len(agents)], uint64(i%1000), uint64(i)*0x9e3779b97f4a7c15
					for {
						if _, ok := j.Append(e); ok {
							break
						}
						time.Sleep(time.Millisecond)
					}
				}
				for s := j.Live(); s.Acknowledged() < s.Last(); {
					time.Sleep(100 * time.Microsecond)
				}
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
				b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/event")
			})
		}
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
