package rollup

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
	"spillway.dev/rollup/verdict"
	"spillway.dev/service/engines"
)

// closePatience is how long ApplyRules waits for the days that it has to be closed again.
const closePatience = 30 * time.Minute

// TryRules says what would become of some dates' events if they were judged by the law, and changes nothing. At most most profiles are in
// the answer.
func TryRules(ctx context.Context, where engines.Addresses, law verdict.Law, dates verdict.Range, most int) (trial *verdict.Trial, err error) {
	err = withEngines(ctx, where, func(t *table.Tables, pool *pgxpool.Pool) error {
		trial, err = verdict.Try(ctx, t, pool, law, dates, most)
		return err
	})
	return trial, err
}

// ApplyRules judges some dates' events by the law and closes their days again. It may be repeated, also after it was killed.
func ApplyRules(ctx context.Context, where engines.Addresses, law verdict.Law, dates verdict.Range, log *slog.Logger) (done verdict.Applied, err error) {
	err = withEngines(ctx, where, func(t *table.Tables, pool *pgxpool.Pool) error {
		unseen, err := day.NewMetrics(prometheus.NewRegistry())
		if err != nil {
			return err
		}
		if done, err = verdict.NewChanger(t, pool).Apply(ctx, law, dates); err != nil {
			return err
		}
		var all []table.Date
		for d := dates.Since; d <= dates.Until; d++ {
			all = append(all, d) // also what an earlier one, which was killed, had marked
		}
		return verdict.CloseAgain(ctx, t, day.NewCloser(t, pool, day.Options{}, unseen, log), all, closePatience)
	})
	return done, err
}

// withEngines opens both databases for the time of work.
func withEngines(ctx context.Context, where engines.Addresses, work func(*table.Tables, *pgxpool.Pool) error) error {
	options, layout, err := where.ClickHouseOptions()
	if err != nil {
		return err
	}
	options.ReadTimeout = time.Hour // changing a month is one long statement
	columnar, err := clickhouse.Open(options)
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	defer columnar.Close()
	pool, err := where.OpenPostgres(ctx, 3)
	if err != nil {
		return err
	}
	defer pool.Close()
	return work(table.New(columnar, layout), pool)
}
