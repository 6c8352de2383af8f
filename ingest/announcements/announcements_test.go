package announcements_test

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/announcements"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/schemas/event"
)

func ranges(pairs ...uint64) (all []*event.Range) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, &event.Range{First: pairs[i], Last: pairs[i+1]})
	}
	return all
}

func TestWhatIsAnnouncedIsWrittenOnceItsTicketIs(t *testing.T) {
	address := tabletest.Addresses(t)
	tbl := tabletest.At(t, address)
	proxy := faultproxy.NewServer(t, address.ClickHouse).New(t)
	var sent atomic.Int64
	proxy.Decide(func(r faultproxy.Request) faultproxy.Fate {
		switch sent.Add(1) {
		case 1:
			return faultproxy.Fate{Never: true, Error: true}
		case 2:
			return faultproxy.Fate{Cut: true} // it is written, and nobody knows
		}
		return faultproxy.Fate{}
	})
	behind := address
	behind.ClickHouse = proxy.URL()
	w := announcements.NewWriter(tabletest.At(t, behind), time.Hour, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	at := time.Date(2026, 5, 1, 0, 0, 0, 123456000, time.UTC).UnixMicro()
	w.Add(1, 7, &event.Announcement{TimeUs: at + 5e6, Journaled: 50, Unreadable: ranges(3, 4), Origin: "b", BeganUs: at, Partitions: 4, Run: 256})
	w.Add(1, 7, &event.Announcement{TimeUs: at, Journaled: 40, Dropped: 2, DroppedSinceUs: at, DroppedUntilUs: at + 1, Unreadable: ranges(3, 4, 8, 9), Origin: "a", BeganUs: at})
	ticket := w.Add(2, 7, &event.Announcement{TimeUs: at, Journaled: 1, Final: true, Origin: "a bro\xffken name that is far too long: " + string(make([]byte, 200))})
	require.Error(t, w.Flush(t.Context()))
	require.Less(t, w.Written(), ticket)
	require.Error(t, w.Flush(t.Context()))
	require.Less(t, w.Written(), ticket)
	require.NoError(t, w.Flush(t.Context()))
	require.Equal(t, ticket, w.Written())
	later := w.Add(2, 7, &event.Announcement{TimeUs: at - 1, Journaled: 9})
	require.NoError(t, w.Flush(t.Context()))
	require.Equal(t, later, w.Written())

	tabletest.Exec(t, tbl, "OPTIMIZE TABLE announcements FINAL")
	require.EqualValues(t, 1, tabletest.Number(t, tbl, `SELECT count() FROM announcements WHERE partition = 1 AND stream = 7 AND time = '2026-05-01 00:00:05.123456' AND journaled = 50
		AND arraySort(unreadable) = [(3, 4), (8, 9)] AND dropped = 2 AND dropped_since = '2026-05-01 00:00:00.123456' AND origin = 'b' AND partitions = 4 AND run = 256 AND final = 0`))
	require.EqualValues(t, 1, tabletest.Number(t, tbl, "SELECT count() FROM announcements WHERE partition = 2 AND journaled = 9 AND final = 1"))
	require.EqualValues(t, 2, tabletest.Number(t, tbl, "SELECT count() FROM announcements"))
}
