package ownertoken

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATokenIsGoodForWhatItWasSignedFor(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	now := time.Unix(1_700_000_000, 0)
	for _, purpose := range []Purpose{Browser, Claim, Release} {
		token := Sign(key, purpose, 12, now.Add(time.Hour))
		got, expires, ok := Check(key, []byte(token), 12, now)
		require.True(t, ok)
		require.Equal(t, purpose, got)
		require.Equal(t, now.Add(time.Hour), expires)
		require.LessOrEqual(t, len(Sign(key, purpose, math.MaxUint64, time.Unix(math.MaxInt64, 0))), Longest)

		_, _, ok = Check(key, []byte(token), 13, now)
		require.False(t, ok, "another profile")
		_, _, ok = Check(key, []byte(token), 12, now.Add(time.Hour))
		require.False(t, ok, "over")
		_, _, ok = Check([]byte("another key"), []byte(token), 12, now)
		require.False(t, ok)
		for i := range token {
			forged := []byte(token)
			forged[i] ^= 1
			_, _, ok := Check(key, forged, 12, now)
			require.False(t, ok, "byte %d", i)
		}
		for _, none := range []string{"", ".", "...", "1.", "1", "1..", "1.12.1800000000.x", token + "x", token[:len(token)-1]} {
			_, _, ok := Check(key, []byte(none), 12, now)
			require.False(t, ok, none)
		}
	}
}
