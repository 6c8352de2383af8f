// Package rollup turns events into what is kept and shown: it closes days, sets the lifetime counters in Postgres, says up to when the
// numbers are complete, and lets raw events expire. Several rollups may run at once.
package rollup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/rollup/completeness"
	"spillway.dev/rollup/counters"
	"spillway.dev/rollup/day"
	"spillway.dev/rollup/retention"
	"spillway.dev/rollup/scanner"
	"spillway.dev/rollup/table"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
)

// Config of the service.
type Config struct {
	Interval  time.Duration `name:"rollup-interval" env:"SPILLWAY_ROLLUP_INTERVAL" default:"300ms" help:"How often the lifetime counters are brought up to date."`
	Grace     time.Duration `name:"rollup-close-after" env:"SPILLWAY_ROLLUP_CLOSE_AFTER" default:"30m" help:"How long after its end in every time zone a day is closed. What comes later closes it again."`
	Compare   time.Duration `name:"rollup-compare-every" env:"SPILLWAY_ROLLUP_COMPARE_EVERY" default:"1h" help:"How often all closed days are compared with their events."`
	Sweep     time.Duration `name:"rollup-sweep-every" env:"SPILLWAY_ROLLUP_SWEEP_EVERY" default:"5m" help:"How often the counters of all profiles with events in open days are computed, hints or not."`
	Silent    time.Duration `name:"rollup-silent-after" env:"SPILLWAY_ROLLUP_SILENT_AFTER" default:"15m" help:"How long a redirector may say nothing, while others do, until complete_through no longer waits for it."`
	Lost      time.Duration `name:"rollup-lost-after" env:"SPILLWAY_ROLLUP_LOST_AFTER" default:"192h" help:"How long complete_through waits for events that are missing. Longer than Kafka keeps its records."`
	Scanners  time.Duration `name:"rollup-scanners-every" env:"SPILLWAY_ROLLUP_SCANNERS_EVERY" default:"30s" help:"How often is looked for visitors that are programs by what they do. 0: never."`
	Retention int           `name:"retention-days" env:"SPILLWAY_RETENTION_DAYS" default:"400" help:"Days for which raw events are kept; whole months are dropped. Closed days are kept for ever. 0: keep all."`
}

func (c Config) check() error {
	for _, d := range []struct {
		value    time.Duration
		variable string
	}{
		{c.Interval, "SPILLWAY_ROLLUP_INTERVAL"}, {c.Compare, "SPILLWAY_ROLLUP_COMPARE_EVERY"}, {c.Sweep, "SPILLWAY_ROLLUP_SWEEP_EVERY"},
		{c.Silent, "SPILLWAY_ROLLUP_SILENT_AFTER"}, {c.Lost, "SPILLWAY_ROLLUP_LOST_AFTER"},
	} {
		if d.value <= 0 {
			return fmt.Errorf("%s is %s: use a time above zero, such as 1s or 5m", d.variable, d.value)
		}
	}
	if c.Scanners < 0 {
		return fmt.Errorf("SPILLWAY_ROLLUP_SCANNERS_EVERY is %s: use a time such as 30s, or 0 for never", c.Scanners)
	}
	if c.Grace < 0 {
		return fmt.Errorf("SPILLWAY_ROLLUP_CLOSE_AFTER is %s: use zero or more", c.Grace)
	}
	if c.Retention != 0 && c.Retention < retention.Least {
		return fmt.Errorf("SPILLWAY_RETENTION_DAYS is %d: use at least %d, or 0 to keep all", c.Retention, retention.Least)
	}
	return nil
}

// Service is rollup.
type Service struct {
	config   Config
	where    engines.Addresses
	log      *slog.Logger
	columnar driver.Conn
	pool     *pgxpool.Pool
	tables   *table.Tables
	closer   *day.Closer
	updater  *counters.Updater
	complete *completeness.Watch
	expiry   *retention.Expiry
	scanners *scanner.Watch // nil: they are not looked for
	metrics  *metrics
}

