package shipper

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/journal"
	"spillway.dev/schemas/event"
)

// alone is a courier without a client, whose batches have room for everything and so are not sent.
func alone(t *testing.T, j *journal.Journal) *courier {
	t.Helper()
	s, err := New(j, Options{Brokers: []string{"127.0.0.1:9"}, BatchBytes: maxBatch})
	require.NoError(t, err)
	return newCourier(s, nil, j.Live(), time.Minute, new(atomic.Int64))
}

// A backlog is read a portion at a time, so that visitors come in between.
func TestABacklogIsReadInPortions(t *testing.T) {
	j := openJournal(t, t.TempDir())
	appendAll(t, j, 1, 15_000)
	c := alone(t, j)
	read := func() (bytes int) {
		for i := range c.lanes {
			bytes += len(c.lanes[i].buf)
		}
		return bytes
	}
	for portions := 1; ; portions++ {
		before := read()
		caughtUp, _, err := c.read()
		require.NoError(t, err)
		require.Less(t, read()-before, portion+1000)
		if caughtUp {
			require.Equal(t, j.Live().Last(), c.reader.Position())
			require.GreaterOrEqual(t, portions, 3)
			break
		}
	}
}

// An event costs a copy into its batch; a batch costs the client a record.
func TestNoAllocationAnEvent(t *testing.T) {
	j := openJournal(t, t.TempDir())
	c := alone(t, j)
	enc, err := event.AppendEvent(nil, click(1))
	require.NoError(t, err)
	rec := journal.Record{Event: enc}
	fill := func() {
		for range 300 {
			rec.K++
			c.add(rec)
		}
	}
	empty := func() {
		for i := range c.lanes {
			c.free = append(c.free, c.lanes[i].buf)
			c.lanes[i].buf = nil
		}
	}
	for range 2 { // until the batches have their size
		fill()
		empty()
	}
	require.Zero(t, testing.AllocsPerRun(10, func() { fill(); empty() }))
}
