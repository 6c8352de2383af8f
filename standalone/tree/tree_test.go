package tree_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/service/spillwaytest"
	"spillway.dev/standalone/tree"
)

var quiet = slog.New(slog.DiscardHandler)

// config is a tree on free ports, run by the binary that `make build` made.
func config(t *testing.T) tree.Config {
	t.Helper()
	program, err := spillwaytest.Program()
	require.NoError(t, err)
	data, err := os.MkdirTemp("", "spillway-tree-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(data, 0o711))
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	return tree.Config{Data: data, ClickHouseListen: "127.0.0.1:0", PostgresListen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", KafkaPartitions: 2, Program: program}
}

func start(t *testing.T, cfg tree.Config, given tree.Addresses) *tree.Tree {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	engines, err := tree.Start(ctx, cfg, given, "", quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	return engines
}

// ask sends a statement to ClickHouse.
func ask(address, statement string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	response, err := http.Post("http://"+u.Host+"/?database=spillway", "text/plain", strings.NewReader(statement))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", body)
	}
	return strings.TrimSpace(string(body)), err
}

func must(t *testing.T, address, statement string) string {
	t.Helper()
	answer, err := ask(address, statement)
	require.NoError(t, err)
	return answer
}

func alive(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(status), ") Z ")
}

// The three engines start together, an engine that is killed comes back where it was, and everything is there after a stop.
func TestEnginesComeBackWithTheirData(t *testing.T) {
	cfg := config(t)
	engines := start(t, cfg, tree.Addresses{})
	at := engines.Addresses
	must(t, at.ClickHouse, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	must(t, at.ClickHouse, "INSERT INTO kept SELECT number FROM numbers(1000)")
	must(t, at.ClickHouse, "CREATE TABLE terms (partition UInt32, term UInt64) ENGINE = Join(ANY, LEFT, partition) SETTINGS join_any_take_last_row = 1, persistent = 0")
	must(t, at.ClickHouse, "INSERT INTO terms VALUES (1, 5)")
	conn, err := pgx.Connect(t.Context(), at.Postgres)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n")
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(at.Kafka...), kgo.DefaultProduceTopic("spillway.events"))
	require.NoError(t, err)
	require.NoError(t, client.ProduceSync(t.Context(), kgo.StringRecord("kept")).FirstErr())
	client.Close()

	for _, name := range []string{"ClickHouse", "PostgreSQL"} {
		before := engines.Pid(name)
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		require.Eventually(t, func() bool { return engines.Pid(name) != before }, 40*time.Second, 20*time.Millisecond)
	}
	require.Equal(t, "1000", must(t, at.ClickHouse, "SELECT count() FROM kept"))
	require.Equal(t, "0", must(t, at.ClickHouse, "SELECT joinGet('spillway.terms', 'term', toUInt32(1))"), "terms do not outlive the engine")
	conn, err = pgx.Connect(t.Context(), at.Postgres)
	require.NoError(t, err)
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n))
	require.Equal(t, 100, n)
	require.NoError(t, conn.Close(t.Context()))
	children := []int{engines.Pid("ClickHouse"), engines.Pid("PostgreSQL")}
	engines.Stop(context.Background())
	for _, pid := range children {
		require.False(t, alive(pid))
	}

	began := time.Now()
	engines = start(t, cfg, tree.Addresses{})
	require.Less(t, time.Since(began), 20*time.Second, "a second start is up within seconds")
	defer engines.Stop(context.Background())
	at = engines.Addresses
	require.Equal(t, "1000", must(t, at.ClickHouse, "SELECT count() FROM kept"))
	client, err = kgo.NewClient(kgo.SeedBrokers(at.Kafka...), kgo.ConsumeTopics("spillway.events"))
	require.NoError(t, err)
	defer client.Close()
	fetches := client.PollFetches(t.Context())
	require.NoError(t, fetches.Err())
	require.Equal(t, "kept", string(fetches.Records()[0].Value))
}

