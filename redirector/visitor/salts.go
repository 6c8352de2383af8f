package visitor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	westmost = -12 * time.Hour // UTC-12: the last place on Earth where a date ends
	eastmost = 14 * time.Hour  // UTC+14: the first where it begins
	ahead    = 5 * time.Minute // a salt is fetched that long before its date begins anywhere

	queryTimeout = 2 * time.Second
	retry        = time.Second      // while a salt is not shared
	lookAgain    = 30 * time.Second // whether a date has begun or ended
)

// alive is how many dates there are at once: three for two hours and five minutes a day, otherwise two.
const alive = 3

// Salts holds the salts of the dates that are alive.
type Salts struct {
	pool *pgxpool.Pool
	now  func() time.Time
	log  *slog.Logger

	// table is what visitors are hashed with: replaced, never changed.
	table atomic.Pointer[[alive]salt]
	mu    sync.Mutex // guards replacing table

	// destroy says that PostgreSQL may still have salts of dates that are over. Only refresh uses it.
	destroy bool
}

// NewSalts returns salts without any yet: Run fetches them. A visitor who comes earlier gets an id from a salt of our own.
func NewSalts(pool *pgxpool.Pool, now func() time.Time, log *slog.Logger) *Salts {
	s := &Salts{pool: pool, now: now, log: log, destroy: true}
	s.table.Store(&[alive]salt{})
	return s
}

// ID returns the visitor's id on a date (see Date). scratch is grown as needed and returned for the next use.
func (s *Salts) ID(date uint32, profile uint64, client netip.Addr, agent, scratch []byte) (uint64, []byte) {
	table := s.table.Load()
	for i := range table {
		if t := &table[i]; t.date == date && date != 0 {
			return t.id(profile, client, agent, scratch)
		}
	}
	return s.own(date).id(profile, client, agent, scratch)
}

// own returns the date's salt and makes a random one if there is none yet.
func (s *Salts) own(date uint32) salt {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := *s.table.Load()
	oldest := 0
	for i, t := range table {
		if t.date == date && date != 0 {
			return t
		}
		if t.date < table[oldest].date {
			oldest = i
		}
	}
	made := newSalt(date, random(), false)
	table[oldest] = made
	s.table.Store(&table)
	return made
}

func random() (value [16]byte) {
	rand.Read(value[:]) // never fails: crypto/rand ends the process rather
	return value
}

// Run keeps the salts until ctx ends. While PostgreSQL is away, ids come from a salt of our own: they stay distinct within this
// redirector, and a visitor may be counted once more when the shared salt takes over.
func (s *Salts) Run(ctx context.Context) error {
	away := false
	for {
		err := s.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := lookAgain
		switch {
		case err != nil:
			if !away {
				s.log.Warn("visitor ids come from a salt of this process for the time being; unique visitors may be counted twice", "error", err)
			}
			away, wait = true, retry
		case away:
			s.log.Info("visitor ids come from the shared salts again")
			away = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refresh drops the salts of dates that are over, here and in PostgreSQL, and fetches those that are missing.
func (s *Salts) refresh(ctx context.Context) error {
	now := s.now()
	first, last := days(now.Add(westmost)), days(now.Add(eastmost+ahead))
	s.destroy = s.drop(first, last) || s.destroy

	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	for date := first; date <= last; date++ {
		if s.Shared(date) {
			continue
		}
		value, err := s.fetch(ctx, date)
		if err != nil {
			return fmt.Errorf("visitor salt of %s: %w", calendar(date), err)
		}
		s.put(newSalt(date, value, true))
	}
	if !s.destroy {
		return nil
	}
	// By PostgreSQL's clock too: a redirector whose clock is a day fast must not destroy a salt that is in use.
	_, err := s.pool.Exec(ctx, `DELETE FROM visitor_salts WHERE date < least($1::date, (now() AT TIME ZONE 'UTC' - interval '12 hours')::date)`, calendar(first))
	if err != nil {
		return fmt.Errorf("destroy the visitor salts before %s: %w", calendar(first), err)
	}
	s.destroy = false
	return nil
}

// fetch returns the date's salt from PostgreSQL. The first redirector that asks makes it, and only for a date that is alive by
// PostgreSQL's clock: otherwise a wrong clock would bring back what has been destroyed.
func (s *Salts) fetch(ctx context.Context, date uint32) (value [16]byte, err error) {
	proposal := random()
	_, err = s.pool.Exec(ctx, `
		INSERT INTO visitor_salts (date, salt) SELECT $1::date, $2
		WHERE $1::date BETWEEN (now() AT TIME ZONE 'UTC' - interval '12 hours')::date AND (now() AT TIME ZONE 'UTC' + interval '15 hours')::date
		ON CONFLICT DO NOTHING`, calendar(date), proposal[:])
	if err != nil {
		return value, err
	}
	var b []byte
	err = s.pool.QueryRow(ctx, `SELECT salt FROM visitor_salts WHERE date = $1::date`, calendar(date)).Scan(&b)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return value, errors.New("this machine's clock and PostgreSQL's do not agree on the date: set them")
	case err != nil:
		return value, err
	case len(b) != len(value):
		return value, fmt.Errorf("%d bytes, not %d", len(b), len(value))
	}
	return [16]byte(b), nil
}

// Shared reports whether the salt of a date (days since 1970-01-01) is the one that all redirectors share, and not yet one of our own.
func (s *Salts) Shared(date uint32) bool {
	for _, t := range s.table.Load() {
		if t.date == date {
			return t.shared
		}
	}
	return false
}

// drop forgets the salts outside of the dates first to last and tells whether there were any.
func (s *Salts) drop(first, last uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := *s.table.Load()
	dropped := false
	for i, t := range table {
		if t.date != 0 && (t.date < first || t.date > last) {
			table[i] = salt{}
			dropped = true
		}
	}
	if dropped {
		s.table.Store(&table)
	}
	return dropped
}

// put replaces the date's salt, or takes a free place.
func (s *Salts) put(fresh salt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := *s.table.Load()
	place := 0
	for i, t := range table {
		if t.date == fresh.date {
			place = i
			break
		}
		if t.date < table[place].date {
			place = i
		}
	}
	table[place] = fresh
	s.table.Store(&table)
}

func calendar(date uint32) string {
	return time.Unix(int64(date)*int64(day/time.Second), 0).UTC().Format(time.DateOnly)
}
