package account

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// SessionTime is how long a browser stays signed in.
const SessionTime = 30 * 24 * time.Hour

// OpenSession signs a browser in and returns its cookie's value.
func (s *Store) OpenSession(ctx context.Context, account int64) (string, error) {
	var b [secretBytes]byte
	rand.Read(b[:])
	secret := base64.RawURLEncoding.EncodeToString(b[:])
	// What has expired is removed by whoever comes next, a bounded number at a time.
	_, err := s.pool.Exec(ctx, `
		WITH swept AS (DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions WHERE expires_at < now() LIMIT 100))
		INSERT INTO sessions (hash, account_id, expires_at) VALUES ($1, $2, now() + $3)`, hash(secret), account, SessionTime)
	if err != nil {
		return "", fmt.Errorf("open session: %w", err)
	}
	return secret, nil
}

// Session returns who a signed-in browser speaks for, or ErrUnknownToken.
func (s *Store) Session(ctx context.Context, secret string) (Identity, error) {
	who := Identity{Scopes: []Scope{Admin}, key: "session " + secret}
	if len(secret) > 100 {
		return Identity{}, ErrUnknownToken
	}
	err := s.pool.QueryRow(ctx, `
		SELECT s.account_id, a.admin FROM sessions s JOIN accounts a ON a.id = s.account_id
		WHERE s.hash = $1 AND s.expires_at > now()`, hash(secret)).Scan(&who.AccountID, &who.Operator)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, ErrUnknownToken
	}
	if err != nil {
		return Identity{}, fmt.Errorf("look up session: %w", err)
	}
	return who, nil
}

// CloseSession signs a browser out. A session that is not there is closed already.
func (s *Store) CloseSession(ctx context.Context, secret string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM sessions WHERE hash = $1`, hash(secret)); err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	return nil
}

// share returns who the holder of a share link is: one who may see one profile's numbers.
func (s *Store) share(ctx context.Context, secret string) (Identity, error) {
	who := Identity{Scopes: []Scope{Insights}, key: "share " + secret}
	err := s.pool.QueryRow(ctx, `
		SELECT p.account_id, p.id FROM shares s JOIN profiles p ON p.id = s.profile_id
		WHERE s.hash = $1 AND s.revoked_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > now()) AND p.deleted_at IS NULL`,
		hash(secret)).Scan(&who.AccountID, &who.ProfileID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, ErrUnknownToken
	}
	if err != nil {
		return Identity{}, fmt.Errorf("look up share: %w", err)
	}
	return who, nil
}
