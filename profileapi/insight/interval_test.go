package insight

import (
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"
)

// Zones at :30 and :45, with the clock moved at midnight, by half an hour, over the date line, and plain ones.
var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham", "America/St_Johns", "Asia/Kolkata",
	"America/Havana", "Asia/Beirut", "America/Santiago", "Africa/Cairo", "Pacific/Apia", "Africa/Casablanca", "Asia/Tehran", "Atlantic/Azores",
	"America/Asuncion", "Pacific/Kiritimati", "Etc/GMT+12", "America/Sao_Paulo", "Asia/Pyongyang", "Asia/Amman"}

func TestDaysBeginWhenTheLocalDateChanges(t *testing.T) {
	for _, zone := range zones {
		location, err := time.LoadLocation(zone)
		require.NoError(t, err)
		// Every quarter hour of fifteen years, by brute force.
		last := time.Date(2012, 1, 1, 12, 0, 0, 0, time.UTC).In(location)
		day := Day.start(last)
		for at := last; at.Year() < 2027; at = at.Add(15 * time.Minute) {
			if at.Day() != last.Day() {
				require.Equal(t, at, Day.next(day), "%s: the day after %s", zone, day)
				day = Day.next(day)
				require.Equal(t, at, Day.start(at), zone)
			}
			last = at
		}
	}
}

func TestBucketsCoverEveryMomentOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Log("seed", seed)
	widest := map[Interval]time.Duration{QuarterHour: 15 * time.Minute, Hour: time.Hour, Day: 26 * time.Hour, Week: 8 * 24 * time.Hour, Month: 32 * 24 * time.Hour}
	for _, zone := range zones {
		location, err := time.LoadLocation(zone)
		require.NoError(t, err)
		for interval, most := range widest {
			for range 100 {
				from := time.Unix(1_330_000_000+random.Int64N(500_000_000), 0).In(location)
				to := from.Add(time.Duration(1 + random.Int64N(int64(20*most))))
				bounds, err := interval.buckets(from, to)
				require.NoError(t, err)
				require.False(t, bounds[0].After(from))
				require.False(t, bounds[len(bounds)-1].Before(to))
				require.True(t, bounds[len(bounds)-2].Before(to))
				for i := 1; i < len(bounds); i++ {
					width := bounds[i].Sub(bounds[i-1])
					require.Positive(t, width)
					require.LessOrEqual(t, width, most)
					require.Zero(t, bounds[i].Unix()%900, "%s %s: a bucket begins within a quarter hour", zone, interval)
					inside := bounds[i-1].Add(time.Duration(random.Int64N(int64(width))))
					require.Equal(t, bounds[i-1], interval.start(inside), "%s %s at %s", zone, interval, inside)
				}
			}
		}
	}
}

func TestIntervalsOnTheClock(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	// The hour after 2:00 comes twice.
	bounds, err := Hour.buckets(time.Date(2026, 10, 25, 1, 0, 0, 0, berlin), time.Date(2026, 10, 25, 4, 0, 0, 0, berlin))
	require.NoError(t, err)
	var clock []string
	for _, b := range bounds {
		clock = append(clock, b.Format("15:04 MST"))
	}
	require.Equal(t, []string{"01:00 CEST", "02:00 CEST", "02:00 CET", "03:00 CET", "04:00 CET"}, clock)
	days, err := Day.buckets(time.Date(2026, 3, 28, 0, 0, 0, 0, berlin), time.Date(2026, 3, 30, 0, 0, 0, 0, berlin))
	require.NoError(t, err)
	require.Equal(t, []time.Duration{24 * time.Hour, 23 * time.Hour}, []time.Duration{days[1].Sub(days[0]), days[2].Sub(days[1])})

	at := time.Date(2026, 5, 13, 17, 20, 0, 0, berlin) // a Wednesday
	require.Equal(t, "2026-05-11 00:00", Week.start(at).Format("2006-01-02 15:04"))
	require.Equal(t, "2026-05-18 00:00", Week.next(Week.start(at)).Format("2006-01-02 15:04"))
	require.Equal(t, "2026-05-01 00:00", Month.start(at).Format("2006-01-02 15:04"))
	require.Equal(t, "2026-06-01 00:00", Month.next(Month.start(at)).Format("2006-01-02 15:04"))
	require.Equal(t, "2026-05-12 18:00", Hour.Back(at, 24).Format("2006-01-02 15:04"))

	_, err = QuarterHour.buckets(at, at.AddDate(1, 0, 0))
	require.ErrorIs(t, err, ErrTooManyBuckets)
}
