package endtoend

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/service/spillwaytest"
)

func TestARealAccessLogAddsUp(t *testing.T) {
	s := newStandalone(t)
	s.start()
	logs, err := filepath.Glob("../../bench/replay/testdata/apache_logs*")
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	out, err := s.command("replay", logs[0], "--visitors-url", s.URL(spillwaytest.Visitors, ""), "--api-url", s.URL(spillwaytest.API, "")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "It adds up")

	t.Run("dashboards and alerts ask for metrics that are there", func(t *testing.T) {
		response, err := http.Get(s.URL(spillwaytest.Admin, "/metrics"))
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		name := regexp.MustCompile(`spillway_[a-z_]+`)
		there := name.FindAllString(string(text), -1)
		// These have a label, so they are there only once something went wrong; and these an exporter has, which is a process of its own.
		there = append(there, "spillway_ingest_doubts_total", "spillway_ingest_dead_letters_total")
		there = append(there, "spillway_export_complete_timestamp_seconds", "spillway_export_held_events")
		asked := 0
		for _, file := range []string{"../../deploy/grafana/dashboards/spillway.json", "../../deploy/prometheus/alerts.yml"} {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, metric := range name.FindAllString(string(text), -1) {
				require.True(t, slices.Contains(there, metric), "%s asks for %s, which nobody has", file, metric)
				asked++
			}
		}
		require.Greater(t, asked, 20)
	})

	t.Run("a data directory is one standalone's", func(t *testing.T) {
		other := newStandalone(t)
		other.Data = s.Data
		line := other.refused("run")
		require.Contains(t, line, s.Data)
	})

	t.Run("Ctrl-C leaves nothing running and says nothing alarming", func(t *testing.T) {
		children := s.children()
		require.NotEmpty(t, children)
		require.Zero(t, s.interrupt())
		for _, pid := range children {
			require.False(t, running(pid), "process %d is still there", pid)
		}
		require.False(t, strings.Contains(s.Output(), "level="), "%s", s.Output())
	})
}
