package rollup

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
)

func TestAuditTellsAndFails(t *testing.T) {
	e := eventtest.New(t)
	config := AuditConfig{JSON: true, Patience: time.Millisecond, Silent: 15 * time.Minute, Lost: 192 * time.Hour}
	var out bytes.Buffer
	require.NoError(t, Audit(t.Context(), config, e.Addresses, &out), "nothing is in order")

	at := time.Now().UTC()
	e.Insert(eventtest.Event{Stream: 1, Sequence: 1, Time: at, Profile: 1})
	e.Announce(eventtest.Announcement{Stream: 1, Journaled: 3, Time: at, Began: at})
	out.Reset()
	err := Audit(t.Context(), config, e.Addresses, &out)
	require.ErrorIs(t, err, ErrOff)
	require.EqualError(t, err, "audit: something is off: events missing: 2, counters wrong: 1")
	var report struct {
		OK      bool
		Missing int
		Streams []struct {
			Stream  string
			Missing int
			Gaps    []struct{ First, Last int }
		}
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &report))
	require.False(t, report.OK)
	require.Equal(t, 2, report.Missing)
	require.Equal(t, 2, report.Streams[0].Gaps[0].First)
	require.Equal(t, 3, report.Streams[0].Gaps[0].Last)

	config.JSON = false
	out.Reset()
	require.ErrorIs(t, Audit(t.Context(), config, e.Addresses, &out), ErrOff)
	require.Contains(t, out.String(), "missing in stream 0000000000000001, partition 0: 2 … 3")

	nowhere := e.Addresses
	nowhere.ClickHouse = "http://127.0.0.1:1/spillway"
	err = Audit(t.Context(), config, nowhere, &out)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrOff)
}
