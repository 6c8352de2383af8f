package table_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/table"
	"spillway.dev/service/engines"
)

// server counts the statements that reach it and answers each as it is told.
func server(t *testing.T, answer func(n int64, w http.ResponseWriter, r *http.Request)) (*table.Table, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(n.Add(1), w, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	opened, err := table.Open(engines.Addresses{ClickHouse: s.URL + "/spillway"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	return opened, &n
}

var statement = table.Insert{Statement: "INSERT INTO events FORMAT Native", Body: []byte("rows"), Tag: "tag"}

// A connection that breaks on a request is what makes drivers and net/http repeat it: on a fresh connection and on one that was kept.
func TestAStatementIsSentOnce(t *testing.T) {
	tbl, n := server(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if n%2 == 0 {
			panic(http.ErrAbortHandler)
		}
	})
	for i := range int64(20) {
		err := tbl.Do(t.Context(), statement)
		if i%2 == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, table.ErrNoAnswer)
		}
		require.Equal(t, i+1, n.Load())
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	tbl, n := server(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	require.Error(t, tbl.Do(t.Context(), statement))
	require.EqualValues(t, 1, n.Load())
}

func TestWhatIsAnAnswer(t *testing.T) {
	var e *table.Exception
	for what, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		code   int
	}{
		"an exception with its code": {func(w http.ResponseWriter) {
			w.Header().Set("X-ClickHouse-Exception-Code", "469")
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "Code: 469. DB::Exception: no")
		}, 469},
		"an exception without a header": {func(w http.ResponseWriter) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "Code: 252. DB::Exception: too many")
		}, 252},
		"an exception after the status was OK": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "Code: 241. DB::Exception: memory") }, 241},
		"something else's error":               {func(w http.ResponseWriter) { w.WriteHeader(502) }, 0},
	} {
		tbl, _ := server(t, func(_ int64, w http.ResponseWriter, _ *http.Request) { c.answer(w) })
		err := tbl.Do(t.Context(), statement)
		require.ErrorAs(t, err, &e, what)
		require.Equal(t, c.code, e.Code, what)
		require.NotEmpty(t, e.Message, what)
	}
}

func TestNoAnswerInTime(t *testing.T) {
	tbl, _ := server(t, func(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := tbl.Do(ctx, statement)
	require.ErrorIs(t, err, table.ErrNoAnswer)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAnErrorDoesNotTellThePassword(t *testing.T) {
	tbl, err := table.Open(engines.Addresses{ClickHouse: "http://someone:hush@127.0.0.1:1/spillway"})
	require.NoError(t, err)
	defer func() { _ = tbl.Close() }()
	err = tbl.Do(t.Context(), statement)
	require.ErrorIs(t, err, table.ErrNoAnswer)
	require.NotContains(t, err.Error(), "hush")
	require.NotContains(t, err.Error(), "INSERT")
}

func TestARealServer(t *testing.T) {
	tbl := tabletest.Open(t)
	require.NoError(t, tbl.Ping(t.Context()))
	tabletest.Exec(t, tbl, "INSERT INTO terms SELECT 7, 9")
	require.EqualValues(t, 9, tabletest.Number(t, tbl, "SELECT joinGet('terms', 'term', toUInt32(7))"))
	err := tbl.Do(t.Context(), table.Insert{Statement: "INSERT INTO events (stream) SELECT 1"})
	e, ok := errors.AsType[*table.Exception](err)
	require.True(t, ok, err)
	require.Equal(t, table.ViolatedConstraint, e.Code)
}