// New checks the configuration. It waits for no engine.
func New(ctx context.Context, config Config, where engines.Addresses, log *slog.Logger, registry prometheus.Registerer, health *admin.Health) (_ *Service, err error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	options, layout, err := where.ClickHouseOptions()
	if err != nil {
		return nil, err
	}
	options.ReadTimeout = 30 * time.Minute // closing a large day is one long statement
	s := &Service{config: config, where: where, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.columnar, err = clickhouse.Open(options); err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	if s.pool, err = where.OpenPostgres(ctx, 6); err != nil {
		return nil, err
	}
	s.tables = table.New(s.columnar, layout)
	if s.metrics, err = newMetrics(registry); err != nil {
		return nil, err
	}
	dayMetrics, err := day.NewMetrics(registry)
	if err != nil {
		return nil, err
	}
	counterMetrics, err := counters.NewMetrics(registry)
	if err != nil {
		return nil, err
	}
	completeMetrics, err := completeness.NewMetrics(registry)
	if err != nil {
		return nil, err
	}
	s.closer = day.NewCloser(s.tables, s.pool, day.Options{Grace: nonzero(config.Grace), CompareEvery: config.Compare}, dayMetrics, log)
	s.updater = counters.NewUpdater(s.tables, s.pool, counters.Options{OpenEvery: config.Sweep, Late: s.closer.Late, Backlog: s.closer.Backlog}, counterMetrics, log)
	s.complete = completeness.NewWatch(s.tables, s.pool, completeness.Options{SilentAfter: config.Silent, LostAfter: config.Lost}, completeMetrics, log)
	if config.Retention > 0 {
		s.expiry = retention.NewExpiry(s.tables, s.pool, s.closer, retention.Options{Days: config.Retention}, log)
	}
	if config.Scanners > 0 {
		scannerMetrics, err := scanner.NewMetrics(registry)
		if err != nil {
			return nil, err
		}
		s.scanners = scanner.NewWatch(s.tables, s.pool, scanner.Options{Every: config.Scanners}, scannerMetrics, log)
	}
	health.Add("postgres", s.pool.Ping)
	health.Add("clickhouse", s.columnar.Ping)
	return s, nil
}

// nonzero keeps a zero of the configuration from being taken for a default.
func nonzero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// Run works until ctx ends. Engines that are away are waited for.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	if !s.migrate(ctx) {
		return nil
	}
	jobs := []func(context.Context) error{s.count, s.closer.Run}
	if s.expiry != nil {
		jobs = append(jobs, s.expiry.Run)
	}
	if s.scanners != nil {
		jobs = append(jobs, s.scanners.Run)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(jobs))
	for _, job := range jobs {
		go func() {
			err := job(ctx)
			cancel() // one that ends by itself ends the others
			ended <- err
		}()
	}
	var all error
	for range jobs {
		all = errors.Join(all, <-ended)
	}
	return all
}

// migrate brings both schemas to the newest version, however long an engine stays away. It returns false if ctx ended first.
func (s *Service) migrate(ctx context.Context) bool {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := postgres.Migrate(ctx, s.where.Database)
		if err == nil {
			err = s.where.MigrateClickHouse(ctx)
		}
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			s.log.Warn("the schemas cannot be brought up to date yet", "error", err, "again_in", wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// count sets the counters and what is known of their completeness, a round each interval.
func (s *Service) count(ctx context.Context) error {
	tick := time.NewTicker(s.config.Interval)
	defer tick.Stop()
	failing := false
	for {
		began := time.Now()
		err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.metrics.round(began, err)
		switch {
		case err != nil && !failing:
			s.log.Warn("counters cannot be brought up to date now", "error", err)
		case err == nil && failing:
			s.log.Info("counters are up to date again")
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// round first asks up to when the events are complete in ClickHouse, and then brings the counters up to date. It tells what it was told only if
// the counters are proven to have all that was in ClickHouse before they began.
func (s *Service) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	late := s.closer.Busy()
	known, completeErr := s.complete.Compute(ctx)
	settled, err := s.updater.Round(ctx)
	if err != nil {
		return err
	}
	if completeErr != nil {
		return completeErr
	}
	if late || !settled || s.closer.Busy() {
		return nil // the counters lack something that ClickHouse has; what was told before still holds
	}
	return s.complete.Publish(ctx, known)
}

func (s *Service) close() {
	if s.pool != nil {
		s.pool.Close()
	}
	if s.columnar != nil {
		s.columnar.Close()
	}
}
