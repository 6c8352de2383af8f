package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/crypto/argon2"
)

// Parameters of Argon2id: the second of OWASP's recommended sets (Password Storage Cheat Sheet), 19 MiB and two passes.
const (
	argonMemory  = 19 * 1024 // KiB
	argonPasses  = 2
	argonThreads = 1
	saltBytes    = 16
	keyBytes     = 32
)

// Limits of a password, in characters and bytes. There are no rules of what it must contain (NIST SP 800-63B).
const (
	MinPassword = 10
	MaxPassword = 256
)

var (
	// ErrWeakPassword means that a password is too short or too long.
	ErrWeakPassword = fmt.Errorf("a password has at least %d characters and at most %d bytes", MinPassword, MaxPassword)
	// ErrWrongPassword means that no account has that address and password.
	ErrWrongPassword = errors.New("no account has this address and password")
	// ErrBadEmail means that an address is none.
	ErrBadEmail = errors.New("this is not an e-mail address")
)

// hashPassword returns the password's hash in the PHC string format.
func hashPassword(password string) string {
	var salt [saltBytes]byte
	rand.Read(salt[:])
	key := argon2.IDKey([]byte(password), salt[:], argonPasses, argonMemory, argonThreads, keyBytes)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonPasses, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt[:]), base64.RawStdEncoding.EncodeToString(key))
}

// checkPassword says whether the password has that hash. A hash made with other parameters is checked with those.
func checkPassword(hash, password string) bool {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	var version int
	var memory, passes uint32
	var threads uint8
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads); err != nil || version != argon2.Version || threads == 0 || passes == 0 {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false
	}
	key, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(key) == 0 {
		return false
	}
	return subtle.ConstantTimeCompare(key, argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(key)))) == 1
}

// Email returns an address as it is stored: trimmed and in lower case.
func Email(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	name, host, ok := strings.Cut(s, "@")
	if !ok || name == "" || len(s) > 254 || !utf8.ValidString(s) || strings.ContainsAny(s, " \t\r\n<>\"(),;:\\") || strings.Contains(host, "@") ||
		!strings.Contains(host, ".") && host != "localhost" || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") {
		return "", ErrBadEmail
	}
	return s, nil
}

// hashing lets only some passwords be hashed at once: each takes 19 MiB and tens of milliseconds.
func (s *Store) hashing(ctx context.Context) (done func(), err error) {
	select {
	case s.places <- struct{}{}:
		return func() { <-s.places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// SignUp makes an account with a password. ErrBadEmail, ErrWeakPassword, ErrEmailTaken.
func (s *Store) SignUp(ctx context.Context, email, password string) (int64, error) {
	email, err := Email(email)
	if err != nil {
		return 0, err
	}
	if utf8.RuneCountInString(password) < MinPassword || len(password) > MaxPassword || !utf8.ValidString(password) {
		return 0, ErrWeakPassword
	}
	done, err := s.hashing(ctx)
	if err != nil {
		return 0, err
	}
	hash := hashPassword(password)
	done()
	var id int64
	err = s.pool.QueryRow(ctx, `INSERT INTO accounts (email, password_hash) VALUES ($1, $2) RETURNING id`, email, hash).Scan(&id)
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) && e.ConstraintName == "accounts_email_key" {
		return 0, ErrEmailTaken
	}
	if err != nil {
		return 0, fmt.Errorf("create account: %w", err)
	}
	return id, nil
}

// SignIn returns the account with that address and password, or ErrWrongPassword. It takes as long for an address that nobody has.
func (s *Store) SignIn(ctx context.Context, email, password string) (int64, error) {
	if len(password) > MaxPassword {
		return 0, ErrWrongPassword
	}
	email, err := Email(email)
	if err != nil {
		email = ""
	}
	var id int64
	var hash *string
	err = s.pool.QueryRow(ctx, `SELECT id, password_hash FROM accounts WHERE email = $1`, email).Scan(&id, &hash)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("look up account: %w", err)
	}
	if hash == nil {
		hash = &s.nobody
	}
	done, err := s.hashing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if !checkPassword(*hash, password) || hash == &s.nobody {
		return 0, ErrWrongPassword
	}
	return id, nil
}
