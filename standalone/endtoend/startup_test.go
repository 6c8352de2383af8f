package endtoend

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/service/spillwaytest"
)

type addresses struct {
	Kafka      []string `json:"kafka"`
	ClickHouse string   `json:"clickhouse"`
	Database   string   `json:"database"`
}

// addresses reads where the standalone says its engines are.
func (s *standalone) addresses() addresses {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Data, "addresses.json"))
	require.NoError(s.t, err)
	var a addresses
	require.NoError(s.t, json.Unmarshal(text, &a))
	return a
}

// refused runs spillway, expects it to fail, and returns the one line that it says why.
func (s *standalone) refused(args ...string) string {
	s.t.Helper()
	command := s.command(args...)
	var stderr strings.Builder
	command.Stderr = &stderr
	require.Error(s.t, command.Run())
	line := strings.TrimSpace(stderr.String())
	require.NotEmpty(s.t, line)
	require.NotContains(s.t, line, "\n", "one line")
	return line
}

func TestWhatStandsInTheWayIsSaidInOneLineWithTheCure(t *testing.T) {
	t.Run("a port in use", func(t *testing.T) {
		s := newStandalone(t)
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer taken.Close()
		s.Ports[spillwaytest.Visitors] = taken.Addr().(*net.TCPAddr).Port
		line := s.refused("run")
		require.Contains(t, line, fmt.Sprint(s.Ports[spillwaytest.Visitors]))
		require.Contains(t, line, "SPILLWAY_VISITORS_LISTEN")
	})
	t.Run("a data directory of another version", func(t *testing.T) {
		s := newStandalone(t)
		require.NoError(t, os.MkdirAll(s.Data, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(s.Data, "VERSION"), []byte("999\n"), 0o644))
		require.Contains(t, s.refused("run"), "999")
	})
	t.Run("missing engines", func(t *testing.T) {
		s := newStandalone(t)
		t.Setenv("SPILLWAY_ENGINES", t.TempDir())
		require.Contains(t, s.refused("run"), "make setup")
	})
	t.Run("nothing to audit", func(t *testing.T) {
		s := newStandalone(t)
		require.Contains(t, s.refused("audit", "--json"), "CLICKHOUSE_URL")
	})
	t.Run("a standalone that does not run any more", func(t *testing.T) {
		s := newStandalone(t)
		require.NoError(t, os.MkdirAll(s.Data, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(s.Data, "addresses.json"), []byte(`{"clickhouse": "`+s.URL(spillwaytest.ClickHouse, "/spillway")+`"}`), 0o600))
		line := s.refused("audit")
		require.Contains(t, line, "does not run")
		require.Contains(t, line, "spillway run --data "+s.Data)
	})
	t.Run("a service without its engines", func(t *testing.T) {
		s := newStandalone(t)
		require.Contains(t, s.refused("ingest"), "KAFKA_BROKERS")
	})
}
