package engines_test

import (
	"context"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

func TestSeveralProcessesMigrateAtOnce(t *testing.T) {
	addresses := engines.Addresses{ClickHouse: enginetest.ClickHouse(t), Database: enginetest.Postgres(t)}
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wait.Go(func() {
			if i%2 == 0 {
				errs[i] = addresses.MigrateClickHouse(t.Context())
			} else {
				errs[i] = postgres.Migrate(t.Context(), addresses.Database)
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, addresses.MigrateClickHouse(t.Context()), "once more changes nothing")
	require.NoError(t, postgres.Migrate(t.Context(), addresses.Database))
}

func TestTheDatabaseAnnouncesWhatAChangeMakesStale(t *testing.T) {
	url := enginetest.Postgres(t)
	require.NoError(t, postgres.Migrate(t.Context(), url))
	listener, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer listener.Close(context.Background())
	_, err = listener.Exec(t.Context(), "LISTEN "+postgres.ChangedChannel)
	require.NoError(t, err)
	for _, step := range []struct {
		sql  string
		want []string // contained in the one notification
	}{
		{"INSERT INTO accounts (email) VALUES ('a@example.com')", nil},
		{"INSERT INTO profiles (account_id, handle, title) VALUES (1, 'ada', 'Ada')", []string{`"ada"`}},
		{"INSERT INTO links (profile_id, code, title, url) VALUES (1, 'abc', 'A', 'https://example.com')", []string{`"ada"`, `"abc"`}},
		{"UPDATE links SET url = 'https://example.org' WHERE id = 1", []string{`"ada"`, `"abc"`}},
		{"UPDATE profiles SET title = 'Ada L.' WHERE id = 1", []string{`"ada"`, `"links": []`}},
		{"UPDATE profiles SET handle = 'lovelace' WHERE id = 1", []string{`"ada"`, `"lovelace"`, `"abc"`}},
		{"UPDATE profiles SET timezone = 'Asia/Kathmandu' WHERE id = 1", []string{`"lovelace"`, `"abc"`}},
		{"INSERT INTO links (profile_id, code, title, url) SELECT 1, 'x' || n, 'X', 'https://example.com' FROM generate_series(1, 1) AS n", []string{`"x1"`}},
	} {
		_, err := listener.Exec(t.Context(), step.sql)
		require.NoError(t, err, step.sql)
		if step.want == nil {
			continue
		}
		n, err := listener.WaitForNotification(t.Context())
		require.NoError(t, err)
		for _, part := range step.want {
			require.Contains(t, n.Payload, part, step.sql)
		}
	}
	// More links than a notification holds: everything is read again.
	_, err = listener.Exec(t.Context(), "INSERT INTO links (profile_id, code, title, url) SELECT 1, 'y' || n, 'Y', 'https://example.com' FROM generate_series(1, 200) AS n")
	require.NoError(t, err)
	for range 200 {
		_, err = listener.WaitForNotification(t.Context())
		require.NoError(t, err)
	}
	_, err = listener.Exec(t.Context(), "UPDATE profiles SET handle = 'countess' WHERE id = 1")
	require.NoError(t, err)
	n, err := listener.WaitForNotification(t.Context())
	require.NoError(t, err)
	require.JSONEq(t, `{"all": true}`, n.Payload)
}

func TestTheClusterLayoutIsValidSQL(t *testing.T) {
	options, err := clickhouse.ParseDSN(enginetest.ClickHouse(t))
	require.NoError(t, err)
	connection, err := clickhouse.Open(options)
	require.NoError(t, err)
	defer connection.Close()
	migrations, err := schema.Layout{Database: "spillway", Cluster: "main"}.Migrations()
	require.NoError(t, err)
	files, err := fs.Glob(migrations, "*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	replicated := 0
	for _, file := range files {
		text, err := fs.ReadFile(migrations, file)
		require.NoError(t, err)
		for _, statement := range strings.Split(string(text), ";\n") {
			if !strings.Contains(statement, "CREATE") {
				continue
			}
			var formatted string
			require.NoError(t, connection.QueryRow(t.Context(), "SELECT formatQuery($1)", statement).Scan(&formatted), statement)
			require.Contains(t, formatted, "ON CLUSTER main")
			if strings.Contains(formatted, "ENGINE = Replicated") {
				replicated++
			}
		}
	}
	require.GreaterOrEqual(t, replicated, 5)
	_, err = schema.Layout{Database: "spillway; DROP"}.Migrations()
	require.ErrorContains(t, err, "letters, digits")
}

func TestAQuestionThatNobodyWaitsForEnds(t *testing.T) {
	pool, err := engines.Addresses{Database: enginetest.Postgres(t)}.OpenPostgres(t.Context(), 2)
	require.NoError(t, err)
	defer pool.Close()
	asking, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// Not pg_sleep: that looks by itself whether it is to end.
	_, err = pool.Exec(asking, "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b")
	require.Error(t, err)
	require.Eventually(t, func() bool {
		var running int
		err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(1, 100000) b' AND state = 'active'").Scan(&running)
		return err == nil && running == 0
	}, 30*time.Second, 100*time.Millisecond)
}
