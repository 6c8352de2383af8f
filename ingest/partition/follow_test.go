package partition

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/enrich"
	"spillway.dev/ingest/presence"
)

// loop is an owner's way from a record to a block's rows, without Kafka before it and ClickHouse behind it.
type loop struct {
	*following
	t       testing.TB
	records []*kgo.Record
}

const eventsOfLoop = 20 * 100

func newLoop(t testing.TB) *loop {
	t.Helper()
	rules, err := enrich.NewRules()
	require.NoError(t, err)
	parts := Parts{Blocks: columns.NewPool(1, rules, 1<<20), Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
	l := &loop{following: &following{Owner: New(0, parts, Options{})}, t: t}
	for i := range uint64(20) {
		l.records = append(l.records, &kgo.Record{Offset: int64(i), Value: batch(1, 1+100*i, 100)})
	}
	l.forget()
	return l
}

// forget makes every event one that is not there.
func (l *loop) forget() { l.there = presence.New(time.Now()) }

// read takes every record in.
func (l *loop) read() {
	now := time.Now()
	for _, r := range l.records {
		if err := l.following.read(r, now); err != nil {
			l.t.Fatal(err)
		}
	}
}

// fill makes rows of what was read.
func (l *loop) fill() {
	if err := l.following.fill(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if l.block.Rows() != eventsOfLoop {
		l.t.Fatalf("%d rows of %d events", l.block.Rows(), eventsOfLoop)
	}
	l.giveBack()
	l.rows, l.bytes = 0, 0
}

func TestNoAllocationAnEvent(t *testing.T) {
	l := newLoop(t)
	taken := func() {
		l.forget()
		l.read()
		l.fill()
	}
	taken()
	require.Less(t, testing.AllocsPerRun(10, taken), 20.0, "2000 events of 20 records read and made rows")
	require.Zero(t, testing.AllocsPerRun(10, l.read), "2000 events that are there already skipped")
}

func BenchmarkTaken(b *testing.B) {
	l := newLoop(b)
	b.ReportAllocs()
	for b.Loop() {
		l.forget()
		l.read()
		l.fill()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/eventsOfLoop, "ns/event")
}

func BenchmarkSkipped(b *testing.B) {
	l := newLoop(b)
	l.read()
	l.fill()
	b.ReportAllocs()
	for b.Loop() {
		l.read()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/eventsOfLoop, "ns/event")
}
