package alert

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/profileapi/mail"
)

// Mail is what a profile's owner gets by mail.
type Mail struct {
	// Address is the account's; empty: it has none, and nothing is sent.
	Address string
	// Confirmed says that the address is known to be the owner's. Until then nothing is sent but the letter that asks.
	Confirmed bool
	Alerts    bool
	Weekly    bool
	// Asked is when the letter that asks was asked for last; nil: it never was.
	Asked *time.Time
	// Undelivered says that this letter could not be delivered, and is tried no more.
	Undelivered bool
}

// MailChange is what to change; nil: nothing.
type MailChange struct{ Alerts, Weekly *bool }

// Mail returns what the owner of a profile gets by mail.
func (s *Store) Mail(ctx context.Context, profile int64) (m Mail, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce(a.email, ''), a.email_confirmed_at IS NOT NULL, coalesce(m.alerts, true), coalesce(m.weekly, true), c.asked_at, coalesce(c.next_at IS NULL AND c.last_error <> '', false)
		FROM profiles p JOIN accounts a ON a.id = p.account_id LEFT JOIN mail_settings m ON m.profile_id = p.id LEFT JOIN confirmations c ON c.account_id = a.id
		WHERE p.id = $1`, profile).Scan(&m.Address, &m.Confirmed, &m.Alerts, &m.Weekly, &m.Asked, &m.Undelivered)
	if err != nil {
		return Mail{}, fmt.Errorf("read what profile %d gets by mail: %w", profile, err)
	}
	return m, nil
}

// SetMail changes what the owner of a profile gets by mail.
func (s *Store) SetMail(ctx context.Context, profile int64, c MailChange) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO mail_settings (profile_id, alerts, weekly) VALUES ($1, coalesce($2, true), coalesce($3, true))
		ON CONFLICT (profile_id) DO UPDATE SET alerts = coalesce($2, mail_settings.alerts), weekly = coalesce($3, mail_settings.weekly)`, profile, c.Alerts, c.Weekly)
	if err != nil {
		return fmt.Errorf("set what profile %d gets by mail: %w", profile, err)
	}
	return nil
}

// Unsubscribe ends letters of a kind about a profile.
func (s *Store) Unsubscribe(ctx context.Context, profile int64, kind mail.Kind) error {
	no := false
	if kind == mail.Weekly {
		return s.SetMail(ctx, profile, MailChange{Weekly: &no})
	}
	return s.SetMail(ctx, profile, MailChange{Alerts: &no})
}
