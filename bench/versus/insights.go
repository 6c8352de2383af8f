package versus

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/creator"
	"spillway.dev/bench/measure"
	"spillway.dev/bench/process"
	"spillway.dev/bench/stand"
	schema "spillway.dev/schemas/postgres"
)

// library is a table of so many events with its creators' service.
type library struct {
	days    int // how far back the events go
	columns *stand.Columns
	api     *creators
	profile int64
	closing time.Duration
	scan    time.Duration // of reading every column of every event, in ClickHouse
}

// insights asks for the same profile's numbers in a large table and in one of a tenth.
func (b *Bench) insights(ctx context.Context) (*Table, error) {
	events := b.Events
	if events == 0 {
		events = pick(b, 2_000_000, 200_000)
	}
	s, err := b.stand()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	postgres, pool, err := s.Postgres(ctx, stand.Any)
	if err != nil {
		return nil, err
	}
	clickhouse, err := s.Engine(ctx, "clickhouse", stand.Any)
	if err != nil {
		return nil, err
	}
	var small, large *library
	for _, l := range []struct {
		into   **library
		name   string
		events int
	}{{&small, "small", events / 10}, {&large, "large", events}} {
		if *l.into, err = b.library(ctx, s, clickhouse, postgres, pool, l.name, l.events); err != nil {
			return nil, fmt.Errorf("table of %d events: %w", l.events, err)
		}
	}
	everything := "&classes=" + url.QueryEscape(strings.Join(creator.Classes(), ","))
	asked := []struct {
		name, query string
		first       bool // of a profile that nobody has asked for, another one each time
	}{
		{"lifetime and 90 days", "?period=90d", false},
		{"90 days, every class", "?period=90d" + everything, false},
		{"lifetime and 90 days, for the first time", "?period=90d", true},
		{"24 hours", "?period=24h", false},
	}
	times := map[*library][]measure.Series{small: make([]measure.Series, len(asked)), large: make([]measure.Series, len(asked))}
	for i := range b.turns() {
		for turn := range 2 {
			l := []*library{small, large}[(i+turn)%2]
			for q, a := range asked {
				profile := l.profile
				if a.first {
					profile += 1 + int64(i)
				}
				began := time.Now()
				if _, err := l.api.insights(ctx, profile, a.query); err != nil {
					return nil, err
				}
				if i > 1 { // the first ones are of cold caches, on both sides
					times[l][q] = append(times[l][q], microseconds(time.Since(began))/1000)
				}
			}
		}
	}
	t := &Table{Title: "Insights", How: fmt.Sprintf("%d events of %d days on 10 000 profiles, the days closed by rollup, against a table of a tenth; both in one ClickHouse, asked in turn, %d times each, for "+
		"the numbers of the most viewed profile (one event in 50), and for the first time for those of as many others, over HTTP from the API.", events, large.days, len(times[large][0]))}
	for q, a := range asked {
		big, little := at(times[large][q], 0.99), at(times[small][q], 0.99)
		t.Rows = append(t.Rows, Row{What: a.name + ", p99, ms", Ours: fmt.Sprintf("%s (median %s)", measure.Number(big), measure.Number(times[large][q].Median())),
			Peer: fmt.Sprintf("a tenth of the events: %s (median %s)", measure.Number(little), measure.Number(times[small][q].Median())), Ratio: measure.Series{big / little}, Goal: 1.2})
	}
	filtered, unfiltered := at(times[large][0], 0.99), at(times[large][1], 0.99)
	t.Rows = append(t.Rows, Row{What: "90 days of people, p99, ms", Ours: measure.Number(filtered), Peer: "of every class: " + measure.Number(unfiltered), Ratio: measure.Series{filtered / unfiltered}, Goal: 1.2})
	perEvent := func(d time.Duration) string { return measure.Number(d.Seconds() * 1e6 / float64(events)) }
	t.Rows = append(t.Rows, Row{What: "closing the days, µs an event", Ours: perEvent(large.closing), Peer: "ClickHouse reads every column of every event: " + perEvent(large.scan),
		Ratio: measure.Series{large.closing.Seconds() / large.scan.Seconds()}})
	t.Notes = append(t.Notes, fmt.Sprintf("Rollup closed the large table's %d days in %s, %s events/s.", large.days-1, large.closing.Round(100*time.Millisecond),
		measure.Number(float64(events)/large.closing.Seconds())))
	return t, nil
}

// turns is how often each question is asked of each table.
func (b *Bench) turns() int { return pick(b, 152, 20) }

