package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
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

// attempts is how often a message is tried: at once, then after 30 s, 1 min, 2 min … 8.5 hours in all.
const attempts = 11

func backoff(tried int32) time.Duration { return 15 * time.Second << min(tried, 12) }

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

type due struct {
	delivery, alert, profile int64
	tried                    int32
	url, secret              string
	kind, text, handle       string
	details                  json.RawMessage
	at                       time.Time
}

// deliver sends what is due, and says how much it was.
func (w *Watch) deliver(ctx context.Context) (int, error) {
	rows, err := w.pool.Query(ctx, `
		SELECT d.id, a.id, a.profile_id, d.attempts, h.url, h.secret, a.kind, a.text, p.handle, a.details, a.at
		FROM deliveries d JOIN alerts a ON a.id = d.alert_id JOIN webhooks h ON h.id = d.webhook_id JOIN profiles p ON p.id = a.profile_id
		WHERE d.next_at <= now() AND h.deleted_at IS NULL AND p.deleted_at IS NULL ORDER BY d.next_at LIMIT 50`)
	if err != nil {
		return 0, fmt.Errorf("look for messages to send: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d due, err error) {
		err = row.Scan(&d.delivery, &d.alert, &d.profile, &d.tried, &d.url, &d.secret, &d.kind, &d.text, &d.handle, &d.details, &d.at)
		return d, err
	})
	if err != nil {
		return 0, fmt.Errorf("look for messages to send: %w", err)
	}
	for _, d := range list {
		status, failure := w.send(ctx, d)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if failure == nil {
			_, err = w.pool.Exec(ctx, `UPDATE deliveries SET attempts = attempts + 1, next_at = NULL, delivered_at = now(), last_status = $2, last_error = '' WHERE id = $1`, d.delivery, status)
		} else {
			var next *time.Time
			if d.tried+1 < attempts {
				t := w.now().Add(backoff(d.tried + 1))
				next = &t
			}
			_, err = w.pool.Exec(ctx, `UPDATE deliveries SET attempts = attempts + 1, next_at = $2, last_status = $3, last_error = $4 WHERE id = $1`, d.delivery, next, status, failure.Error())
		}
		if err != nil {
			return 0, fmt.Errorf("record what became of delivery %d: %w", d.delivery, err)
		}
	}
	return len(list), nil
}

// send makes one try. status is nil if no answer came.
func (w *Watch) send(ctx context.Context, d due) (status *int32, err error) {
	body, err := json.Marshal(message{strconv.FormatInt(d.alert, 10), d.kind, strconv.FormatInt(d.profile, 10), d.handle, d.text, d.details, d.at.UTC()})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Spillway")
	request.Header.Set("Idempotency-Key", strconv.FormatInt(d.alert, 10))
	request.Header.Set(SignatureHeader, Sign(d.secret, w.now(), body))
	answer, err := w.client.Do(request)
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
