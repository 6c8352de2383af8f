// Package annotation keeps notes beside the numbers: written by hand; by triggers of the database when the creator changed what is
// counted (schemas/postgres/migrations/0010_creators.sql); and by a Watch, about all profiles, when the rules of counting changed and
// where events are missing.
package annotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Kinds of notes that are not written by a trigger.
const (
	// Note was written by hand.
	Note = "note"
	// Gap is a time of which events are missing, of all profiles together.
	Gap = "gap"
	// Rules is when other rules began to decide what is counted.
	Rules = "rules"
)

// Annotation is one note.
type Annotation struct {
	ID    int64
	At    time.Time
	Until *time.Time // of what lasted; nil: it was a moment, or goes on
	Kind  string     // note, gap, rules, link-added, link-removed, link-target, link-title, link-hidden, link-shown, timezone, handle
	Link  *int64     // what it is about; nil: the profile
	Text  string
}

// Sentence says in words what happened.
func (a Annotation) Sentence() string {
	switch a.Kind {
	case "link-added":
		return "Link added: " + a.Text
	case "link-removed":
		return "Link removed: " + a.Text
	case "link-target":
		return "Link leads elsewhere: " + a.Text
	case "link-title":
		return "Link renamed: " + a.Text
	case "link-hidden":
		return "Link hidden: " + a.Text
	case "link-shown":
		return "Link shown again: " + a.Text
	case "timezone":
		return "Time zone changed: " + a.Text
	case "handle":
		return "Address changed: " + a.Text
	case Rules:
		return "What counts as a person is decided by other rules from here on: " + a.Text
	}
	return a.Text
}

// ErrNotFound means that the profile has no such note.
var ErrNotFound = errors.New("no such annotation")

// Store keeps annotations in Postgres. Whether the profile is the caller's is the caller's to check.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store on pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Create writes a note.
func (s *Store) Create(ctx context.Context, profile int64, at time.Time, link *int64, text string) (Annotation, error) {
	a := Annotation{At: at, Kind: Note, Link: link, Text: text}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO annotations (profile_id, at, kind, link_id, text)
		SELECT $1, $2, $3, $4, $5 WHERE $4::bigint IS NULL OR EXISTS (SELECT FROM links WHERE id = $4 AND profile_id = $1) RETURNING id`,
		profile, at, Note, link, text).Scan(&a.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Annotation{}, ErrNotFound
	}
	if err != nil {
		return Annotation{}, fmt.Errorf("annotate profile %d: %w", profile, err)
	}
	return a, nil
}

// List returns up to limit annotations of [from, to), the latest first, those before the id before if that is not zero: the profile's and,
// since it was made, those of all profiles.
func (s *Store) List(ctx context.Context, profile int64, from, to time.Time, before int64, limit int) ([]Annotation, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT id, at, until, kind, link_id, text FROM annotations
		WHERE (profile_id = $1 OR profile_id IS NULL AND coalesce(until, at) >= (SELECT created_at FROM profiles WHERE id = $1))
			AND (at >= $2 OR kind = $6 AND until >= $2) AND at < $3
			AND ($4 = 0 OR (at, id) < (SELECT at, id FROM annotations WHERE (profile_id = $1 OR profile_id IS NULL) AND id = $4))
		ORDER BY at DESC, id DESC LIMIT $5`, profile, from, to, before, limit, Gap) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Annotation])
	if err != nil {
		return nil, fmt.Errorf("list annotations of profile %d: %w", profile, err)
	}
	return list, nil
}

// Delete removes a note that was written by hand.
func (s *Store) Delete(ctx context.Context, profile, id int64) error {
	tag, err := s.pool.Exec(ctx, `DELETE FROM annotations WHERE profile_id = $1 AND id = $2 AND kind = $3`, profile, id, Note)
	if err != nil {
		return fmt.Errorf("delete annotation %d: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}