// kill -9 of ClickHouse under load: what was answered is there, whole; what was not is whole or absent.
func TestAnsweredInsertsSurviveKills(t *testing.T) {
	cfg := config(t)
	engines := start(t, cfg, tree.Addresses{Kafka: []string{"127.0.0.1:1"}, Postgres: "postgres://unused"})
	defer engines.Stop(context.Background())
	at := engines.Addresses.ClickHouse
	must(t, at, "CREATE TABLE batches (batch UInt64, n UInt64, PROJECTION counts (SELECT batch, count() GROUP BY batch)) ENGINE = MergeTree ORDER BY (batch, n)")
	const writers, size = 3, 2000
	var (
		mu       sync.Mutex
		answered = map[string]bool{}
		wait     sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	for w := range writers {
		wait.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				batch := fmt.Sprint(i*writers + w)
				if _, err := ask(at, fmt.Sprintf("INSERT INTO batches SELECT %s, number FROM numbers(%d)", batch, size)); err == nil {
					mu.Lock()
					answered[batch] = true
					mu.Unlock()
				} else {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		before := engines.Pid("ClickHouse")
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		require.Eventually(t, func() bool { return engines.Pid("ClickHouse") != before }, 40*time.Second, 20*time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	wait.Wait()
	require.Greater(t, len(answered), 10)
	require.Equal(t, "0", must(t, at, fmt.Sprintf("SELECT count() FROM (SELECT batch FROM batches GROUP BY batch HAVING count() != %d OR uniqExact(n) != %d)", size, size)))
	stored := map[string]bool{}
	for _, batch := range strings.Split(must(t, at, "SELECT DISTINCT batch FROM batches FORMAT TSV"), "\n") {
		stored[batch] = true
	}
	for batch := range answered {
		require.True(t, stored[batch], "batch %s was answered and is not there", batch)
	}
	require.Equal(t, must(t, at, "SELECT batch, count() FROM batches GROUP BY batch ORDER BY batch SETTINGS optimize_use_projections = 0"),
		must(t, at, "SELECT batch, count() FROM batches GROUP BY batch ORDER BY batch SETTINGS force_optimize_projection = 1, optimize_aggregation_in_order = 0, optimize_read_in_order = 0"))
}

// What cannot start says why in one line, and leaves nothing running.
func TestRefusalsAreOneLineWithTheCure(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer holder.Close()
	taken := holder.Addr().String()
	only := tree.Addresses{Kafka: []string{"127.0.0.1:1"}, Postgres: "postgres://unused"}
	for name, c := range map[string]struct {
		change func(*tree.Config)
		given  tree.Addresses
		env    string
		want   []string
	}{
		"ClickHouse's port": {func(c *tree.Config) { c.ClickHouseListen = taken }, only, "", []string{taken, "--clickhouse-listen or SPILLWAY_CLICKHOUSE_LISTEN"}},
		"Kafka's port":      {func(c *tree.Config) { c.KafkaListen = taken }, tree.Addresses{ClickHouse: "http://unused", Postgres: "postgres://unused"}, "", []string{taken, "--kafka-listen"}},
		"no engines":        {func(*tree.Config) {}, only, "/nowhere", []string{"make setup"}},
		"another format": {func(c *tree.Config) {
			require.NoError(t, os.WriteFile(filepath.Join(c.Data, "VERSION"), []byte("7\n"), 0o644))
		}, only, "", []string{`has format "7"`}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env != "" {
				t.Setenv("SPILLWAY_ENGINES", c.env)
			}
			cfg := config(t)
			c.change(&cfg)
			_, err := tree.Start(t.Context(), cfg, c.given, "", quiet, prometheus.NewRegistry())
			require.Error(t, err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
	cfg := config(t)
	engines := start(t, cfg, only)
	defer engines.Stop(context.Background())
	_, err = tree.Start(t.Context(), cfg, only, "", quiet, prometheus.NewRegistry())
	require.ErrorContains(t, err, fmt.Sprintf("in use by process %d", os.Getpid()))
}
