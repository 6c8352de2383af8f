package visitor

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dchest/siphash"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/outage"
	schema "spillway.dev/schemas/postgres"
	"spillway.dev/service/enginetest"
)

var (
	home  = netip.MustParseAddr("203.0.113.7")
	agent = []byte("Mozilla/5.0")
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestDateIsTheProfilesOwn(t *testing.T) {
	at := func(s string) time.Time {
		moment, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return moment
	}
	for _, c := range []struct{ moment, zone, date string }{
		{"2025-03-14T23:30:00Z", "UTC", "2025-03-14"},
		{"2025-03-14T23:30:00Z", "Asia/Kolkata", "2025-03-15"},
		{"2025-03-14T18:29:59Z", "Asia/Kolkata", "2025-03-14"},
		{"2025-03-14T18:30:00Z", "Asia/Kolkata", "2025-03-15"},
		{"2025-03-14T10:00:00Z", "Pacific/Kiritimati", "2025-03-15"},
		{"2025-03-14T11:59:59Z", "Etc/GMT+12", "2025-03-13"},
		{"2025-03-30T22:30:00Z", "Europe/Berlin", "2025-03-31"},
		{"1969-12-31T00:00:00Z", "UTC", "1970-01-01"},
	} {
		zone, err := time.LoadLocation(c.zone)
		require.NoError(t, err)
		require.Equal(t, c.date, calendar(Date(at(c.moment), zone)), "%v", c)
	}
}

func TestIDIsSipHash24(t *testing.T) {
	var value [16]byte
	_, err := hex.Decode(value[:], []byte("000102030405060708090a0b0c0d0e0f"))
	require.NoError(t, err)
	s := newSalt(1, value, true)
	message := append([]byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 7}, agent...)
	got, _ := s.id(0x102, home, agent, nil)
	require.Equal(t, siphash.Hash(0x0706050403020100, 0x0f0e0d0c0b0a0908, message), got)
	require.Equal(t, uint64(0xa129ca6149be45e5), siphash.Hash(0x0706050403020100, 0x0f0e0d0c0b0a0908, []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}), "the vector of the paper")
}

func TestWhoIsTheSameVisitor(t *testing.T) {
	s := newSalt(1, random(), true)
	id := func(profile uint64, client, agent string) uint64 {
		got, _ := s.id(profile, netip.MustParseAddr(client), []byte(agent), nil)
		require.NotZero(t, got)
		return got
	}
	one := id(1, "203.0.113.7", "a")
	require.Equal(t, one, id(1, "::ffff:203.0.113.7", "a"))
	require.NotEqual(t, one, id(2, "203.0.113.7", "a"), "another profile")
	require.NotEqual(t, one, id(1, "203.0.113.8", "a"), "another address")
	require.NotEqual(t, one, id(1, "203.0.113.7", "b"), "another browser")
	require.Equal(t, id(1, "2001:db8:1:2::1", "a"), id(1, "2001:db8:1:2:ffff::9", "a"), "the same network")
	require.NotEqual(t, id(1, "2001:db8:1:2::1", "a"), id(1, "2001:db8:1:3::1", "a"), "another network")
	other := newSalt(2, random(), true)
	tomorrow, _ := other.id(1, netip.MustParseAddr("203.0.113.7"), []byte("a"), nil)
	require.NotEqual(t, one, tomorrow, "another day")
	_, _ = s.id(1, netip.Addr{}, nil, nil) // an address that nobody knows
}

func TestIDAllocatesNothing(t *testing.T) {
	s := NewSalts(nil, time.Now, quiet())
	date := days(time.Now())
	buffer := make([]byte, 0, 256)
	s.ID(date, 1, home, agent, buffer)
	require.Zero(t, testing.AllocsPerRun(100, func() { s.ID(date, 1, home, agent, buffer) }))
}

func TestWithoutPostgresIDsAreStillOfOneDay(t *testing.T) {
	s := NewSalts(nil, time.Now, quiet())
	first, _ := s.ID(20000, 1, home, agent, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for date := uint32(20000); date < 20003; date++ {
				s.ID(date, 1, home, agent, nil)
			}
			if again, _ := s.ID(20000, 1, home, agent, nil); again != first {
				t.Error("another id on the same day")
			}
		})
	}
	all.Wait()
	next, _ := s.ID(20001, 1, home, agent, nil)
	require.NotEqual(t, first, next)
}

