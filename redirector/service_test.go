package redirector

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/redirector/outage"
	"spillway.dev/schemas/event"
	schema "spillway.dev/schemas/postgres"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

func config(t testing.TB) Config {
	return Config{
		Listen: "127.0.0.1:0", Trusted: []string{"127.0.0.1"}, Views: "page", Journal: filepath.Join(t.TempDir(), "journal"),
		JournalBytes: 64 << 20, SegmentBytes: 1 << 20, Sync: time.Second, Partitions: 2, Run: 8, Compression: "lz4",
		CacheBytes: 16 << 20, LoadTimeout: 300 * time.Millisecond, Connections: 1000, Pool: 4, Farewell: 400 * time.Millisecond,
	}
}

// start starts a service and returns it with what stops it.
func start(t testing.TB, c Config, where engines.Addresses) (*Service, func()) {
	s, err := New(t.Context(), c, where, slog.New(slog.DiscardHandler), admin.NewRegistry(), &admin.Health{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func get(t testing.TB, s *Service, path string) (status int, location string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + s.Address() + path)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header.Get("Location")
}

// world is PostgreSQL with a profile and a link, behind a door, and a topic.
func world(t testing.TB) (*outage.Door, engines.Addresses) {
	direct := enginetest.Postgres(t)
	require.NoError(t, schema.Migrate(t.Context(), direct))
	sql, err := pgx.Connect(t.Context(), direct)
	require.NoError(t, err)
	defer sql.Close(t.Context())
	_, err = sql.Exec(t.Context(), `
		WITH a AS (INSERT INTO accounts (email) VALUES ('a@example.com') RETURNING id),
		     p AS (INSERT INTO profiles (account_id, handle, title) SELECT id, 'aurora', 'Aurora' FROM a RETURNING id)
		INSERT INTO links (profile_id, code, title, url) SELECT id, 'shop', 'Shop', 'https://example.com/shop' FROM p`)
	require.NoError(t, err)
	brokers, topic := enginetest.Kafka(t), enginetest.Name()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopic(t.Context(), 2, 1, nil, topic)
	require.NoError(t, err)
	require.NoError(t, made.Err)
	door, url := outage.Postgres(t, direct)
	return door, engines.Addresses{Kafka: brokers, Database: url, Topic: topic}
}

// shipped reads as many events from the topic as there must be.
func shipped(t testing.TB, where engines.Addresses, want int) (events []*event.Event) {
	client, err := kgo.NewClient(kgo.SeedBrokers(where.Kafka...), kgo.ConsumeTopics(where.Topic))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(events) < want {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "%d of %d events", len(events), want)
		for _, record := range fetches.Records() {
			batch, err := event.ParseBatch(record.Value)
			require.NoError(t, err)
			batch.Events(func(_ uint64, encoded []byte) bool {
				e := &event.Event{}
				require.NoError(t, e.UnmarshalVT(encoded))
				events = append(events, e)
				return true
			})
		}
	}
	return events
}

func TestAVisitReachesKafka(t *testing.T) {
	door, where := world(t)
	c := config(t)
	s, stop := start(t, c, where)
	// Until the shared salt is there, ids come from one of our own.
	require.Eventually(t, func() bool { return s.salts.Shared(uint32(time.Now().Unix() / (24 * 60 * 60))) }, time.Minute, time.Millisecond)
	status, _ := get(t, s, "/aurora")
	require.Equal(t, http.StatusOK, status)
	status, location := get(t, s, "/l/shop?sw_page=1")
	require.Equal(t, http.StatusFound, status)
	require.Equal(t, "https://example.com/shop", location)
	status, _ = get(t, s, "/l/none")
	require.Equal(t, http.StatusNotFound, status)

	events := shipped(t, where, 2)
	kinds := map[event.Kind]*event.Event{}
	for _, e := range events {
		kinds[e.Kind] = e
	}
	view, click := kinds[event.Kind_KIND_VIEW], kinds[event.Kind_KIND_CLICK]
	require.NotNil(t, view)
	require.NotNil(t, click)
	require.Equal(t, view.ProfileId, click.ProfileId)
	require.Equal(t, view.Visitor, click.Visitor, "one visitor did both")
	require.Equal(t, event.Surface_SURFACE_PAGE, click.Surface)
	stop()

	// Restarted while PostgreSQL is away, it serves what it knew, and records it.
	door.Shut()
	s, stop = start(t, c, where)
	status, location = get(t, s, "/l/shop")
	require.Equal(t, http.StatusFound, status)
	require.Equal(t, "https://example.com/shop", location)
	status, _ = get(t, s, "/aurora")
	require.Equal(t, http.StatusOK, status)
	status, _ = get(t, s, "/l/unseen")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Len(t, shipped(t, where, 4), 4)
	stop()
}

func TestWithEverythingAwayItServesWithinASecond(t *testing.T) {
	nowhere := engines.Addresses{Kafka: []string{"127.0.0.1:1"}, Database: "postgres://nobody@127.0.0.1:1/none", Topic: "none"}
	began := time.Now()
	c := config(t)
	s, stop := start(t, c, nowhere)
	status, _ := get(t, s, "/")
	require.Equal(t, http.StatusOK, status)
	status, _ = get(t, s, "/l/shop")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Less(t, time.Since(began), time.Second)
	began = time.Now()
	stop()
	require.Less(t, time.Since(began), c.Farewell+grace)
}

func TestASettingThatCannotBeIsRefusedWithTheCure(t *testing.T) {
	where := engines.Addresses{Kafka: []string{"127.0.0.1:1"}, Database: "postgres://nobody@127.0.0.1:1/none"}
	for cure, change := range map[string]func(*Config, *engines.Addresses){
		"SPILLWAY_JOURNAL":                       func(c *Config, _ *engines.Addresses) { c.Journal = "" },
		"SPILLWAY_TRUSTED_PROXIES":               func(c *Config, _ *engines.Addresses) { c.Trusted = []string{"proxy"} },
		"SPILLWAY_VIEWS":                         func(c *Config, _ *engines.Addresses) { c.Views = "both" },
		"SPILLWAY_VISITORS_LISTEN":               func(c *Config, _ *engines.Addresses) { c.Listen = "127.0.0.1:99999" },
		"SPILLWAY_PUBLIC_URL":                    func(c *Config, _ *engines.Addresses) { c.Public = "spill.example" },
		"SPILLWAY_LOAD_TIMEOUT":                  func(c *Config, _ *engines.Addresses) { c.LoadTimeout = 0 },
		"SPILLWAY_COUNTRY_DATABASE":              func(c *Config, _ *engines.Addresses) { c.Countries = "none.mmdb" },
		"SPILLWAY_FAREWELL":                      func(c *Config, _ *engines.Addresses) { c.Farewell = 0 },
		"SPILLWAY_VISITORS_DATABASE_CONNECTIONS": func(c *Config, _ *engines.Addresses) { c.Pool = 1 },
		"SPILLWAY_CACHE_BYTES":                   func(c *Config, _ *engines.Addresses) { c.CacheBytes = 1 },
		"DATABASE_URL":                           func(_ *Config, a *engines.Addresses) { a.Database = "" },
		"KAFKA_BROKERS":                          func(_ *Config, a *engines.Addresses) { a.Kafka = nil },
	} {
		c, a := config(t), where
		change(&c, &a)
		_, err := New(t.Context(), c, a, slog.New(slog.DiscardHandler), admin.NewRegistry(), &admin.Health{})
		require.ErrorContains(t, err, cure)
	}
	// What was refused holds nothing: the same directory can be opened at once, and only once.
	c := config(t)
	first, _ := start(t, c, where)
	_, err := New(t.Context(), c, where, slog.New(slog.DiscardHandler), admin.NewRegistry(), &admin.Health{})
	require.ErrorContains(t, err, "journal")
	c.Listen = first.Address()
	_, err = New(t.Context(), c, where, slog.New(slog.DiscardHandler), admin.NewRegistry(), &admin.Health{})
	require.ErrorContains(t, err, "in use")
}
