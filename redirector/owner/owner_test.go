package owner

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/outage"
	schema "spillway.dev/schemas/postgres"
	"spillway.dev/service/enginetest"
)

func TestOwns(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	k := NewKeys(nil, slog.New(slog.DiscardHandler))
	now := time.Unix(1_700_000_000, 0)
	token := Sign(key, 12, now.Add(time.Hour))
	_, ok := k.Owns([]byte(token), 12, now)
	require.False(t, ok, "no key yet")
	k.key.Store(&key)
	expires, ok := k.Owns([]byte(token), 12, now)
	require.True(t, ok)
	require.Equal(t, now.Add(time.Hour), expires)
	require.LessOrEqual(t, len(Sign(key, 1<<64-1, time.Unix(1<<62, 0))), Longest)

	_, ok = k.Owns([]byte(token), 13, now)
	require.False(t, ok, "another profile")
	_, ok = k.Owns([]byte(token), 12, now.Add(time.Hour))
	require.False(t, ok, "over")
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		_, ok := k.Owns(forged, 12, now)
		require.False(t, ok, "byte %d", i)
	}
	for _, none := range []string{"", "1.", "1", "1..", "2.12.1800000000.x", token + "x", token[:len(token)-1]} {
		_, ok := k.Owns([]byte(none), 12, now)
		require.False(t, ok, none)
	}
	other := []byte("another key")
	_, ok = k.Owns([]byte(Sign(other, 12, now.Add(time.Hour))), 12, now)
	require.False(t, ok)
}

func TestTheKeyIsSharedAndFetchedOncePostgresIsThere(t *testing.T) {
	direct := enginetest.Postgres(t)
	require.NoError(t, schema.Migrate(t.Context(), direct))
	door, url := outage.Postgres(t, direct)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	door.Shut()
	ctx, cancel := context.WithCancel(t.Context())
	var keys [2]*Keys
	done := make(chan error, len(keys))
	for i := range keys {
		keys[i] = NewKeys(pool, slog.New(slog.DiscardHandler))
		go func() { done <- keys[i].Run(ctx) }()
	}
	door.Open(t)
	require.Eventually(t, func() bool { return keys[0].key.Load() != nil && keys[1].key.Load() != nil }, time.Minute, 5*time.Millisecond)
	require.Equal(t, *keys[0].key.Load(), *keys[1].key.Load())
	require.Len(t, *keys[0].key.Load(), 32)
	cancel()
	for range keys {
		require.NoError(t, <-done)
	}
}
