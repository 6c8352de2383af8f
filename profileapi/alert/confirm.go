package alert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"spillway.dev/profileapi/mail"
)

// ErrConfirmed means that an account has no address that waits to be confirmed.
var ErrConfirmed = errors.New("the account has no address that waits to be confirmed")

// TooSoon means that a letter was asked for a short while ago.
type TooSoon struct {
	// Wait is how long it takes until another may be asked for: whole seconds, at least one.
	Wait time.Duration
}

func (t *TooSoon) Error() string {
	wait := "a day"
	switch minutes := int(math.Ceil(t.Wait.Minutes())); {
	case minutes == 1:
		wait = "a minute"
	case minutes < 120:
		wait = fmt.Sprintf("%d minutes", minutes)
	case minutes < 24*60:
		wait = fmt.Sprintf("%d hours", int(math.Ceil(t.Wait.Hours())))
	}
	return "a letter was sent a short while ago: look into the folder for spam too, or ask again in " + wait
}

// AskToConfirm sends the letter that asks whether an account's address is its own, the first time. Nothing happens if the account has no
// address, has confirmed it, or has been asked.
func (s *Store) AskToConfirm(ctx context.Context, account int64) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO confirmations (account_id) SELECT id FROM accounts
		WHERE id = $1 AND email IS NOT NULL AND email_confirmed_at IS NULL ON CONFLICT DO NOTHING`, account)
	if err != nil {
		return fmt.Errorf("ask account %d to confirm its address: %w", account, err)
	}
	return nil
}

// AskAgain sends the letter once more. ErrConfirmed if nothing is to be confirmed. Whoever signed up with another's address must not be
// able to fill their mailbox: TooSoon within ten minutes of the first letter, 20 of the second, 40 of the third … at most a day.
func (s *Store) AskAgain(ctx context.Context, account int64) error {
	var waits, asked bool
	var left float64 // of a question that was there before; one that came meanwhile is new
	err := s.pool.QueryRow(ctx, `
		WITH pause AS (SELECT account_id, asked_at + least(interval '10 minutes' * 2 ^ least(letters - 1, 10), interval '1 day') - now() AS wait
			FROM confirmations WHERE account_id = $1),
		who AS (SELECT id FROM accounts WHERE id = $1 AND email IS NOT NULL AND email_confirmed_at IS NULL),
		asked AS (INSERT INTO confirmations (account_id) SELECT id FROM who
			ON CONFLICT (account_id) DO UPDATE SET letters = confirmations.letters + 1, asked_at = now(), next_at = now(), attempts = 0, last_error = ''
			WHERE confirmations.asked_at + least(interval '10 minutes' * 2 ^ least(confirmations.letters - 1, 10), interval '1 day') <= now() RETURNING 1)
		SELECT EXISTS (SELECT FROM who), EXISTS (SELECT FROM asked), coalesce((SELECT extract(epoch FROM wait) FROM pause WHERE wait > interval '0'), 600)`,
		account).Scan(&waits, &asked, &left)
	switch {
	case err != nil:
		return fmt.Errorf("ask account %d again to confirm its address: %w", account, err)
	case !waits:
		return ErrConfirmed
	case !asked:
		return &TooSoon{time.Duration(math.Ceil(left)) * time.Second}
	}
	return nil
}

// Address is an account's; empty if it has none or there is no such account.
func (s *Store) Address(ctx context.Context, account int64) (address string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce(email, '') FROM accounts WHERE id = $1`, account).Scan(&address)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("read address of account %d: %w", account, err)
	}
	return address, nil
}

// Confirm records that an address is its account's, and says whether it still is.
func (s *Store) Confirm(ctx context.Context, account int64, address string) (bool, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE accounts SET email_confirmed_at = coalesce(email_confirmed_at, now()) WHERE id = $1 AND email = $2`, account, address)
	if err != nil {
		return false, fmt.Errorf("confirm address of account %d: %w", account, err)
	}
	return tag.RowsAffected() > 0, nil
}

// asked is a letter that asks for confirmation, which this process has taken.
type asked struct {
	Account   int64
	Letters   int
	Tried     int32
	Address   *string
	Confirmed bool
}

// confirmations sends the letters that ask for confirmation and are due.
func (o *Outbox) confirmations(ctx context.Context) error {
	rows, _ := o.pool.Query(ctx, `
		WITH taken AS (SELECT account_id FROM confirmations WHERE next_at <= now() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED)
		UPDATE confirmations n SET attempts = n.attempts + 1, next_at = now() + $2::interval FROM taken t JOIN accounts a ON a.id = t.account_id
		WHERE n.account_id = t.account_id RETURNING n.account_id, n.letters, n.attempts, a.email, a.email_confirmed_at IS NOT NULL`, together, lease) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[asked])
	if err != nil {
		return fmt.Errorf("look for addresses to confirm: %w", err)
	}
	var group errgroup.Group // side by side: one after the other they could outlast the lease, and hold alerts up
	for _, a := range list {
		group.Go(func() error { return o.confirmation(ctx, a) })
	}
	return group.Wait()
}

// confirmation makes one try to send a letter that asks, and writes down what became of it.
func (o *Outbox) confirmation(ctx context.Context, a asked) error {
	failure := errUnwanted
	if a.Address != nil && !a.Confirmed {
		var letter mail.Letter
		if letter, failure = o.letters.Confirm(*a.Address, a.Account, a.Letters, o.now()); failure == nil {
			failure = o.mailer.Send(ctx, letter)
		}
	}
	outcome, said, again := became(a.Tried, failure)
	o.tries.WithLabelValues("confirmation", outcome).Inc()
	// What has become of it is recorded though the process is asked to stop. Another letter may have been asked for meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	_, err := o.pool.Exec(ctx, `UPDATE confirmations SET next_at = now() + $3::interval, last_error = $4 WHERE account_id = $1 AND letters = $2`,
		a.Account, a.Letters, again, said)
	if err != nil {
		return fmt.Errorf("record what became of the letter to account %d: %w", a.Account, err)
	}
	return nil
}
