package limit

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuotaIsUsedAndComesBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := New(Policy{"default", 3, time.Minute}, func() time.Time { return now })
	for left := 2; left >= 0; left-- {
		d := l.Take("a")
		require.True(t, d.Allowed)
		require.Equal(t, left, d.Remaining)
	}
	d := l.Take("a")
	require.False(t, d.Allowed)
	require.Equal(t, 20*time.Second, d.Retry)
	h := http.Header{}
	d.Headers(h)
	require.Equal(t, http.Header{"Ratelimit-Policy": {`"default";q=3;w=60`}, "Ratelimit": {`"default";r=0;t=60`}, "Retry-After": {"20"}}, h)
	require.True(t, l.Take("b").Allowed, "another key has a quota of its own")
	now = now.Add(d.Retry)
	require.True(t, l.Take("a").Allowed)
	require.False(t, l.Take("a").Allowed)
	now = now.Add(time.Hour)
	require.Equal(t, 2, l.Take("a").Remaining)
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := New(Policy{"default", 1, time.Hour}, func() time.Time { return now })
	for i := range 3 * maxKeys {
		l.Take(fmt.Sprint(i))
	}
	require.LessOrEqual(t, len(l.busy), maxKeys)
}
