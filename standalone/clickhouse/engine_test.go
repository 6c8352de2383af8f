package clickhouse

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"
)

// A process holds one engine: the package's tests share it, each in a database of its own.
var shared struct {
	server    *httptest.Server
	databases atomic.Int64
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	found, err := filepath.Glob("../engines/node_modules/@chdb/*/libchdb.*")
	if err != nil || len(found) == 0 {
		fmt.Fprintln(os.Stderr, "libchdb is not there: run 'make setup'")
		return 1
	}
	library, err := filepath.Abs(found[0])
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "spillway-clickhouse-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	engine, err := Open(Config{Library: library, Data: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer engine.Close()
	shared.server = httptest.NewServer(engine.Handler())
	defer shared.server.Close()
	return m.Run()
}

// database makes a database for one test and returns a client of it.
func database(t *testing.T, adapt ...func(*clickhousego.Options)) (driver.Conn, string) {
	t.Helper()
	name := fmt.Sprintf("test_%d", shared.databases.Add(1))
	curl(t, "", "CREATE DATABASE "+name)
	return client(t, name, adapt...), name
}

func client(t *testing.T, database string, adapt ...func(*clickhousego.Options)) driver.Conn {
	t.Helper()
	options := &clickhousego.Options{
		Addr:     []string{strings.TrimPrefix(shared.server.URL, "http://")},
		Protocol: clickhousego.HTTP,
		Auth:     clickhousego.Auth{Database: database},
	}
	for _, f := range adapt {
		f(options)
	}
	conn, err := clickhousego.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// curl posts a statement as any HTTP client would, and wants it to succeed.
func curl(t *testing.T, params, statement string) string {
	t.Helper()
	status, body := post(t, params, statement)
	require.Equal(t, 200, status, body)
	return body
}

func post(t *testing.T, params, statement string) (int, string) {
	t.Helper()
	response, err := shared.server.Client().Post(shared.server.URL+"/?"+params, "text/plain", strings.NewReader(statement))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func get(t *testing.T, statement string) (int, string) {
	t.Helper()
	response, err := shared.server.Client().Get(shared.server.URL + "/?query=" + url.QueryEscape(statement))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func TestHello(t *testing.T) {
	conn, name := database(t)
	version, err := conn.ServerVersion()
	require.NoError(t, err)
	require.Equal(t, uint64(26), version.Version.Major)
	var db string
	var sum uint64
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT currentDatabase(), sum(number) FROM numbers(1000)").Scan(&db, &sum))
	require.Equal(t, name, db)
	require.EqualValues(t, 499500, sum)
}
