package profileapi_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// away is an address of the database behind which there is nothing until it is let back.
func away(t *testing.T, database string) (address string, back func()) {
	to, err := url.Parse(database)
	require.NoError(t, err)
	host := to.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	var there atomic.Bool
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if !there.Load() {
				_ = client.Close()
				continue
			}
			server, err := net.Dial("tcp", host)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
		}
	}()
	to.Host = listener.Addr().String()
	return to.String(), func() { there.Store(true) }
}

func TestRequestsAreRefusedUntilTheSchemaIsInPlace(t *testing.T) {
	database, back := away(t, enginetest.Postgres(t))
	var health admin.Health
	service, err := profileapi.New(t.Context(), profileapi.Config{Listen: "127.0.0.1:0", Public: "http://127.0.0.1:1", Connections: 4, Exports: 1},
		engines.Addresses{Database: database, ClickHouse: "http://127.0.0.1:1/none"}, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), &health)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	ask := func() *http.Response {
		t.Helper()
		response, err := http.Get("http://" + service.Address() + "/v1/profiles")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response
	}
	refused := ask()
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.Equal(t, "1", refused.Header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", refused.Header.Get("Content-Type"))
	require.Contains(t, health.Ready(t.Context()), "postgres schema: the database's schema is not in place yet")

	back()
	require.Eventually(t, func() bool { return ask().StatusCode == http.StatusUnauthorized }, time.Minute, 10*time.Millisecond)
	require.Empty(t, health.Ready(t.Context()))
	stop()
	require.NoError(t, <-ended)
}
