package profile

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// transact runs f in a transaction, and once more if PostgreSQL took it back to let others go on: after a deadlock, as with a
// migration by a newer version, or a conflict between serializable transactions. f must not build on what its first run left behind.
func transact(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, pool, f)
	var e *pgconn.PgError
	if errors.As(err, &e) && (e.Code == "40P01" || e.Code == "40001") {
		err = pgx.BeginFunc(ctx, pool, f)
	}
	return err
}
