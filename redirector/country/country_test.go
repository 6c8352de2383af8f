package country

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// database writes a database of IPv4 networks: a binary tree of 24-bit records, then the data, then the metadata
// (MaxMind DB File Format, version 2).
func database(t testing.TB, nested bool, countries map[string]string) []byte {
	const empty = -1
	type node [2]int // index of a node, or empty, or -2-offset of a record
	tree := []node{{empty, empty}}
	var data []byte
	text := func(s string) []byte { return append([]byte{0x40 | byte(len(s))}, s...) }
	object := func(pairs ...[]byte) []byte {
		b := []byte{0xe0 | byte(len(pairs)/2)}
		for _, p := range pairs {
			b = append(b, p...)
		}
		return b
	}
	for network, code := range countries {
		record := object(text("country_code"), text(code))
		if nested {
			record = object(text("country"), object(text("iso_code"), text(code)))
		}
		leaf := -2 - len(data)
		data = append(data, record...)
		prefix := netip.MustParsePrefix(network)
		bits, at := prefix.Addr().As4(), 0
		for i := range prefix.Bits() {
			bit := bits[i/8] >> (7 - i%8) & 1
			if i == prefix.Bits()-1 {
				tree[at][bit] = leaf
				break
			}
			if tree[at][bit] < 0 {
				tree = append(tree, node{empty, empty})
				tree[at][bit] = len(tree) - 1
			}
			at = tree[at][bit]
		}
	}
	var file []byte
	for _, n := range tree {
		for _, to := range n {
			value := to
			switch {
			case to == empty:
				value = len(tree)
			case to < empty:
				value = len(tree) + 16 + (-2 - to)
			}
			file = append(file, byte(value>>16), byte(value>>8), byte(value))
		}
	}
	number := func(kind byte, n int) []byte { // unsigned, four bytes; kinds above 7 have a byte of their own
		b := []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
		if kind > 7 {
			return append([]byte{4, kind - 7}, b...)
		}
		if kind == 5 {
			return append([]byte{kind<<5 | 2}, b[2:]...)
		}
		return append([]byte{kind<<5 | 4}, b...)
	}
	const uint16s, uint32s, uint64s = 5, 6, 9
	file = append(append(append(file, make([]byte, 16)...), data...), "\xab\xcd\xefMaxMind.com"...)
	return append(file, object(
		text("node_count"), number(uint32s, len(tree)), text("record_size"), number(uint16s, 24), text("ip_version"), number(uint16s, 4),
		text("database_type"), text("Test"), text("languages"), []byte{0, 4}, text("binary_format_major_version"), number(uint16s, 2),
		text("binary_format_minor_version"), number(uint16s, 0), text("build_epoch"), number(uint64s, 1700000000), text("description"), object(),
	)...)
}

func open(t testing.TB, content []byte) (*Database, string) {
	path := filepath.Join(t.TempDir(), "countries.mmdb")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	d, err := Open(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return d, path
}

func TestOf(t *testing.T) {
	for _, nested := range []bool{false, true} {
		d, _ := open(t, database(t, nested, map[string]string{"203.0.113.0/24": "AT", "198.51.100.0/25": "SE", "192.0.2.0/24": "at"}))
		for address, want := range map[string]string{
			"203.0.113.7": "AT", "203.0.113.255": "AT", "198.51.100.1": "SE", "198.51.100.200": "", "10.0.0.1": "", "192.0.2.1": "", "2001:db8::1": "",
		} {
			for range 2 {
				require.Equal(t, want, d.Of(netip.MustParseAddr(address)), "%s (nested: %v)", address, nested)
			}
		}
		require.Empty(t, d.Of(netip.Addr{}))
		home := netip.MustParseAddr("203.0.113.7")
		require.Zero(t, testing.AllocsPerRun(100, func() { d.Of(home) }))
	}
}

func TestANewerFileIsTakenOver(t *testing.T) {
	d, path := open(t, database(t, false, map[string]string{"203.0.113.0/24": "AT"}))
	home := netip.MustParseAddr("203.0.113.7")
	require.NoError(t, d.renew())
	require.Equal(t, "AT", d.Of(home))

	require.NoError(t, os.WriteFile(path, []byte("half a fi"), 0o600))
	require.Error(t, d.renew())
	require.Equal(t, "AT", d.Of(home), "the one in use stays")

	require.NoError(t, os.WriteFile(path, database(t, true, map[string]string{"203.0.113.0/24": "SE"}), 0o600))
	require.NoError(t, d.renew())
	require.Equal(t, "SE", d.Of(home))
	require.NoError(t, os.Remove(path))
	require.Error(t, d.renew())
	require.Equal(t, "SE", d.Of(home))
}

func TestWhatIsNoDatabaseIsRefused(t *testing.T) {
	for name, content := range map[string][]byte{"text": []byte(strings.Repeat("x", 1000)), "without countries": database(t, false, map[string]string{"203.0.113.0/24": "nowhere"})} {
		path := filepath.Join(t.TempDir(), "countries.mmdb")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := Open(path, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "country database", name)
	}
	_, err := Open(filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func BenchmarkOf(b *testing.B) {
	d, _ := open(b, database(b, true, map[string]string{"203.0.113.0/24": "AT"}))
	home := netip.MustParseAddr("203.0.113.7")
	for b.Loop() {
		d.Of(home)
	}
}