// world is a PostgreSQL behind a door.
func world(t *testing.T) (*outage.Door, *pgxpool.Pool, *pgxpool.Pool) {
	direct := enginetest.Postgres(t)
	require.NoError(t, schema.Migrate(t.Context(), direct))
	door, through := outage.Postgres(t, direct)
	open := func(url string) *pgxpool.Pool {
		pool, err := pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	return door, open(through), open(direct)
}

func stored(t *testing.T, pool *pgxpool.Pool) (dates []string) {
	rows, err := pool.Query(t.Context(), `SELECT date::text FROM visitor_salts ORDER BY date`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var date string
		require.NoError(t, rows.Scan(&date))
		dates = append(dates, date)
	}
	require.NoError(t, rows.Err())
	return dates
}

func TestSaltsAreSharedAndDestroyed(t *testing.T) {
	_, pool, direct := world(t)
	for _, old := range []string{"2020-01-01", "2020-01-02"} {
		_, err := direct.Exec(t.Context(), `INSERT INTO visitor_salts (date, salt) VALUES ($1::date, $2)`, old, make([]byte, 16))
		require.NoError(t, err)
	}
	one, two := NewSalts(pool, time.Now, quiet()), NewSalts(pool, time.Now, quiet())
	var both sync.WaitGroup
	for _, s := range []*Salts{one, two} {
		both.Go(func() {
			if err := s.refresh(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	now := time.Now()
	for _, date := range []uint32{days(now.Add(westmost)), days(now), days(now.Add(eastmost))} {
		a, _ := one.ID(date, 1, home, agent, nil)
		b, _ := two.ID(date, 1, home, agent, nil)
		require.Equal(t, a, b, "two redirectors know the visitor as one")
	}
	dates := stored(t, direct)
	require.LessOrEqual(t, len(dates), alive)
	require.GreaterOrEqual(t, dates[0], calendar(days(now.Add(westmost))), "what was over is destroyed")

	// A restarted redirector knows the visitor again.
	a, _ := one.ID(days(now), 1, home, agent, nil)
	three := NewSalts(pool, time.Now, quiet())
	require.NoError(t, three.refresh(t.Context()))
	b, _ := three.ID(days(now), 1, home, agent, nil)
	require.Equal(t, a, b)
}

func TestAWrongClockDestroysNoSaltInUse(t *testing.T) {
	_, pool, direct := world(t)
	right := NewSalts(pool, time.Now, quiet())
	require.NoError(t, right.refresh(t.Context()))
	before := stored(t, direct)

	fast := NewSalts(pool, func() time.Time { return time.Now().Add(40 * 24 * time.Hour) }, quiet())
	require.ErrorContains(t, fast.refresh(t.Context()), "clock")
	require.Equal(t, before, stored(t, direct), "nothing made, nothing destroyed")
	id, _ := fast.ID(days(fast.now()), 1, home, agent, nil)
	require.NotZero(t, id)
}

func TestADateThatIsOverIsForgotten(t *testing.T) {
	_, pool, direct := world(t)
	var now atomic.Int64
	// PostgreSQL's clock cannot be moved: so the redirector's begins late the day before, when yesterday's date is alive in the west.
	now.Store(time.Now().UTC().Truncate(24 * time.Hour).Add(11 * time.Hour).UnixNano())
	s := NewSalts(pool, func() time.Time { return time.Unix(0, now.Load()) }, quiet())
	yesterday := days(s.now().Add(westmost))
	require.Equal(t, days(s.now())-1, yesterday)
	_, err := direct.Exec(t.Context(), `INSERT INTO visitor_salts (date, salt) VALUES ($1::date, $2)`, calendar(yesterday), make([]byte, 16))
	require.NoError(t, err)
	_ = s.refresh(t.Context()) // a date may be over by PostgreSQL's clock: then there is an error, and an own salt
	before, _ := s.ID(yesterday, 1, home, agent, nil)

	now.Add(int64(61 * time.Minute)) // 12:01 UTC: yesterday is over everywhere
	_ = s.refresh(t.Context())
	for _, t2 := range s.table.Load() {
		require.NotEqual(t, yesterday, t2.date)
	}
	after, _ := s.ID(yesterday, 1, home, agent, nil)
	require.NotEqual(t, before, after, "nobody can make that id again")
}

func TestWhileAwayAnOwnSaltServesAndIsReplaced(t *testing.T) {
	door, pool, _ := world(t)
	shared := NewSalts(pool, time.Now, quiet())
	require.NoError(t, shared.refresh(t.Context()))
	today := days(time.Now())
	want, _ := shared.ID(today, 1, home, agent, nil)

	door.Shut()
	s := NewSalts(pool, time.Now, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	own, _ := s.ID(today, 1, home, agent, nil)
	require.NotZero(t, own)
	require.NotEqual(t, want, own)
	again, _ := s.ID(today, 1, home, agent, nil)
	require.Equal(t, own, again)
	door.Open(t)
	require.Eventually(t, func() bool {
		now, _ := s.ID(today, 1, home, agent, nil)
		return now == want
	}, time.Minute, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

func BenchmarkID(b *testing.B) {
	s := NewSalts(nil, time.Now, quiet())
	date := days(time.Now())
	buffer := make([]byte, 0, 256)
	long := make([]byte, 120)
	for b.Loop() {
		s.ID(date, 1, home, long, buffer)
	}
}

func BenchmarkDate(b *testing.B) {
	zone, err := time.LoadLocation("Europe/Berlin")
	require.NoError(b, err)
	now := time.Now()
	for b.Loop() {
		Date(now, zone)
	}
}
