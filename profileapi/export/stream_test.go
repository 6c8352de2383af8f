package export

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/service/engines"
)

// A server may end a result with an error and the transfer as if it were whole: servers that know no tag do. What is data and what is not is
// told apart at any length, and an error never reaches the client.
func TestErrorsAtTheEndOfAWholeTransfer(t *testing.T) {
	const failure = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 24.3.1.1)\n"
	for _, c := range []struct {
		what, tag, end, reason string
	}{
		{"whole", "", "", ""},
		{"whole, with a tag that does not occur", "abcdefghijklmnop", "", ""},
		{"an error without a tag", "", failure, "Memory limit exceeded"},
		{"a tagged error", "abcdefghijklmnop", "\r\n__exception__\r\nabcdefghijklmnop\r\n" + failure + "90 abcdefghijklmnop\r\n__exception__\r\n", "Memory limit exceeded"},
		{"data that looks like another's error", "abcdefghijklmnop", "\"\r\n__exception__\r\nponmlkjihgfedcba\r\n" + failure + "\"\n", ""},
		{"data that quotes an error", "", "\"" + strings.TrimSpace(failure) + "\"\n", ""},
	} {
		for _, size := range []int{0, 1, held - 1, held, piece, piece + held, 3*piece + held + 7} {
			data := strings.Repeat("x", size)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.tag != "" {
					w.Header().Set("X-ClickHouse-Exception-Tag", c.tag)
				}
				_, _ = w.Write([]byte(data + c.end))
			}))
			s, err := NewSource(engines.Addresses{ClickHouse: server.URL}, Options{}, prometheus.NewRegistry())
			require.NoError(t, err)
			stream, err := s.Open(t.Context(), "somebody", Query{Format: CSV})
			require.NoError(t, err)
			var got bytes.Buffer
			err = stream.Copy(&got)
			stream.Close()
			server.Close()
			if c.reason == "" {
				require.NoError(t, err, "%s, %d bytes", c.what, size)
				require.True(t, got.String() == data+c.end, "%s, %d bytes", c.what, size)
				continue
			}
			require.ErrorIs(t, err, ErrBroken, "%s, %d bytes", c.what, size)
			require.ErrorContains(t, err, c.reason)
			require.NotContains(t, got.String(), "Exception", "%s, %d bytes", c.what, size)
			require.Zero(t, s.total)
		}
	}
}

// Nothing that a client says becomes part of a statement but as a number, a time or a quoted word.
func TestQueryQuotes(t *testing.T) {
	sql := Query{Format: NDJSON, Profile: 7, Kinds: []string{`view') OR 1 --`, `\`, "view"}}.sql(schema.Layout{Database: "spillway"})
	require.Contains(t, sql, `kind IN ('\\', 'view', 'view\') OR 1 --')`)
	require.Contains(t, sql, "profile_id = 7")
	require.True(t, strings.HasSuffix(sql, "FORMAT JSONEachRow"))
}
