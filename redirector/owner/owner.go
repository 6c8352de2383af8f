// Package owner knows a creator's own browser, so that creators do not count among their own visitors.
//
// A creator's dashboard leads to the profile's page with a token in the parameter sw_owner. If the token is good, the page sets it
// as a cookie, the only one there is, and only in that browser. Later visits of the profile and its links with that cookie are of class
// owner.
//
// A token is "1.PROFILE.EXPIRES.MAC": the profile's id and a Unix time in seconds, both decimal, and the HMAC-SHA256, in base64url
// without padding, of "spillway owner 1.PROFILE.EXPIRES" keyed by the secret "owner" of the table secrets (32 random bytes, made
// by whoever needs them first).
package owner

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// SecretName is the key's name in the table secrets.
const SecretName = "owner"

// CookiePrefix begins the cookie's name; the profile's id follows.
const CookiePrefix = "sw_owner_"

// Longest is the greatest length of a token, in bytes.
const Longest = 2 + 21 + 21 + 43

const (
	version      = "1."
	domain       = "spillway owner "
	retry        = 2 * time.Second
	queryTimeout = 2 * time.Second
)

// Sign returns the token that makes a browser the owner's until expires, to the second.
func Sign(key []byte, profile uint64, expires time.Time) string {
	claim := strconv.AppendUint([]byte(version), profile, 10)
	claim = append(claim, '.')
	claim = strconv.AppendInt(claim, expires.Unix(), 10)
	return string(claim) + "." + mac(key, claim)
}

func mac(key, claim []byte) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(domain))
	h.Write(claim)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

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

func (k *Keys) fetch(ctx context.Context) (key []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	made := make([]byte, 32)
	rand.Read(made) // never fails
	if _, err := k.pool.Exec(ctx, `INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, SecretName, made); err != nil {
		return nil, fmt.Errorf("make secret %s: %w", SecretName, err)
	}
	if err := k.pool.QueryRow(ctx, `SELECT value FROM secrets WHERE name = $1`, SecretName).Scan(&key); err != nil {
		return nil, fmt.Errorf("read secret %s: %w", SecretName, err)
	}
	return key, nil
}

// Owns tells whether a token is good for a profile at a time, and until when.
func (k *Keys) Owns(token []byte, profile uint64, now time.Time) (expires time.Time, ok bool) {
	key := k.key.Load()
	if key == nil || len(token) > Longest || !bytes.HasPrefix(token, []byte(version)) {
		return time.Time{}, false
	}
	end := bytes.LastIndexByte(token, '.')
	claim, signature := token[:end], token[end+1:]
	if !hmac.Equal(signature, []byte(mac(*key, claim))) {
		return time.Time{}, false
	}
	// What is signed has been written by Sign.
	id, until, _ := bytes.Cut(claim[len(version):], []byte{'.'})
	signed, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil || signed != profile {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(string(until), 10, 64)
	if err != nil || seconds <= now.Unix() {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0), true
}
