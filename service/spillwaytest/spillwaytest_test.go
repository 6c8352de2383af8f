package spillwaytest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/service/spillwaytest"
)

func TestItsEnvironmentLeadsToNobodysEngines(t *testing.T) {
	t.Setenv("KAFKA_BROKERS", "kafka.example:9092")
	t.Setenv("SPILLWAY_DATA", "/elsewhere")
	t.Setenv("SPILLWAY_ENGINES", "/engines")
	all := spillwaytest.Environment("SPILLWAY_DATA=/here")
	require.Contains(t, all, "SPILLWAY_ENGINES=/engines")
	require.Contains(t, all, "SPILLWAY_DATA=/here")
	require.NotContains(t, all, "SPILLWAY_DATA=/elsewhere")
	require.NotContains(t, all, "KAFKA_BROKERS=kafka.example:9092")
}

func TestAMissingProgramIsSaidWithTheCure(t *testing.T) {
	t.Setenv("SPILLWAY_BIN", filepath.Join(t.TempDir(), "nothing"))
	_, err := spillwaytest.Program()
	require.ErrorContains(t, err, "make build")
	t.Setenv("SPILLWAY_BIN", "")
	t.Chdir(t.TempDir())
	_, err = spillwaytest.Program()
	require.ErrorContains(t, err, "SPILLWAY_BIN")
}

func TestItGoesOnWhereItEnded(t *testing.T) {
	temporary := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(temporary), 0o755))
	s, err := spillwaytest.New(temporary)
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	require.NoError(t, s.Start(), "%s", s.Output())
	token := s.Token
	require.NoError(t, s.Call(http.MethodPost, "/v1/profiles", map[string]string{"handle": "ada", "title": "Ada"}, nil))
	require.ErrorContains(t, s.Call(http.MethodGet, "/v1/profiles/0", nil, nil), "404")
	s.Kill()
	require.NoError(t, s.Start(), "%s", s.Output())
	require.Equal(t, token, s.Token)
	answer, err := s.Visit(http.MethodGet, "/ada", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.Status)
	status, err := s.Interrupt()
	require.NoError(t, err)
	require.Zero(t, status)
}
