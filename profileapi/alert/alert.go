// Package alert tells creators what they would want to know at once: a spike, a drop, a milestone of a profile. An alert appears on
// the dashboard and goes, signed, to the profile's webhooks. One process at a time works, held by a lock of the database.
package alert

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The kinds of alerts.
const (
	Milestone = "milestone"
	Spike     = "spike"
	Drop      = "drop"
)

// Alert is one thing that a creator is told.
type Alert struct {
	ID      int64
	Kind    string
	Text    string
	Details json.RawMessage
	At      time.Time
}

// Webhook is where a profile's alerts are sent.
type Webhook struct {
	ID        int64
	URL       string
	CreatedAt time.Time
}

// Delivery is one alert on its way to one webhook.
type Delivery struct {
	ID          int64
	AlertID     int64
	Attempts    int32
	NextAt      *time.Time // nil: delivered, or given up
	DeliveredAt *time.Time
	Status      *int32 // of the last answer; nil: none came
	Error       string // of the last try
}

// MaxWebhooks bounds how many a profile has.
const MaxWebhooks = 5

var (
	// ErrNotFound means that the profile has no such webhook or delivery.
	ErrNotFound = errors.New("no such webhook or delivery")
	// ErrTooMany means that the profile has MaxWebhooks already.
	ErrTooMany = errors.New("too many webhooks")
)

// Store keeps alerts in Postgres. Whether the profile is the caller's is the caller's to check.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store on pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// List returns up to limit alerts, the latest first, those before the id before if that is not zero.
func (s *Store) List(ctx context.Context, profile, before int64, limit int) ([]Alert, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, kind, text, details, at FROM alerts WHERE profile_id = $1 AND ($2 = 0 OR id < $2) ORDER BY id DESC LIMIT $3`, profile, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list alerts of profile %d: %w", profile, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Alert])
	if err != nil {
		return nil, fmt.Errorf("list alerts of profile %d: %w", profile, err)
	}
	return list, nil
}

// AddWebhook makes a webhook and returns the secret that signs what is sent to it. The URL was checked.
func (s *Store) AddWebhook(ctx context.Context, profile int64, url string) (Webhook, string, error) {
	var b [32]byte
	rand.Read(b[:])
	secret := "wh_" + hex.EncodeToString(b[:])
	w := Webhook{URL: url}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO webhooks (profile_id, url, secret)
		SELECT $1, $2, $3 WHERE (SELECT count(*) FROM webhooks WHERE profile_id = $1 AND deleted_at IS NULL) < $4 RETURNING id, created_at`,
		profile, url, secret, MaxWebhooks).Scan(&w.ID, &w.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Webhook{}, "", ErrTooMany
	}
	if err != nil {
		return Webhook{}, "", fmt.Errorf("add webhook of profile %d: %w", profile, err)
	}
	return w, secret, nil
}

// Webhooks lists a profile's webhooks.
func (s *Store) Webhooks(ctx context.Context, profile int64) ([]Webhook, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, url, created_at FROM webhooks WHERE profile_id = $1 AND deleted_at IS NULL ORDER BY id`, profile)
	if err != nil {
		return nil, fmt.Errorf("list webhooks of profile %d: %w", profile, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Webhook])
	if err != nil {
		return nil, fmt.Errorf("list webhooks of profile %d: %w", profile, err)
	}
	return list, nil
}

// RemoveWebhook ends a webhook; what is on its way to it is given up.
func (s *Store) RemoveWebhook(ctx context.Context, profile, id int64) error {
	tag, err := s.pool.Exec(ctx, `UPDATE webhooks SET deleted_at = now() WHERE id = $2 AND profile_id = $1 AND deleted_at IS NULL`, profile, id)
	if err != nil {
		return fmt.Errorf("remove webhook %d: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}

// Deliveries lists the latest deliveries of a webhook, the latest first.
func (s *Store) Deliveries(ctx context.Context, profile, webhook int64, limit int) ([]Delivery, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT d.id, d.alert_id, d.attempts, d.next_at, d.delivered_at, d.last_status, d.last_error FROM deliveries d
		JOIN webhooks w ON w.id = d.webhook_id WHERE w.profile_id = $1 AND w.id = $2 ORDER BY d.id DESC LIMIT $3`, profile, webhook, limit)
	if err != nil {
		return nil, fmt.Errorf("list deliveries of webhook %d: %w", webhook, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Delivery])
	if err != nil {
		return nil, fmt.Errorf("list deliveries of webhook %d: %w", webhook, err)
	}
	return list, nil
}

// Replay sends a delivery again, whatever became of it.
func (s *Store) Replay(ctx context.Context, profile, delivery int64) error {
	tag, err := s.pool.Exec(ctx, `
		UPDATE deliveries SET next_at = now(), attempts = 0 FROM webhooks w
		WHERE deliveries.id = $2 AND w.id = deliveries.webhook_id AND w.profile_id = $1 AND w.deleted_at IS NULL`, profile, delivery)
	if err != nil {
		return fmt.Errorf("replay delivery %d: %w", delivery, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}

// tell records an alert once and gives it on its way to the profile's webhooks, both or neither. It says whether it was new.
func (s *Store) tell(ctx context.Context, profile int64, kind, subject, text string, details any) (bool, error) {
	b, err := json.Marshal(details)
	if err != nil {
		return false, fmt.Errorf("write alert: %w", err)
	}
	tag, err := s.pool.Exec(ctx, `
		WITH told AS (INSERT INTO alerts (profile_id, kind, subject, text, details) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (profile_id, kind, subject) DO NOTHING RETURNING id),
		sent AS (INSERT INTO deliveries (alert_id, webhook_id) SELECT told.id, w.id FROM told, webhooks w WHERE w.profile_id = $1 AND w.deleted_at IS NULL)
		SELECT id FROM told`, profile, kind, subject, text, b)
	if err != nil {
		return false, fmt.Errorf("tell profile %d: %w", profile, err)
	}
	return tag.RowsAffected() > 0, nil
}
