package alert

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

func TestMilestonesAreRound(t *testing.T) {
	for n, want := range map[int64]int64{0: 0, 99: 0, 100: 100, 249: 100, 250: 250, 499: 250, 500: 500, 999: 500, 1000: 1000, 2499: 1000, 2500: 2500, 7_000_000: 5_000_000} {
		require.Equal(t, want, reached(n), n)
	}
}

func TestSpikesAndDrops(t *testing.T) {
	require.Equal(t, Spike, judge(500, 100))
	require.Equal(t, "", judge(499, 100))
	require.Equal(t, "", judge(49, 0), "a handful is no spike")
	require.Equal(t, Spike, judge(50, 0))
	require.Equal(t, Drop, judge(20, 100))
	require.Equal(t, "", judge(21, 100))
	require.Equal(t, "", judge(0, 49))
}

func TestOnlyPublicAddressesAreAsked(t *testing.T) {
	for _, a := range []string{"127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1",
		"64:ff9b::7f00:1", "224.0.0.1", "255.255.255.255", "::"} {
		require.False(t, public(netip.MustParseAddr(a)), a)
	}
	for _, a := range []string{"93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"} {
		require.True(t, public(netip.MustParseAddr(a)), a)
	}
	for _, bad := range []string{"http://example.org/", "https://user@example.org/", "https://127.0.0.1/", "https://[::1]/", "ftp://example.org", "https://", "x"} {
		require.Error(t, CheckURL(bad, false), bad)
	}
	require.NoError(t, CheckURL("https://example.org/hook", false))
}

// receiver is a webhook's other end.
type receiver struct {
	mu       sync.Mutex
	answers  []int
	requests []*http.Request
	bodies   []string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, _ := io.ReadAll(request.Body)
	r.requests, r.bodies = append(r.requests, request), append(r.bodies, string(body))
	status := http.StatusNoContent
	if len(r.answers) > 0 {
		status, r.answers = r.answers[0], r.answers[1:]
	}
	w.WriteHeader(status)
}

func TestAnAlertReachesItsWebhookSignedAndOnce(t *testing.T) {
	where := engines.Addresses{Database: enginetest.Postgres(t)}
	require.NoError(t, postgres.Migrate(t.Context(), where.Database))
	pool, err := where.OpenPostgres(t.Context(), 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	ctx := t.Context()
	var account, profile int64
	require.NoError(t, pool.QueryRow(ctx, `INSERT INTO accounts (email) VALUES ('ada@example.org') RETURNING id`).Scan(&account))
	require.NoError(t, pool.QueryRow(ctx, `INSERT INTO profiles (account_id, handle, title) VALUES ($1, 'ada', 'Ada') RETURNING id`, account).Scan(&profile))
	_, err = pool.Exec(ctx, `INSERT INTO profile_counters VALUES ($1, 'person', 1200, 30, 0, 1, 1, 1, now())`, profile)
	require.NoError(t, err)

	hook := &receiver{answers: []int{500, 302}}
	server := httptest.NewServer(hook)
	t.Cleanup(server.Close)
	now := time.Now().UTC().Truncate(time.Hour).Add(time.Minute) // not yet the time to compare hours
	w := NewWatch(pool, nil, Options{Private: true, Now: func() time.Time { return now }}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	made, secret, err := w.store.AddWebhook(ctx, profile, server.URL)
	require.NoError(t, err)
	again := func() {
		_, err := pool.Exec(ctx, `UPDATE deliveries SET next_at = now() WHERE next_at IS NOT NULL`)
		require.NoError(t, err)
		require.NoError(t, w.round(ctx))
	}
	for range 4 {
		again()
	}
	require.Len(t, hook.bodies, 3, "refused, led elsewhere, taken")
	list, err := w.store.List(ctx, profile, 0, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "Your page has reached 1000 views.", list[0].Text)

	last := hook.requests[2]
	header := last.Header.Get(SignatureHeader)
	at := time.Unix(now.Unix(), 0)
	require.Equal(t, Sign(secret, at, []byte(hook.bodies[2])), header)
	require.NotEqual(t, Sign("another", at, []byte(hook.bodies[2])), header)
	require.True(t, strings.HasPrefix(header, "t="))
	var m message
	require.NoError(t, json.Unmarshal([]byte(hook.bodies[2]), &m))
	require.Equal(t, "ada", m.Handle)
	require.Equal(t, hook.requests[0].Header.Get("Idempotency-Key"), last.Header.Get("Idempotency-Key"))

	deliveries, err := w.store.Deliveries(ctx, profile, made.ID, 10)
	require.NoError(t, err)
	require.Len(t, deliveries, 1)
	require.EqualValues(t, 3, deliveries[0].Attempts)
	require.NotNil(t, deliveries[0].DeliveredAt)
	require.ErrorIs(t, w.store.Replay(ctx, profile+1, deliveries[0].ID), ErrNotFound)
	require.NoError(t, w.store.Replay(ctx, profile, deliveries[0].ID))
	again()
	require.Len(t, hook.bodies, 4)

	// Without the setting nothing is sent to this machine.
	careful := NewWatch(pool, nil, Options{Now: w.now}, w.log)
	require.NoError(t, w.store.Replay(ctx, profile, deliveries[0].ID))
	require.NoError(t, careful.round(ctx))
	require.Len(t, hook.bodies, 4)
	deliveries, err = w.store.Deliveries(ctx, profile, made.ID, 10)
	require.NoError(t, err)
	require.Equal(t, errPrivate.Error(), deliveries[0].Error)

	require.NoError(t, w.store.RemoveWebhook(ctx, profile, made.ID))
	require.ErrorIs(t, w.store.RemoveWebhook(ctx, profile, made.ID), ErrNotFound)
}
