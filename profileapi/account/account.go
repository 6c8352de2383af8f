// Package account knows who asks: accounts and their bearer tokens.
//
// A token is "sw_" and 32 random bytes in base64url. Only its SHA-256 is stored, so whoever reads the database cannot use it; a
// slow hash is not needed because nobody can guess 256 random bits.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Scope is what a token may do. Each includes the ones before it.
type Scope string

// The scopes, from the least to the most.
const (
	Insights Scope = "insights" // see numbers
	Read     Scope = "read"     // see profiles, links and single events too
	Write    Scope = "write"    // change profiles and links too
	Admin    Scope = "admin"    // make and revoke tokens too
)

var order = [...]Scope{Insights, Read, Write, Admin}

// Includes says whether a token with s may do what needs other.
func (s Scope) Includes(other Scope) bool {
	return slices.Index(order[:], s) >= slices.Index(order[:], other)
}

// Valid says whether s is a scope.
func (s Scope) Valid() bool { return slices.Contains(order[:], s) }

// Token is a bearer token without its secret.
type Token struct {
	ID        int64
	AccountID int64
	Name      string
	Scopes    []Scope
	CreatedAt time.Time
	ExpiresAt *time.Time // nil: never
	RevokedAt *time.Time // nil: not revoked
}

// Identity is who a request speaks for.
type Identity struct {
	AccountID int64
	TokenID   int64
	Scopes    []Scope
	// Operator may make accounts.
	Operator bool
	// ProfileID is the only profile that it may see; zero: all of the account's.
	ProfileID int64
	key       string
}

// Key names the token, session or share that spoke, for counting its requests.
func (i Identity) Key() string { return i.key }

// May says whether the identity's token has a scope that includes what is needed.
func (i Identity) May(needed Scope) bool {
	return slices.ContainsFunc(i.Scopes, func(s Scope) bool { return s.Valid() && s.Includes(needed) })
}

var (
	// ErrUnknownToken means that a secret belongs to no token that is valid now.
	ErrUnknownToken = errors.New("unknown, expired or revoked token")
	// ErrNotFound means that the account has no such token.
	ErrNotFound = errors.New("no such token")
	// ErrEmailTaken means that an account with that address exists.
	ErrEmailTaken = errors.New("an account with this address exists")
)

// Store reads and writes accounts and tokens in Postgres.
type Store struct {
	pool   *pgxpool.Pool
	places chan struct{} // one for each password that may be hashed at once
	nobody string        // the hash that is checked for an address that nobody has
}

// NewStore returns a store on pool.
func NewStore(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool, places: make(chan struct{}, 4), nobody: hashPassword(NewSecret())}
}

// secretBytes is how much chance a token holds: 256 bits.
const secretBytes = 32

// SharePrefix begins the secrets of share links.
const SharePrefix = "sh_"

// NewSecret returns a fresh token.
func NewSecret() string { return newSecret("sw_") }

// NewShareSecret returns the secret of a new share link.
func NewShareSecret() string { return newSecret(SharePrefix) }

func newSecret(prefix string) string {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// Hash is what is stored of a secret.
func Hash(secret string) []byte { return hash(secret) }

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Authenticate returns who the secret speaks for, or ErrUnknownToken.
func (s *Store) Authenticate(ctx context.Context, secret string) (Identity, error) {
	if strings.HasPrefix(secret, SharePrefix) {
		return s.share(ctx, secret)
	}
	var who Identity
	err := s.pool.QueryRow(ctx, `
		SELECT t.account_id, t.id, t.scopes, a.admin FROM tokens t JOIN accounts a ON a.id = t.account_id
		WHERE t.hash = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())`,
		hash(secret)).Scan(&who.AccountID, &who.TokenID, &who.Scopes, &who.Operator)
	if errors.Is(err, pgx.ErrNoRows) {
		return Identity{}, ErrUnknownToken
	}
	if err != nil {
		return Identity{}, fmt.Errorf("look up token: %w", err)
	}
	who.key = "token " + strconv.FormatInt(who.TokenID, 10)
	return who, nil
}

// Create makes a token of an account and returns its secret, which is told only now. expires nil: it never expires.
func (s *Store) Create(ctx context.Context, accountID int64, name string, scopes []Scope, expires *time.Time) (Token, string, error) {
	secret := NewSecret()
	t := Token{AccountID: accountID, Name: name, Scopes: scopes, ExpiresAt: expires}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO tokens (account_id, name, hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5) RETURNING id, created_at`,
		accountID, name, hash(secret), scopes, expires).Scan(&t.ID, &t.CreatedAt)
	if err != nil {
		return Token{}, "", fmt.Errorf("create token: %w", err)
	}
	return t, secret, nil
}

// List returns an account's tokens that were not revoked, oldest first.
func (s *Store) List(ctx context.Context, accountID int64) ([]Token, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT id, account_id, name, scopes, created_at, expires_at, revoked_at FROM tokens
		WHERE account_id = $1 AND revoked_at IS NULL ORDER BY id`, accountID) // CollectRows tells of its error
	tokens, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Token])
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return tokens, nil
}

// Revoke ends a token of the account at once; ErrNotFound if there is none. Revoking again changes nothing.
func (s *Store) Revoke(ctx context.Context, accountID, tokenID int64) error {
	tag, err := s.pool.Exec(ctx, `
		UPDATE tokens SET revoked_at = coalesce(revoked_at, now()) WHERE account_id = $1 AND id = $2`, accountID, tokenID)
	if err != nil {
		return fmt.Errorf("revoke token %d: %w", tokenID, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}

// CreateAccount makes an account with a first token of scope admin, and returns its id and the token's secret. ErrEmailTaken if the
// address has an account already.
func (s *Store) CreateAccount(ctx context.Context, email string) (int64, string, error) {
	secret := NewSecret()
	var id int64
	err := s.pool.QueryRow(ctx, `
		WITH made AS (INSERT INTO accounts (email) VALUES ($1) RETURNING id)
		INSERT INTO tokens (account_id, name, hash, scopes) SELECT id, 'first', $2, $3 FROM made RETURNING account_id`,
		email, hash(secret), []Scope{Admin}).Scan(&id)
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.ConstraintName == "accounts_email_key" {
		return 0, "", ErrEmailTaken
	}
	if err != nil {
		return 0, "", fmt.Errorf("create account: %w", err)
	}
	return id, secret, nil
}

// operatorLock serializes EnsureAdminToken between processes; any number that nothing else locks.
const operatorLock = 0x5350_494c_4c41_4343

// EnsureAdminToken makes secret a token of scope admin of the operator's account, which it makes if there is none. It may be
// called at each start: a token that is there stays as it is, and one that was revoked stays revoked.
func EnsureAdminToken(ctx context.Context, pool *pgxpool.Pool, secret string) (accountID int64, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(operatorLock)); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT id FROM accounts WHERE admin ORDER BY id LIMIT 1`).Scan(&accountID)
		if errors.Is(err, pgx.ErrNoRows) {
			err = tx.QueryRow(ctx, `INSERT INTO accounts (admin) VALUES (true) RETURNING id`).Scan(&accountID)
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO tokens (account_id, name, hash, scopes) VALUES ($1, 'admin', $2, $3) ON CONFLICT (hash) DO NOTHING`,
			accountID, hash(secret), []Scope{Admin})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ensure the admin token: %w", err)
	}
	return accountID, nil
}
