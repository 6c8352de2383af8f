package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestServerTellsMetricsAndHealth(t *testing.T) {
	registry := NewRegistry()
	clicks := prometheus.NewCounter(prometheus.CounterOpts{Name: "spillway_test_clicks_total", Help: "Clicks."})
	registry.MustRegister(clicks)
	clicks.Inc()
	var health Health
	away := errors.New("connection refused")
	health.Add("postgres", func(context.Context) error { return away })
	health.Add("kafka", func(context.Context) error { return nil })

	server, err := Listen("127.0.0.1:0", registry, &health, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	get := func(path string) (int, string) {
		response, err := http.Get("http://" + server.Address() + path)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
	code, body := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "postgres: connection refused\n", body)
	away = nil
	code, _ = get("/readyz")
	require.Equal(t, http.StatusOK, code)
	code, _ = get("/livez")
	require.Equal(t, http.StatusOK, code)
	_, body = get("/metrics")
	require.Contains(t, body, "spillway_test_clicks_total 1")
	require.Contains(t, body, "go_goroutines")

	_, err = Listen(server.Address(), registry, &health, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "address already in use")
	cancel()
	require.NoError(t, <-done)
}
