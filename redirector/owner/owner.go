// Package owner knows a creator's own browser, by the tokens of schemas/ownertoken, so that creators do not count among their own
// visitors.
package owner

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/schemas/ownertoken"
	"spillway.dev/schemas/postgres"
)

// CookiePrefix begins the cookie's name; the profile's id follows.
const CookiePrefix = ownertoken.CookiePrefix

const (
	retry        = 2 * time.Second
	queryTimeout = 2 * time.Second
)

// Keys checks tokens.
type Keys struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	key  atomic.Pointer[[]byte]
}

// NewKeys returns keys that know no token until Run has fetched the key.
func NewKeys(pool *pgxpool.Pool, log *slog.Logger) *Keys { return &Keys{pool: pool, log: log} }

// Run fetches the key; while PostgreSQL is away it tries again until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	for told := false; ; told = true {
		key, err := k.fetch(ctx)
		if err == nil {
			k.key.Store(&key)
			<-ctx.Done()
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told {
			k.log.Debug("creators' own visits are not told apart yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

func (k *Keys) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return postgres.Secret(ctx, k.pool, ownertoken.Secret)
}

// Owns tells whether a cookie's token makes a visit of the profile its owner's.
func (k *Keys) Owns(token []byte, profile uint64, now time.Time) bool {
	key := k.key.Load()
	if key == nil {
		return false
	}
	purpose, _, ok := ownertoken.Check(*key, token, profile, now)
	return ok && purpose == ownertoken.Browser
}

// Claim tells what becomes of the cookie of a browser that brought a token of the dashboard: it holds cookie until expires, or, if
// cookie is empty, is taken away. It is ok only if the token is good.
func (k *Keys) Claim(token []byte, profile uint64, now time.Time) (cookie string, expires time.Time, ok bool) {
	key := k.key.Load()
	if key == nil {
		return "", time.Time{}, false
	}
	purpose, _, ok := ownertoken.Check(*key, token, profile, now)
	switch {
	case ok && purpose == ownertoken.Claim:
		expires = now.Add(ownertoken.BrowserTime)
		return ownertoken.Sign(*key, ownertoken.Browser, profile, expires), expires, true
	case ok && purpose == ownertoken.Release:
		return "", time.Time{}, true
	}
	return "", time.Time{}, false
}
