package directory

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// TestMemoryOfALink bounds what a known link takes, the cache's own bookkeeping included: a redirector may know millions.
func TestMemoryOfALink(t *testing.T) {
	const links = 200_000
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	d, err := New(Options{CacheBytes: 32 << 20}, nil, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry())
	require.NoError(t, err)
	defer d.Close()
	before := live()
	for i := range links {
		row := linkRow{id: uint64(i + 1), profile: 1, code: fmt.Sprintf("m%07x", i), url: fmt.Sprintf("https://example.com/some/page-of-a-shop/%d", i), mode: "off", zone: "Asia/Kolkata"}
		d.remember(key{kindLink, "", row.code}, &value{link: d.newRecord(row)})
	}
	d.cache.Wait()
	each := (live() - before) / links
	t.Logf("%d bytes a link", each)
	require.Less(t, each, uint64(110))
	_, err = d.Link("", []byte("m0000001"))
	require.NoError(t, err)
}
