// Package leader lets one process at a time do what is to be done once, however many run: held by a lock of the database, which goes
// with the connection, so that another one goes on when this one dies.
package leader

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Lock names what is done; any number that nothing else locks.
type Lock int64

// The locks.
const (
	Alerts      Lock = 0x5350_494c_4c41_4c52
	Annotations Lock = 0x5350_494c_4c41_4e4e
)

// Try calls work if no other process is at it, and holds the lock meanwhile. work uses connections of its own.
func Try(ctx context.Context, pool *pgxpool.Pool, lock Lock, work func(context.Context) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, int64(lock)).Scan(&mine); err != nil {
			return fmt.Errorf("ask who leads: %w", err)
		}
		if !mine {
			return nil
		}
		return work(ctx)
	})
}

// Every tries at once and then at each interval until ctx ends. A failure is logged and tried again.
func Every(ctx context.Context, interval time.Duration, pool *pgxpool.Pool, lock Lock, log *slog.Logger, work func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := Try(ctx, pool, lock, work); err != nil && ctx.Err() == nil {
			log.Warn("this could not be done now, and is tried again", "error", err, "again_in", interval)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
