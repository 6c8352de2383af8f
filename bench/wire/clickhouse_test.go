package wire

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInsertsAreRecognised(t *testing.T) {
	for text, want := range map[string]bool{
		"INSERT INTO spillway.events (a, b) FORMAT Native": true,
		"insert into `spillway`.`events`(a) values":        true,
		"INSERT INTO TABLE events FORMAT Native":           true,
		"INSERT INTO spillway.events_old VALUES":           false,
		"INSERT INTO spillway.terms VALUES":                false,
		"SELECT * FROM spillway.events":                    false,
		"":                                                 false,
	} {
		require.Equal(t, want, inserts(text, "events"), text)
	}
}

func TestStrikes(t *testing.T) {
	var seen, whole atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) != 1000 {
			return
		}
		whole.Add(1)
		_, _ = io.WriteString(w, "done")
	}))
	defer server.Close()
	c, err := NewClickHouse(server.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	insert := func(table string) (int, string, error) {
		response, err := http.Post("http://"+c.Address()+"/?query="+url.QueryEscape("INSERT INTO spillway."+table+" FORMAT Native"), "", strings.NewReader(strings.Repeat("x", 1000)))
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	for _, test := range []struct {
		strike      Strike
		seen, whole int32
		status      int // 0: no answer
	}{
		{Spare, 1, 1, 200}, {CutBefore, 0, 0, 0}, {CutHalfway, 1, 0, 0}, {CutAfter, 1, 1, 0}, {FailAfter, 1, 1, 500}, {HoldBefore, 1, 1, 200}, {HoldAfter, 1, 1, 200},
	} {
		seen.Store(0)
		whole.Store(0)
		c.StrikeInserts("events", test.strike, 1, 50*time.Millisecond)
		status, _, err := insert("terms")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		began := time.Now()
		status, _, err = insert("events")
		require.Equal(t, test.status == 0, err != nil, test.strike)
		require.Equal(t, test.status, status, test.strike)
		if test.strike == HoldBefore || test.strike == HoldAfter {
			require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
		}
		require.Eventually(t, func() bool { return seen.Load() == 1+test.seen && whole.Load() == 1+test.whole }, time.Second, time.Millisecond, test.strike)
		status, body, err := insert("events")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "done", body)
	}
	require.Equal(t, 7, c.Struck())
}
