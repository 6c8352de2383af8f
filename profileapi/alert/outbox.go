package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"spillway.dev/profileapi/mail"
	"spillway.dev/profileapi/weekly"
	"spillway.dev/schemas/postgres"
)

// Delivery is one alert on its way to one place.
type Delivery struct {
	ID          int64
	AlertID     int64
	Kind        string
	Attempts    int32
	NextAt      *time.Time // nil: delivered, or given up
	DeliveredAt *time.Time
	Status      *int32 // of the last answer; nil: none came
	Error       string // of the last try
}

// Deliveries lists the latest deliveries of a webhook, the latest first.
func (s *Store) Deliveries(ctx context.Context, profile, webhook int64, limit int) ([]Delivery, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT d.id, d.alert_id, a.kind, d.attempts, d.next_at, d.delivered_at, d.last_status, d.last_error FROM deliveries d
		JOIN webhooks w ON w.id = d.webhook_id JOIN alerts a ON a.id = d.alert_id
		WHERE w.profile_id = $1 AND w.id = $2 ORDER BY d.id DESC LIMIT $3`, profile, webhook, limit) // CollectRows tells of its error
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

// attempts is how often a message is tried: at once, then after 30 s, 1 min, 2 min … 8.5 hours in all.
const attempts = 11

func backoff(tried int32) time.Duration { return 15 * time.Second << min(tried, 12) }

const (
	// lease is how long a process has a delivery for itself: longer than a try can take.
	lease = 2 * time.Minute
	// together is how many deliveries a process takes at once, and sends side by side.
	together = 16
)

// OutboxOptions of an outbox. The zero value sends to webhooks on the internet, and no mail.
type OutboxOptions struct {
	// Every is how often it looks for what is due; zero: 2 s.
	Every time.Duration
	// Private lets webhooks lead to this machine and the network around it, and over http.
	Private bool
	// Post sends letters; nil: there are none.
	Post *mail.Post
	// Origin is the dashboard's base URL, which letters lead to.
	Origin string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Outbox sends what is on its way.
type Outbox struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	every   time.Duration
	client  *http.Client
	mailer  *mail.Post
	origin  string
	letters *mail.Letters // nil: not yet, its key is in the database
	now     func() time.Time
	tries   *prometheus.CounterVec
}

// NewOutbox returns an outbox; it works while Run does.
func NewOutbox(pool *pgxpool.Pool, o OutboxOptions, log *slog.Logger, metrics prometheus.Registerer) (*Outbox, error) {
	if o.Every == 0 {
		o.Every = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	out := &Outbox{pool: pool, log: log, every: o.Every, client: client(o.Private), mailer: o.Post, origin: o.Origin, now: o.Now,
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spillway_profileapi_deliveries_total",
			Help: "Tries to send alerts, and the letters that ask to confirm an address, by channel (webhook, mail, confirmation) and outcome (sent, failed, given_up)."}, []string{"channel", "outcome"})}
	if err := metrics.Register(out.tries); err != nil {
		return nil, fmt.Errorf("register metrics of the outbox: %w", err)
	}
	return out, nil
}

// Run sends until ctx ends.
func (o *Outbox) Run(ctx context.Context) {
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		n, err := o.round(ctx)
		if err != nil && ctx.Err() == nil {
			o.log.Warn("alerts cannot be sent now", "error", err)
		}
		if err == nil && n == together && ctx.Err() == nil {
			continue // there may be more
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// due is a delivery that this process has taken.
type due struct {
	delivery, alert, profile int64
	tried                    int32
	webhook                  *int64
	url, secret, email       *string
	unwanted                 bool // its webhook or page was removed, or its reader has unsubscribed or has another address
	kind, text               string
	handle, title            string
	details                  json.RawMessage
	at                       time.Time
}

func (d due) channel() string {
	if d.webhook == nil {
		return "mail"
	}
	return "webhook"
}

// round takes what is due and sends it, and says how much it was.
func (o *Outbox) round(ctx context.Context) (int, error) {
	if err := o.prepare(ctx); err != nil {
		return 0, err
	}
	if o.mailer != nil {
		if err := o.confirmations(ctx); err != nil {
			return 0, err
		}
	}
	list, err := o.take(ctx)
	if err != nil {
		return 0, err
	}
	var group errgroup.Group
	for _, d := range list {
		group.Go(func() error {
			status, failure := o.send(ctx, d)
			// What has become of it is recorded though the process is asked to stop.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			return o.record(ctx, d, status, failure)
		})
	}
	return len(list), group.Wait()
}

// prepare fetches the key that letters need.
func (o *Outbox) prepare(ctx context.Context) error {
	if o.mailer == nil || o.letters != nil {
		return nil
	}
	key, err := postgres.Secret(ctx, o.pool, mail.Secret)
	if err != nil {
		return err
	}
	o.letters, err = mail.NewLetters(o.origin, key)
	return err
}

func (o *Outbox) take(ctx context.Context) ([]due, error) {
	rows, _ := o.pool.Query(ctx, `
		WITH taken AS (SELECT id, alert_id, webhook_id FROM deliveries WHERE next_at <= now() AND ($1 OR webhook_id IS NOT NULL)
			ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED)
		UPDATE deliveries d SET attempts = d.attempts + 1, next_at = now() + $3::interval
		FROM taken t JOIN alerts a ON a.id = t.alert_id JOIN profiles p ON p.id = a.profile_id JOIN accounts c ON c.id = p.account_id
			LEFT JOIN webhooks h ON h.id = t.webhook_id LEFT JOIN mail_settings m ON m.profile_id = p.id
		WHERE d.id = t.id
		RETURNING d.id, a.id, p.id, d.attempts, t.webhook_id, h.url, h.secret, c.email,
			p.deleted_at IS NOT NULL OR h.deleted_at IS NOT NULL
				OR t.webhook_id IS NULL AND (c.email IS NULL OR c.email_confirmed_at IS NULL OR NOT coalesce(CASE WHEN a.kind = $4 THEN m.weekly ELSE m.alerts END, true)),
			a.kind, a.text, p.handle, p.title, a.details, a.at`, o.mailer != nil, together, lease, Weekly) // CollectRows tells of its error
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d due, err error) {
		err = row.Scan(&d.delivery, &d.alert, &d.profile, &d.tried, &d.webhook, &d.url, &d.secret, &d.email, &d.unwanted, &d.kind, &d.text, &d.handle, &d.title, &d.details, &d.at)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for messages to send: %w", err)
	}
	return list, nil
}

var errUnwanted = errors.New("nobody wants it any more")

// send makes one try.
func (o *Outbox) send(ctx context.Context, d due) (status *int32, err error) {
	switch {
	case d.unwanted:
		return nil, errUnwanted
	case d.webhook != nil:
		return o.post(ctx, d)
	}
	letter, err := o.letter(d)
	if err != nil {
		return nil, err
	}
	return nil, o.mailer.Send(ctx, letter)
}

// letter writes what a delivery by mail says.
func (o *Outbox) letter(d due) (mail.Letter, error) {
	about := mail.About{To: *d.email, Profile: d.profile, Handle: d.handle, Title: d.title, Alert: d.alert}
	if d.kind != Weekly {
		return o.letters.Alert(about, d.text, d.at)
	}
	var report weekly.Report
	if err := json.Unmarshal(d.details, &report); err != nil {
		return mail.Letter{}, fmt.Errorf("read report of alert %d: %w", d.alert, err)
	}
	return o.letters.Weekly(about, &report)
}

// became says what a try has come to, and after which time there is another; nil: never.
func became(tried int32, failure error) (outcome, said string, again *time.Duration) {
	switch {
	case failure == nil:
		return "sent", "", nil
	case tried >= attempts || errors.Is(failure, errUnwanted) || errors.Is(failure, mail.ErrRefused):
		return "given_up", failure.Error(), nil
	}
	wait := backoff(tried)
	return "failed", failure.Error(), &wait
}

// record writes down what became of a try, and when the next one is.
func (o *Outbox) record(ctx context.Context, d due, status *int32, failure error) error {
	outcome, said, again := became(d.tried, failure)
	o.tries.WithLabelValues(d.channel(), outcome).Inc()
	_, err := o.pool.Exec(ctx, `UPDATE deliveries SET next_at = now() + $2::interval, delivered_at = CASE WHEN $3 THEN now() ELSE delivered_at END,
		last_status = $4, last_error = $5 WHERE id = $1`, d.delivery, again, failure == nil, status, said)
	if err != nil {
		return fmt.Errorf("record what became of delivery %d: %w", d.delivery, err)
	}
	return nil
}
