package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/export"
)

// An export that goes on serves its metrics where it is told to, and ends without an error.
func TestExportServesItsMetrics(t *testing.T) {
	e := eventtest.New(t)
	for range 20 {
		e.Insert(eventtest.Event{Stream: 1, Time: time.Now().UTC()})
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	c := exportCommand{Config: export.Config{To: t.TempDir(), Every: time.Second}, Admin: free.Addr().String()}
	c.Data, c.Engines = t.TempDir(), e.Addresses
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		answer, err := http.Get("http://" + c.Admin + "/metrics")
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(text), "\nspillway_export_events_total 20\n")
	}, 20*time.Second, 100*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}
