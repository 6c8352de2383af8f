package profile

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Store reads and writes profiles and links in Postgres. Whoever asks names the account: what belongs to another is ErrNotFound,
// so that nobody learns what exists.
type Store struct {
	pool  *pgxpool.Pool
	rules Rules
}

// NewStore returns a store on pool that checks inputs by rules.
func NewStore(pool *pgxpool.Pool, rules Rules) *Store { return &Store{pool: pool, rules: rules} }

const columns = `id, handle, title, bio, timezone, theme, layout, created_at, updated_at`

// touched is what each change sets. The clock may go back; a version may not.
const touched = `updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')`

func scan(row pgx.Row) (Profile, error) {
	var p Profile
	err := row.Scan(&p.ID, &p.Handle, &p.Title, &p.Bio, &p.Timezone, &p.Theme, &p.Layout, &p.CreatedAt, &p.UpdatedAt)
	return p, translated(err)
}

// translated turns what Postgres says into this package's errors.
func translated(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) && e.ConstraintName == "profiles_handle" {
		return ErrHandleTaken
	}
	return err
}

// Version names what was seen of a profile: it differs whenever anything of it, or of its links, does.
func (p Profile) Version() string {
	return strconv.FormatInt(p.UpdatedAt.UnixMicro(), 36) + "-" + strconv.Itoa(int(p.Layout))
}

// Version names what was seen of a link.
func (l Link) Version() string { return strconv.FormatInt(l.UpdatedAt.UnixMicro(), 36) }

// check applies the rules to the fields that are set and writes them as they are stored.
func (r Rules) check(c *Change) error {
	if c.Handle != nil {
		if err := r.Handle(*c.Handle); err != nil {
			return err
		}
	}
	if c.Title != nil {
		title, err := r.Title(*c.Title)
		if err != nil {
			return err
		}
		c.Title = &title
	}
	if c.Bio != nil {
		bio, err := r.Bio(*c.Bio)
		if err != nil {
			return err
		}
		c.Bio = &bio
	}
	if c.Timezone != nil {
		if err := r.Timezone(*c.Timezone); err != nil {
			return err
		}
	}
	if c.Theme != nil {
		return r.Theme(*c.Theme)
	}
	return nil
}

