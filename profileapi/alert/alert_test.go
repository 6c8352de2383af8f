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

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

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

// creator is somebody with a page, on a database of their own.
type creator struct {
	pool    *pgxpool.Pool
	profile int64
}

func newCreator(t *testing.T, where engines.Addresses) creator {
	t.Helper()
	require.NoError(t, postgres.Migrate(t.Context(), where.Database))
	pool, err := where.OpenPostgres(t.Context(), 8)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	c := creator{pool: pool}
	require.NoError(t, pool.QueryRow(t.Context(), `WITH a AS (INSERT INTO accounts (email) VALUES ('ada@example.org') RETURNING id)
		INSERT INTO profiles (account_id, handle, title, timezone, created_at) SELECT id, 'ada', 'Ada <3', 'Europe/Berlin', '2026-01-01' FROM a RETURNING id`).Scan(&c.profile))
	return c
}

func (c creator) counted(t *testing.T, views, clicks int64) {
	t.Helper()
	_, err := c.pool.Exec(t.Context(), `INSERT INTO profile_counters VALUES ($1, 'person', $2, $3, 0, 1, 1, 1, now())
		ON CONFLICT (profile_id, class) DO UPDATE SET views = excluded.views, clicks = excluded.clicks, as_of = now()`, c.profile, views, clicks)
	require.NoError(t, err)
}

// again makes what waits due.
func (c creator) again(t *testing.T, boxes ...*Outbox) {
	t.Helper()
	_, err := c.pool.Exec(t.Context(), `UPDATE deliveries SET next_at = now() WHERE next_at IS NOT NULL`)
	require.NoError(t, err)
	var group errgroup.Group
	for _, o := range boxes {
		group.Go(func() error { _, err := o.round(t.Context()); return err })
	}
	require.NoError(t, group.Wait())
}

var silent = slog.New(slog.DiscardHandler)

// thursday is no time to report a week or to compare hours.
func thursday() time.Time { return time.Date(2026, 1, 15, 12, 1, 0, 0, time.UTC) }

func outbox(t *testing.T, c creator, o OutboxOptions) *Outbox {
	t.Helper()
	if o.Now == nil {
		o.Now = thursday
	}
	out, err := NewOutbox(c.pool, o, silent, prometheus.NewRegistry())
	require.NoError(t, err)
	return out
}

func TestAnAlertReachesItsWebhookSignedAndOnce(t *testing.T) {
	ctx := t.Context()
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	c.counted(t, 1200, 30)
	hook := &receiver{answers: []int{500, 302}}
	server := httptest.NewServer(hook)
	t.Cleanup(server.Close)
	store := NewStore(c.pool)
	made, secret, err := store.AddWebhook(ctx, c.profile, server.URL)
	require.NoError(t, err)
	// Two processes look, and two send.
	for range 2 {
		w := NewWatch(c.pool, nil, Options{Now: thursday}, silent)
		require.NoError(t, w.Round(ctx))
		require.NoError(t, w.Round(ctx))
	}
	one, other := outbox(t, c, OutboxOptions{Private: true}), outbox(t, c, OutboxOptions{Private: true})
	for range 4 {
		c.again(t, one, other)
	}
	require.Len(t, hook.bodies, 3, "refused, led elsewhere, taken")
	list, err := store.List(ctx, c.profile, 0, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "Your page has reached 1\u202f000 views.", list[0].Text)

	last := hook.requests[2]
	header := last.Header.Get(SignatureHeader)
	require.Equal(t, Sign(secret, thursday(), []byte(hook.bodies[2])), header)
	require.NotEqual(t, Sign("another", thursday(), []byte(hook.bodies[2])), header)
	require.True(t, strings.HasPrefix(header, "t="))
	var m message
	require.NoError(t, json.Unmarshal([]byte(hook.bodies[2]), &m))
	require.Equal(t, "ada", m.Handle)
	require.Equal(t, hook.requests[0].Header.Get("Idempotency-Key"), last.Header.Get("Idempotency-Key"))

	deliveries, err := store.Deliveries(ctx, c.profile, made.ID, 10)
	require.NoError(t, err)
	require.Len(t, deliveries, 1)
	require.EqualValues(t, 3, deliveries[0].Attempts)
	require.NotNil(t, deliveries[0].DeliveredAt)
	require.ErrorIs(t, store.Replay(ctx, c.profile+1, deliveries[0].ID), ErrNotFound)
	require.NoError(t, store.Replay(ctx, c.profile, deliveries[0].ID))
	c.again(t, one)
	require.Len(t, hook.bodies, 4)

	// Without the setting nothing is sent to this machine.
	careful := outbox(t, c, OutboxOptions{})
	require.NoError(t, store.Replay(ctx, c.profile, deliveries[0].ID))
	c.again(t, careful)
	require.Len(t, hook.bodies, 4)
	deliveries, err = store.Deliveries(ctx, c.profile, made.ID, 10)
	require.NoError(t, err)
	require.Equal(t, errPrivate.Error(), deliveries[0].Error)

	// A message to try it is listed with the deliveries, not with the alerts.
	tried, err := store.Try(ctx, c.profile, made.ID)
	require.NoError(t, err)
	c.again(t, one)
	require.NoError(t, json.Unmarshal([]byte(hook.bodies[len(hook.bodies)-1]), &m))
	deliveries, err = store.Deliveries(ctx, c.profile, made.ID, 10)
	require.NoError(t, err)
	require.Equal(t, tried.ID, deliveries[0].ID)
	require.Equal(t, Test, deliveries[0].Kind)
	require.NotNil(t, deliveries[0].DeliveredAt)
	list, err = store.List(ctx, c.profile, 0, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	_, err = store.Try(ctx, c.profile+1, made.ID)
	require.ErrorIs(t, err, ErrNotFound)

	// What is on its way to a webhook that was removed is given up.
	sent := len(hook.bodies)
	_, err = store.Try(ctx, c.profile, made.ID)
	require.NoError(t, err)
	require.NoError(t, store.RemoveWebhook(ctx, c.profile, made.ID))
	require.ErrorIs(t, store.RemoveWebhook(ctx, c.profile, made.ID), ErrNotFound)
	c.again(t, one, other)
	require.Len(t, hook.bodies, sent)
}

// TestADeliveryOfADeadProcessIsSentByAnother: one process takes a delivery and dies.
func TestADeliveryOfADeadProcessIsSentByAnother(t *testing.T) {
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	c.counted(t, 100, 0)
	hook := &receiver{}
	server := httptest.NewServer(hook)
	t.Cleanup(server.Close)
	_, _, err := NewStore(c.pool).AddWebhook(t.Context(), c.profile, server.URL)
	require.NoError(t, err)
	require.NoError(t, NewWatch(c.pool, nil, Options{Now: thursday}, silent).Round(t.Context()))
	dead, alive := outbox(t, c, OutboxOptions{Private: true}), outbox(t, c, OutboxOptions{Private: true})
	taken, err := dead.take(t.Context())
	require.NoError(t, err)
	require.Len(t, taken, 1)
	n, err := alive.round(t.Context())
	require.NoError(t, err)
	require.Zero(t, n, "it is the other's for a while")
	c.again(t, alive) // the while is over
	require.Len(t, hook.bodies, 1)
}
