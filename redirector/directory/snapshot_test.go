package directory

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/page"
)

// alone is a directory without a PostgreSQL.
func alone(t testing.TB, o Options) *Directory {
	pool, err := pgxpool.New(context.Background(), "postgres://nobody@127.0.0.1:1/none")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	d, err := New(o, pool, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return d
}

func (d *Directory) know(row linkRow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key{kindLink, row.host, row.code}
	d.becomesKnownLocked(k, d.hashOf(k), &value{link: d.newRecord(row)})
}

func TestASnapshotIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	o := Options{Snapshot: filepath.Join(t.TempDir(), "snapshot"), SnapshotBytes: 20 << 10}
	d := alone(t, o)
	for n := range 1000 {
		d.know(linkRow{id: uint64(n), code: fmt.Sprintf("c%d", n), url: "https://example.com/a/target/of/some/length", mode: "off"})
	}
	d.save()
	info, err := os.Stat(o.Snapshot)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), o.SnapshotBytes)
	for n := 900; n < 1000; n++ { // used since
		require.Equal(t, "https://example.com/a/target/of/some/length", leads(d, "", fmt.Sprintf("c%d", n)))
	}
	d.unsaved.Store(true)
	d.save()
	again := alone(t, o)
	for n := 900; n < 1000; n++ {
		require.Equal(t, "https://example.com/a/target/of/some/length", leads(again, "", fmt.Sprintf("c%d", n)))
	}
}

func TestALargeSnapshotIsReadWhole(t *testing.T) {
	o := Options{Snapshot: filepath.Join(t.TempDir(), "snapshot"), CacheBytes: 256 << 20}
	d := alone(t, o)
	const links = 100_000
	for n := range links {
		d.know(linkRow{id: uint64(n + 1), profile: 1, code: fmt.Sprintf("code%d", n), url: fmt.Sprintf("https://example.com/some/path/%d?a=b", n), mode: "append", zone: "Europe/Berlin"})
	}
	d.save()
	began := time.Now()
	again := alone(t, o)
	took := time.Since(began)
	t.Logf("%d links in %s", links, took)
	missing := 0
	for n := range links {
		if _, err := again.Link("", fmt.Appendf(nil, "code%d", n)); err != nil {
			missing++
		}
	}
	require.Zero(t, missing)
}

func FuzzSnapshot(f *testing.F) {
	o := Options{Snapshot: filepath.Join(f.TempDir(), "snapshot"), CacheBytes: 1 << 20}
	d := alone(f, o)
	d.know(linkRow{id: 1, profile: 2, host: "go.example", code: "a", url: "https://example.com/", mode: "off", utm: [5]string{"s"}, zone: "UTC"})
	d.mu.Lock()
	k := key{kindProfile, "", "aurora"}
	d.becomesKnownLocked(k, d.hashOf(k), &value{profile: d.newProfile(profileRow{id: 3, zone: "UTC", shown: page.Profile{Handle: "aurora", Links: []page.Link{{Code: "a"}}}})})
	d.mu.Unlock()
	d.save()
	file, err := os.ReadFile(o.Snapshot)
	require.NoError(f, err)
	body, err := openSnapshot(file)
	require.NoError(f, err)
	names, err := d.decode(body)
	require.NoError(f, err)
	require.Equal(f, 2, names)
	f.Add(file)
	f.Add(file[:len(file)-2])
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum keeps damage out; behind it, nothing may be trusted all the same.
		if len(b) >= snapshotHeader {
			body := b[snapshotHeader:]
			b = append([]byte(snapshotMagic), 0, 0, 0, 0)
			binary.LittleEndian.PutUint32(b[len(snapshotMagic):], snapshotVersion)
			b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
			b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
			b = append(b, body...)
		}
		body, err := openSnapshot(b)
		if err != nil {
			return
		}
		if _, err := d.decode(body); err != nil {
			d.cache.Clear()
			d.shelves.clear()
		}
	})
}