// library fills a database, lets rollup close its days, and starts an API on it.
func (b *Bench) library(ctx context.Context, s *stand.Stand, clickhouse, postgres *process.Process, pool *pgxpool.Pool, name string, events int) (*library, error) {
	l := &library{days: pick(b, 90, 5)}
	if _, err := pool.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, fmt.Errorf("make a PostgreSQL database: %w", err)
	}
	u, err := url.Parse(postgres.Line())
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's address: %w", err)
	}
	u.Path = "/" + name
	if err := schema.Migrate(ctx, u.String()); err != nil {
		return nil, err
	}
	profiles, err := pgxpool.New(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	defer profiles.Close()
	if l.profile, err = stand.Links(ctx, profiles, "measured", 20); err != nil {
		return nil, err
	}
	// Those that come next have the ids that come next, which fillDays gives to events.
	if _, err := profiles.Exec(ctx, "INSERT INTO profiles (account_id, handle, title) SELECT account_id, 'other-' || i, 'Measured' FROM profiles, generate_series(1, $1) AS i", b.turns()); err != nil {
		return nil, fmt.Errorf("make further profiles: %w", err)
	}
	if _, err := profiles.Exec(ctx, "UPDATE profiles SET created_at = now() - interval '100 days'"); err != nil {
		return nil, fmt.Errorf("make the profile older: %w", err)
	}
	if l.columns, err = stand.NewColumns(ctx, clickhouse.Line(), name); err != nil {
		return nil, err
	}
	if err := own(ctx, l.columns); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := fillDays(ctx, l.columns, l.days, events); err != nil {
		return nil, err
	}
	b.Say("%d events made in %s", events, time.Since(began).Round(100*time.Millisecond))
	began = time.Now()
	env := []string{"CLICKHOUSE_URL=" + l.columns.URL, "DATABASE_URL=" + u.String()}
	rollup, err := s.Service(ctx, "rollup", "rollup-"+name, stand.Any, env...)
	if err != nil {
		return nil, err
	}
	if err := stand.Until(ctx, "close the days", 5*time.Minute+time.Duration(events)*40*time.Microsecond, 100*time.Millisecond, func() (bool, error) {
		n, err := l.columns.Number(ctx, "SELECT uniqExact(date) FROM "+name+".closed_days")
		return n >= float64(l.days-2), err
	}); err != nil {
		return nil, err
	}
	l.closing = time.Since(began)
	b.Say("days closed in %s", l.closing.Round(100*time.Millisecond))
	var lifetime int64
	if err := stand.Until(ctx, "set the lifetime numbers", 2*time.Minute+time.Duration(events)*10*time.Microsecond, 100*time.Millisecond, func() (bool, error) {
		err := profiles.QueryRow(ctx, "SELECT coalesce(sum(views + clicks), 0) FROM profile_counters WHERE profile_id = $1", l.profile).Scan(&lifetime)
		return lifetime > 0, err
	}); err != nil {
		return nil, err
	}
	rollup.Kill() // what is measured next is reading
	began = time.Now()
	if err := l.columns.Do(ctx, "SELECT sum(cityHash64(*)) FROM "+name+".events"); err != nil {
		return nil, err
	}
	l.scan = time.Since(began)
	if err := l.columns.Do(ctx, "OPTIMIZE TABLE "+name+".events FINAL"); err != nil {
		return nil, err
	}
	api, err := s.Service(ctx, "profileapi", "profileapi-"+name, stand.Any, env...)
	if err != nil {
		return nil, err
	}
	l.api, err = newCreators(ctx, profiles, api.Listen)
	return l, err
}

// fillDays makes up events, day by day, within ClickHouse: one in fifty is of profile 1, the others are of 10 000 profiles.
func fillDays(ctx context.Context, c *stand.Columns, days, events int) error {
	each := events / days
	for d := range days {
		statement := fmt.Sprintf(`INSERT INTO %[1]s.events (stream, partition, sequence, term, time, date, kind, class, reason, profile_id, link_id, visitor, surface, country, device, browser, os, referrer_host, channel)
SELECT %[2]d + 1, 0, number + 1, %[3]d, toDateTime64(today() - %[4]d, 6, 'UTC') + toIntervalMicrosecond(toUInt64(number * (86400000000 / %[5]d))) AS time, today() - %[4]d,
	if(number %% 3 = 0, 'view', 'click'), if(cityHash64(number, 1) %% 10 = 0, 'bot', 'person'), '',
	if(cityHash64(number, 2) %% 50 = 0, 1, 2 + cityHash64(number, 3) %% 10000), if(number %% 3 = 0, 0, 1 + cityHash64(number, 4) %% 20),
	cityHash64(intDiv(number, 3), %[4]d), 'page', ['DE', 'US', 'GB', 'BR', 'IN'][1 + cityHash64(number, 5) %% 5], ['phone', 'desktop', 'tablet'][1 + number %% 3],
	['Chrome', 'Safari', 'Firefox'][1 + cityHash64(number, 6) %% 3], ['Android', 'iOS', 'Windows'][1 + cityHash64(number, 7) %% 3], ['', 'example.com'][1 + number %% 2], ['direct', 'social'][1 + number %% 2]
FROM numbers(%[5]d)`, c.Database(), d, term, d, each)
		if _, err := c.Ask(ctx, statement, nil, "max_insert_block_size=1000000", "max_block_size=250000"); err != nil {
			return err
		}
	}
	return nil
}