// Create makes a profile. Handle and Title must be set; the rest has defaults.
func (s *Store) Create(ctx context.Context, account int64, c Change) (Profile, error) {
	if err := s.rules.check(&c); err != nil {
		return Profile{}, err
	}
	var p Profile
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		// The account's row is the lock under which its profiles are counted.
		var have int
		if err := tx.QueryRow(ctx, `SELECT id FROM accounts WHERE id = $1 FOR UPDATE`, account).Scan(new(int64)); err != nil {
			return translated(err)
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM profiles WHERE account_id = $1 AND deleted_at IS NULL`, account).Scan(&have); err != nil {
			return err
		}
		if have >= MaxProfiles {
			return fmt.Errorf("%w: an account has at most %d profiles", ErrTooMany, MaxProfiles)
		}
		var err error
		p, err = scan(tx.QueryRow(ctx, `
			INSERT INTO profiles (account_id, handle, title, bio, timezone, theme)
			VALUES ($1, $2, $3, coalesce($4, ''), coalesce($5, 'UTC'), coalesce($6, 'auto')) RETURNING `+columns,
			account, c.Handle, c.Title, c.Bio, c.Timezone, c.Theme))
		return err
	})
	if err != nil {
		return Profile{}, fmt.Errorf("create profile: %w", err)
	}
	return p, nil
}

// Get returns a profile of the account.
func (s *Store) Get(ctx context.Context, account, id int64) (Profile, error) {
	p, err := scan(s.pool.QueryRow(ctx, `SELECT `+columns+` FROM profiles WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL`, id, account))
	if err != nil {
		return Profile{}, fmt.Errorf("read profile %d: %w", id, err)
	}
	return p, nil
}

// ByHandle returns the living profile with a handle, whosever it is. For pages that anybody may see.
func (s *Store) ByHandle(ctx context.Context, handle string) (Profile, error) {
	p, err := scan(s.pool.QueryRow(ctx, `SELECT `+columns+` FROM profiles WHERE handle = $1 AND deleted_at IS NULL`, handle))
	if err != nil {
		return Profile{}, fmt.Errorf("read profile %q: %w", handle, err)
	}
	return p, nil
}

// List returns up to limit profiles of the account with an id above after, in the order of their ids.
func (s *Store) List(ctx context.Context, account, after int64, limit int) ([]Profile, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+columns+` FROM profiles WHERE account_id = $1 AND id > $2 AND deleted_at IS NULL ORDER BY id LIMIT $3`, account, after, limit) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Profile, error) { return scan(row) })
	if err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	return list, nil
}

// Update changes a profile. versions are those that the caller accepts to change; none: any. Else ErrChanged.
func (s *Store) Update(ctx context.Context, account, id int64, c Change, versions []string) (Profile, error) {
	if err := s.rules.check(&c); err != nil {
		return Profile{}, err
	}
	var p Profile
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		seen, err := locked(ctx, tx, account, id)
		if err != nil {
			return err
		}
		if !accepts(versions, seen.Version()) {
			return ErrChanged
		}
		// Nothing to change: the version stays, and no redirector is told.
		p, err = scan(tx.QueryRow(ctx, `
			UPDATE profiles SET handle = coalesce($2, handle), title = coalesce($3, title), bio = coalesce($4, bio),
				timezone = coalesce($5, timezone), theme = coalesce($6, theme), layout = layout + 1, `+touched+`
			WHERE id = $1 AND (handle, title, bio, timezone, theme) IS DISTINCT FROM
				(coalesce($2, handle), coalesce($3, title), coalesce($4, bio), coalesce($5, timezone), coalesce($6, theme))
			RETURNING `+columns, id, c.Handle, c.Title, c.Bio, c.Timezone, c.Theme))
		if errors.Is(err, ErrNotFound) {
			p, err = seen, nil
		}
		return err
	})
	if err != nil {
		return Profile{}, fmt.Errorf("change profile %d: %w", id, err)
	}
	return p, nil
}

// Delete removes a profile and its links; their codes are never given away again. Its numbers are kept.
func (s *Store) Delete(ctx context.Context, account, id int64, versions []string) error {
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		seen, err := locked(ctx, tx, account, id)
		if err != nil {
			return err
		}
		if !accepts(versions, seen.Version()) {
			return ErrChanged
		}
		// The profile first: its trigger tells the redirectors the codes of its living links.
		if _, err := tx.Exec(ctx, `UPDATE profiles SET deleted_at = now(), `+touched+` WHERE id = $1`, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE links SET deleted_at = now() WHERE profile_id = $1 AND deleted_at IS NULL`, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete profile %d: %w", id, err)
	}
	return nil
}

// locked reads a profile of the account and keeps others from changing it, or its links, until tx ends.
func locked(ctx context.Context, tx pgx.Tx, account, id int64) (Profile, error) {
	return scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM profiles WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL FOR UPDATE`, id, account))
}

func accepts(versions []string, version string) bool {
	if len(versions) == 0 {
		return true
	}
	for _, v := range versions {
		if v == version || v == "*" {
			return true
		}
	}
	return false
}

// raise gives the page a new version after a change of its links.
func raise(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := tx.Exec(ctx, `UPDATE profiles SET layout = layout + 1 WHERE id = $1`, id)
	return err
}

// Title returns the title of a profile, whoever it belongs to, also of one that was deleted. ErrNotFound if there never was one.
func (s *Store) Title(ctx context.Context, id int64) (title string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT title FROM profiles WHERE id = $1`, id).Scan(&title)
	return title, translated(err)
}

// Own returns the account's living profile with a handle.
func (s *Store) Own(ctx context.Context, account int64, handle string) (Profile, error) {
	p, err := scan(s.pool.QueryRow(ctx, `SELECT `+columns+` FROM profiles WHERE handle = $1 AND account_id = $2 AND deleted_at IS NULL`, handle, account))
	if err != nil {
		return Profile{}, fmt.Errorf("read profile %q: %w", handle, err)
	}
	return p, nil
}
