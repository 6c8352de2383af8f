package partition

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A month is set aside as a whole, from the moment on at which all of it is older than the retention. Rollup drops it two days later.
func TestAMonthIsSetAsideWhenAllOfItIsOlderThanTheRetention(t *testing.T) {
	random := rand.New(rand.NewPCG(43, 44))
	day := func(at time.Time) uint16 { return uint16(at.Unix() / (24 * 60 * 60)) }
	for range 20_000 {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(random.Int64N(int64(4 * 366 * 24 * time.Hour))))
		if random.IntN(2) == 0 {
			now = time.Date(2026, time.Month(1+random.IntN(48)), 1, 0, 0, 0, random.IntN(3)-1, time.UTC)
		}
		days := 1 + random.IntN(500)
		first := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC).AddDate(0, -(days/30 + random.IntN(4) - 1), 0)
		next := first.AddDate(0, 1, 0)
		gone := !now.Before(next.AddDate(0, 0, days))
		kept := oldest(now, days)
		require.Equal(t, gone, day(next.AddDate(0, 0, -1)) < kept, "the last day of %s with %d days at %s", first, days, now)
		require.Equal(t, gone, day(first) < kept, "the first day of %s with %d days at %s", first, days, now)
	}
}
