package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/export"
)

// The audit of an export fails when a file is gone, is not what was published, or is listed twice, and says which; the tables' own audit goes on.
func TestAuditOfAnExport(t *testing.T) {
	e := eventtest.New(t)
	at := time.Now().UTC()
	for range 20 {
		e.Insert(eventtest.Event{Stream: 1, Time: at})
	}
	place := t.TempDir()
	publish, err := export.New(t.Context(), export.Config{To: place}, e.Addresses, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), io.Discard)
	require.NoError(t, err)
	require.NoError(t, publish.Run(t.Context()))

	var out bytes.Buffer
	audit := func(asJSON bool) (map[string]any, error) {
		t.Helper()
		out.Reset()
		c := auditCommand{Export: place, Config: rollup.AuditConfig{JSON: asJSON, Deep: true, Patience: time.Millisecond, Silent: 15 * time.Minute, Lost: 192 * time.Hour}}
		err := c.audit(t.Context(), e.Addresses, &out)
		if !asJSON {
			return nil, err
		}
		var both map[string]any
		require.NoError(t, json.Unmarshal(out.Bytes(), &both))
		require.EqualValues(t, 20, both["stored"], "what the tables' audit found is there too")
		require.Equal(t, err == nil, both["ok"])
		return both["export"].(map[string]any), err
	}
	// Nobody set counters for these events: that alone is off.
	found, err := audit(true)
	require.ErrorIs(t, err, rollup.ErrOff)
	require.NotContains(t, err.Error(), "export")
	require.Equal(t, true, found["ok"])
	require.EqualValues(t, 20, found["events"])
	require.Equal(t, true, found["contents"])

	files, err := filepath.Glob(filepath.Join(place, "events", "*", "*", "*.parquet"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	manifest := filepath.Join(place, "manifests", "000000000001.json")
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	listed, err := os.ReadFile(manifest)
	require.NoError(t, err)
	name, err := filepath.Rel(place, files[0])
	require.NoError(t, err)
	for _, broken := range []struct {
		how, says string
		do        func()
	}{
		{"removed", name + " is listed but not there", func() { require.NoError(t, os.Remove(files[0])) }},
		{"changed", name + " has another content", func() {
			changed := bytes.Clone(whole)
			changed[len(changed)/2] ^= 1
			require.NoError(t, os.WriteFile(files[0], changed, 0o644))
		}},
		{"doubled", "its files have 40 events, its streams 20", func() {
			var m map[string]any
			require.NoError(t, json.Unmarshal(listed, &m))
			again := strings.TrimSuffix(name, ".parquet") + "-again.parquet"
			require.NoError(t, os.WriteFile(filepath.Join(place, again), whole, 0o644))
			second := map[string]any{}
			for k, v := range m["files"].([]any)[0].(map[string]any) {
				second[k] = v
			}
			second["path"] = filepath.ToSlash(again)
			m["files"] = append(m["files"].([]any), second)
			text, err := json.Marshal(m)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(manifest, text, 0o644))
		}},
	} {
		broken.do()
		found, err := audit(true)
		require.ErrorIs(t, err, rollup.ErrOff, broken.how)
		require.ErrorContains(t, err, "problems of the export in "+place)
		require.Equal(t, false, found["ok"])
		require.Contains(t, out.String(), broken.says)
		_, err = audit(false)
		require.ErrorIs(t, err, rollup.ErrOff)
		require.Contains(t, out.String(), "PROBLEM        ")
		require.Contains(t, out.String(), broken.says)
		require.NoError(t, os.WriteFile(files[0], whole, 0o644))
		require.NoError(t, os.WriteFile(manifest, listed, 0o644))
	}
	_, err = audit(false)
	require.NotContains(t, err.Error(), "export")
	require.Contains(t, out.String(), "every event up to the newest cut is in one file, once")

	c := auditCommand{Export: filepath.Join(files[0], "nowhere")}
	err = c.audit(t.Context(), e.Addresses, io.Discard)
	require.Error(t, err)
	require.NotErrorIs(t, err, rollup.ErrOff, "a place that cannot be looked at is no finding")
}
