package profile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/jackc/pgx/v5"
)

// alphabet has no characters that are taken for one another when they are read from paper: no 0 O, 1 l I, o.
const alphabet = "23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"

// codeLength gives 56^7 = 1.7e12 codes: with a hundred million links a random code is free in all but 1 of 17 000 tries, and nobody
// finds links by trying.
const codeLength = 7

func newCode() string {
	code := make([]byte, codeLength)
	for i := range code {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			panic("BUG: crypto/rand failed: " + err.Error()) // documented never to fail
		}
		code[i] = alphabet[n.Int64()]
	}
	return string(code)
}

const linkColumns = `id, profile_id, code, title, url, position, hidden, query_mode, utm_source, utm_medium, utm_campaign, utm_term, utm_content,
	created_at, updated_at`

func scanLink(row pgx.Row) (Link, error) {
	var l Link
	err := row.Scan(&l.ID, &l.ProfileID, &l.Code, &l.Title, &l.URL, &l.Position, &l.Hidden, &l.QueryMode,
		&l.UTM.Source, &l.UTM.Medium, &l.UTM.Campaign, &l.UTM.Term, &l.UTM.Content, &l.CreatedAt, &l.UpdatedAt)
	return l, translated(err)
}

func (r Rules) checkLink(c *LinkChange) error {
	if c.Title != nil {
		title, err := r.Title(*c.Title)
		if err != nil {
			return err
		}
		c.Title = &title
	}
	if c.URL != nil {
		target, err := r.Target(*c.URL)
		if err != nil {
			return err
		}
		c.URL = &target
	}
	if c.QueryMode != nil {
		if err := r.QueryMode(*c.QueryMode); err != nil {
			return err
		}
	}
	if c.UTM != nil {
		return r.UTM(*c.UTM)
	}
	return nil
}

// CreateLink adds a link at the end of a profile. Title and URL must be set; the rest has defaults.
func (s *Store) CreateLink(ctx context.Context, account, id int64, c LinkChange) (Link, error) {
	if err := s.rules.checkLink(&c); err != nil {
		return Link{}, err
	}
	var utm UTM
	if c.UTM != nil {
		utm = *c.UTM
	}
	var l Link
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := locked(ctx, tx, account, id); err != nil {
			return err
		}
		var have, next int32
		if err := tx.QueryRow(ctx, `SELECT count(*), coalesce(max(position) + 1, 0) FROM links WHERE profile_id = $1 AND deleted_at IS NULL`,
			id).Scan(&have, &next); err != nil {
			return err
		}
		if have >= MaxLinks {
			return fmt.Errorf("%w: a profile has at most %d links", ErrTooMany, MaxLinks)
		}
		for try := 1; ; try++ {
			var err error
			// DO NOTHING, so that a code that is taken does not spoil the transaction.
			l, err = scanLink(tx.QueryRow(ctx, `
				INSERT INTO links (profile_id, code, title, url, position, hidden, query_mode, utm_source, utm_medium, utm_campaign, utm_term, utm_content)
				VALUES ($1, $2, $3, $4, $5, coalesce($6, false), coalesce($7, 'off'), $8, $9, $10, $11, $12)
				ON CONFLICT (host, code) DO NOTHING RETURNING `+linkColumns,
				id, newCode(), c.Title, c.URL, next, c.Hidden, c.QueryMode, utm.Source, utm.Medium, utm.Campaign, utm.Term, utm.Content))
			if err == nil {
				return raise(ctx, tx, id)
			}
			if !errors.Is(err, ErrNotFound) || try == 10 {
				return err
			}
		}
	})
	if err != nil {
		return Link{}, fmt.Errorf("create link of profile %d: %w", id, err)
	}
	return l, nil
}

// Links returns a profile's links in the order of the page.
func (s *Store) Links(ctx context.Context, account, id int64) ([]Link, error) {
	if _, err := s.Get(ctx, account, id); err != nil {
		return nil, err
	}
	rows, _ := s.pool.Query(ctx, `SELECT `+linkColumns+` FROM links WHERE profile_id = $1 AND deleted_at IS NULL ORDER BY position, id`, id) // CollectRows tells of its error
	links, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Link, error) { return scanLink(row) })
	if err != nil {
		return nil, fmt.Errorf("list links of profile %d: %w", id, err)
	}
	return links, nil
}

