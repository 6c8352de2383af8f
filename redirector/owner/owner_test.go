package owner

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/outage"
	"spillway.dev/schemas/ownertoken"
	schema "spillway.dev/schemas/postgres"
	"spillway.dev/service/enginetest"
)

func TestATokenDoesOnlyWhatItIsFor(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	k := NewKeys(nil, slog.New(slog.DiscardHandler))
	now := time.Unix(1_700_000_000, 0)
	sign := func(purpose ownertoken.Purpose) []byte {
		return []byte(ownertoken.Sign(key, purpose, 12, now.Add(time.Minute)))
	}
	_, _, ok := k.Claim(sign(ownertoken.Claim), 12, now)
	require.False(t, ok, "no key yet")
	require.False(t, k.Owns(sign(ownertoken.Browser), 12, now))
	k.key.Store(&key)

	cookie, expires, ok := k.Claim(sign(ownertoken.Claim), 12, now)
	require.True(t, ok)
	require.Equal(t, now.Add(ownertoken.BrowserTime), expires)
	require.True(t, k.Owns([]byte(cookie), 12, expires.Add(-time.Second)))
	require.False(t, k.Owns([]byte(cookie), 12, expires))
	require.False(t, k.Owns([]byte(cookie), 13, now))

	cookie, _, ok = k.Claim(sign(ownertoken.Release), 12, now)
	require.True(t, ok)
	require.Empty(t, cookie)
	_, _, ok = k.Claim(sign(ownertoken.Claim), 12, now.Add(time.Minute))
	require.False(t, ok, "a link that was kept does nothing")

	// What is in the cookie makes no other browser the owner's, and what is in the address is no cookie.
	_, _, ok = k.Claim(sign(ownertoken.Browser), 12, now)
	require.False(t, ok)
	require.False(t, k.Owns(sign(ownertoken.Claim), 12, now))
	require.False(t, k.Owns(sign(ownertoken.Release), 12, now))
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
