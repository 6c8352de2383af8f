package address

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func networks(t testing.TB, list ...string) Networks {
	n, err := ParseNetworks(list)
	require.NoError(t, err)
	return n
}

func TestClientIsTheRightmostUntrustedHop(t *testing.T) {
	n := networks(t, "127.0.0.0/8", "::1", " 10.0.0.0/8", "fd00::/8", "")
	for _, c := range []struct {
		name, remote, forwarded, want string
	}{
		{"no header", "127.0.0.1", "", "127.0.0.1"},
		{"one hop", "127.0.0.1", "203.0.113.7", "203.0.113.7"},
		{"what the client sent means nothing", "127.0.0.1", "1.1.1.1, 203.0.113.7", "203.0.113.7"},
		{"through two proxies", "127.0.0.1", "1.1.1.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"},
		{"an untrusted peer names nobody", "198.51.100.1", "203.0.113.7", "198.51.100.1"},
		{"everyone trusted: the leftmost", "127.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.9"},
		{"port", "127.0.0.1", "203.0.113.7:4711", "203.0.113.7"},
		{"IPv6", "::1", "2001:db8::7", "2001:db8::7"},
		{"IPv6 in brackets", "::1", "[2001:db8::7]", "2001:db8::7"},
		{"IPv6 with port", "::1", "[2001:db8::7]:443", "2001:db8::7"},
		{"mapped IPv4 is IPv4", "::ffff:127.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"},
		{"zone of the peer", "fe80::1%eth0", "203.0.113.7", "fe80::1"},
		{"garbage", "127.0.0.1", "203.0.113.7, unknown", "127.0.0.1"},
		{"garbage behind a proxy", "127.0.0.1", "203.0.113.7, unknown, 10.0.0.1", "10.0.0.1"},
		{"empty elements", "127.0.0.1", " , 203.0.113.7 ,, ", "203.0.113.7"},
		{"bad port", "127.0.0.1", "203.0.113.7:http", "127.0.0.1"},
		{"no closing bracket", "127.0.0.1", "[2001:db8::7", "127.0.0.1"},
		{"only a port", "127.0.0.1", ":80", "127.0.0.1"},
		{"unspecified", "127.0.0.1", "0.0.0.0", "127.0.0.1"},
		{"a zone of somewhere else", "127.0.0.1", "fe80::1%eth0", "127.0.0.1"},
		{"lines", "127.0.0.1", "203.0.113.9|203.0.113.8, 10.0.0.2|10.0.0.1", "203.0.113.8"},
		{"very long", "127.0.0.1", strings.Repeat("1", 4096), "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lines [][]byte
			for line := range strings.SplitSeq(c.forwarded, "|") {
				lines = append(lines, []byte(line))
			}
			require.Equal(t, c.want, n.Client(netip.MustParseAddr(c.remote), lines).String())
		})
	}
}

func TestNobodyIsTrustedByTheZeroValue(t *testing.T) {
	got := Networks{}.Client(netip.MustParseAddr("127.0.0.1"), [][]byte{[]byte("203.0.113.7")})
	require.Equal(t, "127.0.0.1", got.String())
}

func TestANetworkThatIsNoneIsRefusedWithTheCure(t *testing.T) {
	for _, bad := range []string{"10.0.0.0/33", "localhost", "::ffff:10.0.0.0/8", "fe80::1%eth0"} {
		_, err := ParseNetworks([]string{bad})
		require.ErrorContains(t, err, bad)
		require.ErrorContains(t, err, "write")
	}
	n := networks(t, "::ffff:10.0.0.0/104")
	require.True(t, n.Contains(netip.MustParseAddr("10.1.2.3")))
}

func TestClientAllocatesNothing(t *testing.T) {
	n := networks(t, "127.0.0.1")
	remote := netip.MustParseAddr("127.0.0.1")
	lines := [][]byte{[]byte("2001:db8::1, 203.0.113.7:80")}
	require.Zero(t, testing.AllocsPerRun(100, func() { n.Client(remote, lines) }))
}

func FuzzClient(f *testing.F) {
	for _, seed := range []string{"203.0.113.7", "[::1]:80, 10.0.0.1", ",,,", "[", ":", "1.2.3.4%eth0", "::ffff:1.2.3.4"} {
		f.Add([]byte(seed), []byte("10.0.0.1"))
	}
	trusted := networks(f, "127.0.0.0/8", "10.0.0.0/8")
	remote := netip.MustParseAddr("127.0.0.1")
	f.Fuzz(func(t *testing.T, first, second []byte) {
		got := trusted.Client(remote, [][]byte{first, second})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() || got.IsUnspecified() {
			t.Fatalf("client %v", got)
		}
		untrusted := netip.MustParseAddr("198.51.100.1")
		if got := trusted.Client(untrusted, [][]byte{first, second}); got != untrusted {
			t.Fatalf("an untrusted peer named %v", got)
		}
	})
}
