// Package share lets somebody else see one profile's numbers: by an address that can be revoked and can expire.
package share

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/account"
)

// Share is one such address, without its secret.
type Share struct {
	ID        int64
	Name      string
	CreatedAt time.Time
	ExpiresAt *time.Time // nil: never
}

// MaxShares bounds how many a profile has at once.
const MaxShares = 100

var (
	// ErrNotFound means that the profile has no such share.
	ErrNotFound = errors.New("no such share")
	// ErrTooMany means that the profile has MaxShares already.
	ErrTooMany = errors.New("too many shares")
)

// Store keeps shares in Postgres. Whether the profile is the caller's is the caller's to check.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store on pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Create makes a share and returns its secret, which is told only now. expires nil: it does not.
func (s *Store) Create(ctx context.Context, profile int64, name string, expires *time.Time) (Share, string, error) {
	secret := account.NewShareSecret()
	made := Share{Name: name, ExpiresAt: expires}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO shares (profile_id, name, hash, expires_at)
		SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM shares WHERE profile_id = $1 AND revoked_at IS NULL) < $5 RETURNING id, created_at`,
		profile, name, account.Hash(secret), expires, MaxShares).Scan(&made.ID, &made.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Share{}, "", ErrTooMany
	}
	if err != nil {
		return Share{}, "", fmt.Errorf("share profile %d: %w", profile, err)
	}
	return made, secret, nil
}

// List returns the shares that were not revoked, oldest first.
func (s *Store) List(ctx context.Context, profile int64) ([]Share, error) {
	rows, _ := s.pool.Query(ctx, `SELECT id, name, created_at, expires_at FROM shares WHERE profile_id = $1 AND revoked_at IS NULL ORDER BY id`, profile) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Share])
	if err != nil {
		return nil, fmt.Errorf("list shares of profile %d: %w", profile, err)
	}
	return list, nil
}

// Revoke ends a share at once. Revoking it again changes nothing.
func (s *Store) Revoke(ctx context.Context, profile, id int64) error {
	tag, err := s.pool.Exec(ctx, `UPDATE shares SET revoked_at = coalesce(revoked_at, now()) WHERE profile_id = $1 AND id = $2`, profile, id)
	if err != nil {
		return fmt.Errorf("revoke share %d: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}
