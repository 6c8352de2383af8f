package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Webhook is where a profile's alerts are sent.
type Webhook struct {
	ID        int64
	URL       string
	CreatedAt time.Time
}

// MaxWebhooks bounds how many a profile has.
const MaxWebhooks = 5

var (
	// ErrNotFound means that the profile has no such webhook or delivery.
	ErrNotFound = errors.New("no such webhook or delivery")
	// ErrTooMany means that the profile has MaxWebhooks already.
	ErrTooMany = errors.New("too many webhooks")
)

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
	rows, _ := s.pool.Query(ctx, `SELECT id, url, created_at FROM webhooks WHERE profile_id = $1 AND deleted_at IS NULL ORDER BY id`, profile) // CollectRows tells of its error
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
	if _, err := s.pool.Exec(ctx, `UPDATE deliveries SET next_at = NULL WHERE webhook_id = $1 AND next_at IS NOT NULL`, id); err != nil {
		return fmt.Errorf("give up what is on its way to webhook %d: %w", id, err)
	}
	return nil
}

// Try gives a message of kind test on its way to one webhook.
func (s *Store) Try(ctx context.Context, profile, webhook int64) (Delivery, error) {
	var subject [12]byte
	rand.Read(subject[:])
	if _, err := s.pool.Exec(ctx, `DELETE FROM alerts WHERE profile_id = $1 AND kind = $2 AND at < now() - interval '7 days'`, profile, Test); err != nil {
		return Delivery{}, fmt.Errorf("remove old tests of profile %d: %w", profile, err)
	}
	var d Delivery
	err := s.pool.QueryRow(ctx, `
		WITH hook AS (SELECT id FROM webhooks WHERE id = $2 AND profile_id = $1 AND deleted_at IS NULL),
		told AS (INSERT INTO alerts (profile_id, kind, subject, text, details) SELECT $1, $3, $4, 'This is a test. Nothing happened.', '{}' FROM hook RETURNING id)
		INSERT INTO deliveries (alert_id, webhook_id) SELECT told.id, hook.id FROM told, hook RETURNING id, alert_id, next_at`,
		profile, webhook, Test, hex.EncodeToString(subject[:])).Scan(&d.ID, &d.AlertID, &d.NextAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Delivery{}, ErrNotFound
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("test webhook %d: %w", webhook, err)
	}
	d.Kind = Test
	return d, nil
}

// SignatureHeader is the header that proves who sent a message: "t=SECONDS,v1=HEX", the HMAC-SHA256 with the webhook's secret of
// SECONDS, a dot and the body. A receiver refuses what is older than a few minutes, so that nobody can send it again.
const SignatureHeader = "Spillway-Signature"

// Sign returns the header's value for a body that is sent at a time.
func Sign(secret string, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(seconds + "."))
	mac.Write(body)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

var errPrivate = errors.New("this address is not on the internet")

// public says whether an address is one that anybody may be asked to send to: not this machine, not the network around it.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, reserved := range []string{"100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10"} {
		if netip.MustParsePrefix(reserved).Contains(a) {
			return false
		}
	}
	return true
}

// CheckURL says whether alerts can be sent to an address, as far as its text tells; what its name means is looked at when it is dialled.
func CheckURL(address string, private bool) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && !(private && u.Scheme == "http") || u.Hostname() == "" || u.User != nil || u.Fragment != "" || len(address) > 2048 {
		return errors.New("use an https URL without a user")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && !private && !public(a) {
		return errPrivate
	}
	return nil
}

// client sends to public addresses only, unless private is set. The check is made on the address that is dialled, after its name was
// looked up, so that no name can lead elsewhere; redirects are not followed, proxies not used.
func client(private bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !private && !public(to.Addr()) {
			return errPrivate
		}
		return nil
	}}
	return &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// message is what a webhook gets.
type message struct {
	ID        string          `json:"id"` // of the alert; the same when it is sent again
	Kind      string          `json:"kind"`
	ProfileID string          `json:"profile_id"`
	Handle    string          `json:"handle"`
	Text      string          `json:"text"`
	Details   json.RawMessage `json:"details"`
	Time      time.Time       `json:"time"`
}

// post makes one try to send to a webhook. status is nil if no answer came.
func (o *Outbox) post(ctx context.Context, d due) (status *int32, err error) {
	body, err := json.Marshal(message{strconv.FormatInt(d.alert, 10), d.kind, strconv.FormatInt(d.profile, 10), d.handle, d.text, d.details, d.at.UTC()})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, *d.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Spillway")
	request.Header.Set("Idempotency-Key", strconv.FormatInt(d.alert, 10))
	request.Header.Set(SignatureHeader, Sign(*d.secret, o.now(), body))
	answer, err := o.client.Do(request)
	if errors.Is(err, errPrivate) {
		return nil, errPrivate // the whole error would tell what is there
	}
	if err != nil {
		return nil, errors.New("no answer")
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10)
	code := int32(answer.StatusCode)
	if code < 200 || code > 299 {
		return &code, fmt.Errorf("answered %d", code)
	}
	return &code, nil
}
