package postgres

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier runs statements: a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, arguments ...any) pgx.Row
}

// Secret returns a random key of this installation, 32 bytes of the table secrets. Whoever asks for a name first makes its key.
func Secret(ctx context.Context, db Querier, name string) (key []byte, err error) {
	made := make([]byte, 32)
	rand.Read(made) // never fails
	if _, err := db.Exec(ctx, `INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, name, made); err != nil {
		return nil, fmt.Errorf("make secret %s: %w", name, err)
	}
	if err := db.QueryRow(ctx, `SELECT value FROM secrets WHERE name = $1`, name).Scan(&key); err != nil {
		return nil, fmt.Errorf("read secret %s: %w", name, err)
	}
	return key, nil
}
