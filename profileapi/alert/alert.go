// Package alert tells creators what they would want to know: a spike, a drop, a milestone of a profile, and each Monday how the week
// was. An alert appears on the dashboard and goes, signed, to the profile's webhooks, and by mail to its owner.
//
// A Watch finds them, in one process at a time. It writes an alert and its deliveries in one statement, once for each subject. An Outbox
// sends what is due, in every process: each takes deliveries that no other has, for some minutes, so that none goes out twice while
// two work; what the process had taken that died is sent by another one then.
package alert

import (
	"context"
	"encoding/json"
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
	Weekly    = "weekly_report"
	// Test goes to one webhook because its owner wants to see one, and is listed nowhere.
	Test = "test"
)

// Alert is one thing that a creator is told.
type Alert struct {
	ID      int64
	Kind    string
	Text    string
	Details json.RawMessage
	At      time.Time
}

// Store keeps alerts in Postgres. Whether the profile is the caller's is the caller's to check.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store on pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// List returns up to limit alerts, the latest first, those before the id before if that is not zero.
func (s *Store) List(ctx context.Context, profile, before int64, limit int) ([]Alert, error) {
	rows, _ := s.pool.Query(ctx, `SELECT id, kind, text, details, at FROM alerts WHERE profile_id = $1 AND kind <> $4 AND ($2 = 0 OR id < $2)
		ORDER BY id DESC LIMIT $3`, profile, before, limit, Test) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Alert])
	if err != nil {
		return nil, fmt.Errorf("list alerts of profile %d: %w", profile, err)
	}
	return list, nil
}

// tell records an alert once and gives it on its way to the profile's webhooks and, if mail is set up, to its owner, all or nothing. An
// owner whose address is not confirmed gets no alert but is asked, once, whether it is theirs. It says whether the alert was new.
func (s *Store) tell(ctx context.Context, profile int64, kind, subject, text string, details any, mail bool) (bool, error) {
	b, err := json.Marshal(details)
	if err != nil {
		return false, fmt.Errorf("write alert: %w", err)
	}
	tag, err := s.pool.Exec(ctx, `
		WITH told AS (INSERT INTO alerts (profile_id, kind, subject, text, details) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (profile_id, kind, subject) DO NOTHING RETURNING id),
		sent AS (INSERT INTO deliveries (alert_id, webhook_id) SELECT told.id, w.id FROM told, webhooks w WHERE w.profile_id = $1 AND w.deleted_at IS NULL),
		mailed AS (INSERT INTO deliveries (alert_id) SELECT told.id FROM told, profiles p JOIN accounts a ON a.id = p.account_id
			LEFT JOIN mail_settings m ON m.profile_id = p.id
			WHERE $6 AND p.id = $1 AND a.email IS NOT NULL AND a.email_confirmed_at IS NOT NULL AND CASE WHEN $2 = $7 THEN coalesce(m.weekly, true) ELSE coalesce(m.alerts, true) END),
		asked AS (INSERT INTO confirmations (account_id) SELECT a.id FROM told, profiles p JOIN accounts a ON a.id = p.account_id
			LEFT JOIN mail_settings m ON m.profile_id = p.id
			WHERE $6 AND p.id = $1 AND a.email IS NOT NULL AND a.email_confirmed_at IS NULL
				AND CASE WHEN $2 = $7 THEN coalesce(m.weekly, true) ELSE coalesce(m.alerts, true) END ON CONFLICT DO NOTHING)
		SELECT id FROM told`, profile, kind, subject, text, b, mail, Weekly)
	if err != nil {
		return false, fmt.Errorf("tell profile %d: %w", profile, err)
	}
	return tag.RowsAffected() > 0, nil
}
