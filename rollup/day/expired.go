package day

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/table"
)

// Expired are the months whose events were dropped, or are about to be.
type Expired map[time.Time]bool // first of the month, UTC

// Has says whether a date is in such a month.
func (e Expired) Has(d table.Date) bool {
	t := d.Time()
	return e[time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)]
}

// ReadExpired reads the list from Postgres.
func ReadExpired(ctx context.Context, pool *pgxpool.Pool) (Expired, error) {
	rows, err := pool.Query(ctx, "SELECT month FROM expired_months")
	if err != nil {
		return nil, fmt.Errorf("read expired months: %w", err)
	}
	e := Expired{}
	var month time.Time
	if _, err := pgx.ForEachRow(rows, []any{&month}, func() error { e[month] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read expired months: %w", err)
	}
	return e, nil
}