// Titles returns the titles of a profile's links, whoever it belongs to, also of those that were deleted, by id.
func (s *Store) Titles(ctx context.Context, id int64) (map[int64]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, title FROM links WHERE profile_id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("list titles of links of profile %d: %w", id, err)
	}
	titles := map[int64]string{}
	var link int64
	var title string
	if _, err := pgx.ForEachRow(rows, []any{&link, &title}, func() error { titles[link] = title; return nil }); err != nil {
		return nil, fmt.Errorf("list titles of links of profile %d: %w", id, err)
	}
	return titles, nil
}

// Link returns one link.
func (s *Store) Link(ctx context.Context, account, id, link int64) (Link, error) {
	l, err := scanLink(s.pool.QueryRow(ctx, `
		SELECT `+linkColumns+` FROM links WHERE id = $1 AND profile_id = $2 AND deleted_at IS NULL
		AND EXISTS (SELECT FROM profiles WHERE id = $2 AND account_id = $3 AND deleted_at IS NULL)`, link, id, account))
	if err != nil {
		return Link{}, fmt.Errorf("read link %d: %w", link, err)
	}
	return l, nil
}

// UpdateLink changes a link. versions as in Update.
func (s *Store) UpdateLink(ctx context.Context, account, id, link int64, c LinkChange, versions []string) (Link, error) {
	if err := s.rules.checkLink(&c); err != nil {
		return Link{}, err
	}
	var l Link
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		seen, err := lockedLink(ctx, tx, account, id, link)
		if err != nil {
			return err
		}
		if !accepts(versions, seen.Version()) {
			return ErrChanged
		}
		l = seen
		set(&l.Title, c.Title)
		set(&l.URL, c.URL)
		set(&l.Hidden, c.Hidden)
		set(&l.QueryMode, c.QueryMode)
		set(&l.UTM, c.UTM)
		if l == seen {
			return nil
		}
		l, err = scanLink(tx.QueryRow(ctx, `
			UPDATE links SET title = $2, url = $3, hidden = $4, query_mode = $5, utm_source = $6, utm_medium = $7, utm_campaign = $8,
				utm_term = $9, utm_content = $10, `+touched+` WHERE id = $1 RETURNING `+linkColumns,
			link, l.Title, l.URL, l.Hidden, l.QueryMode, l.UTM.Source, l.UTM.Medium, l.UTM.Campaign, l.UTM.Term, l.UTM.Content))
		if err != nil {
			return err
		}
		return raise(ctx, tx, id)
	})
	if err != nil {
		return Link{}, fmt.Errorf("change link %d: %w", link, err)
	}
	return l, nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// DeleteLink removes a link; its code is never given away again. Its numbers are kept.
func (s *Store) DeleteLink(ctx context.Context, account, id, link int64, versions []string) error {
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		seen, err := lockedLink(ctx, tx, account, id, link)
		if err != nil {
			return err
		}
		if !accepts(versions, seen.Version()) {
			return ErrChanged
		}
		if _, err := tx.Exec(ctx, `UPDATE links SET deleted_at = now(), `+touched+` WHERE id = $1`, link); err != nil {
			return err
		}
		return raise(ctx, tx, id)
	})
	if err != nil {
		return fmt.Errorf("delete link %d: %w", link, err)
	}
	return nil
}

func lockedLink(ctx context.Context, tx pgx.Tx, account, id, link int64) (Link, error) {
	if _, err := locked(ctx, tx, account, id); err != nil {
		return Link{}, err
	}
	return scanLink(tx.QueryRow(ctx, `SELECT `+linkColumns+` FROM links WHERE id = $1 AND profile_id = $2 AND deleted_at IS NULL`, link, id))
}

// Reorder puts a profile's links into the given order, which must name each of them once.
func (s *Store) Reorder(ctx context.Context, account, id int64, order []int64) ([]Link, error) {
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := locked(ctx, tx, account, id); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `SELECT id FROM links WHERE profile_id = $1 AND deleted_at IS NULL ORDER BY position, id`, id) // CollectRows tells of its error
		have, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if !slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(order))) {
			return &Invalid{Field: "links", Message: "name each link of the profile once"}
		}
		if slices.Equal(have, order) {
			return nil
		}
		if _, err := tx.Exec(ctx, `
			UPDATE links SET position = o.position - 1, `+touched+`
			FROM unnest($1::bigint[]) WITH ORDINALITY AS o (id, position) WHERE links.id = o.id AND links.position <> o.position - 1`, order); err != nil {
			return err
		}
		return raise(ctx, tx, id)
	})
	if err != nil {
		return nil, fmt.Errorf("order links of profile %d: %w", id, err)
	}
	return s.Links(ctx, account, id)
}
