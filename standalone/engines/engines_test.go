package engines

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/country"
)

// The database that the set-up fetched tells the countries of addresses; where npm could not have it, there is none.
func TestCountries(t *testing.T) {
	t.Setenv("SPILLWAY_ENGINES", t.TempDir())
	require.Empty(t, Countries(""), "not fetched")
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	t.Setenv("SPILLWAY_ENGINES", here)
	file := Countries("")
	if file == "" {
		require.NoDirExists(t, filepath.Join("node_modules", "@ip-location-db"))
		return
	}
	database, err := country.Open(file, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for address, code := range map[string]string{
		"193.99.144.80": "DE", "8.8.8.8": "US", "2a02:2e0:3fe:1001:302::": "DE", "202.12.29.205": "AU", "127.0.0.1": "", "192.0.2.1": "", "10.1.2.3": "", "::1": "",
	} {
		require.Equal(t, code, database.Of(netip.MustParseAddr(address)), address)
	}
}
