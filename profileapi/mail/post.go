// Package mail writes to creators: what they would want to know, in letters that can be unsubscribed from with one click, sent by SMTP.
package mail

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	smtp "github.com/wneessen/go-mail"
)

// Options of a post. URL is needed; empty, there is none.
type Options struct {
	// URL of the server: smtp://USER:PASSWORD@HOST:PORT, encrypted by STARTTLS, or smtps:// for encryption from the first byte. The ports
	// are 587 and 465 unless it says otherwise. With ?tls=optional a server without STARTTLS is spoken to in the clear, as this machine's is.
	URL string
	// From is who writes, as in Spillway <numbers@spill.example>.
	From string
}

// Post sends letters.
type Post struct {
	host    string
	from    *mail.Address
	options []smtp.Option
}

// sendTime is how long one letter may take.
const sendTime = 20 * time.Second

// NewPost checks the options; nothing is sent. Its errors say what to write instead.
func NewPost(o Options) (*Post, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Path != "" && u.Path != "/" {
		return nil, errors.New("mail server: use smtp://USER:PASSWORD@HOST:PORT or smtps://… (SPILLWAY_SMTP_URL)")
	}
	from, err := mail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("mail's sender %q: use an address, as in Spillway <numbers@spill.example> (SPILLWAY_MAIL_FROM)", o.From)
	}
	p := &Post{host: u.Hostname(), from: from, options: []smtp.Option{smtp.WithTimeout(sendTime)}}
	port := map[string]int{"smtp": 587, "smtps": 465}[u.Scheme]
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return nil, fmt.Errorf("mail server's port %q: use a number (SPILLWAY_SMTP_URL)", u.Port())
		}
	}
	p.options = append(p.options, smtp.WithPort(port))
	switch tls := u.Query().Get("tls"); {
	case tls != "" && tls != "optional":
		return nil, fmt.Errorf("mail server with tls=%s: use tls=optional or nothing (SPILLWAY_SMTP_URL)", tls)
	case u.Scheme == "smtps":
		p.options = append(p.options, smtp.WithSSL())
	case tls == "optional" || loopback(p.host):
		p.options = append(p.options, smtp.WithTLSPolicy(smtp.TLSOpportunistic))
	default:
		p.options = append(p.options, smtp.WithTLSPolicy(smtp.TLSMandatory))
	}
	if u.User != nil {
		password, _ := u.User.Password()
		p.options = append(p.options, smtp.WithUsername(u.User.Username()), smtp.WithPassword(password), smtp.WithSMTPAuth(smtp.SMTPAuthAutoDiscover))
	}
	if _, err := smtp.NewClient(p.host, p.options...); err != nil {
		return nil, fmt.Errorf("mail server: %w (SPILLWAY_SMTP_URL)", err)
	}
	return p, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// Letter is one message to one person.
type Letter struct {
	To      string
	Subject string
	Text    string
	HTML    string
	// ID names the letter for ever, so that one that comes twice is known to be the same.
	ID string
	// Unsubscribe is the address that ends letters of this kind, by POST (RFC 8058) and, after a question, for people. Empty: it
	// is the only one of its kind.
	Unsubscribe string
}

// ErrRefused means that the server will not take this letter, however often it is sent.
var ErrRefused = errors.New("the mail server refuses this letter")

// Send gives a letter to the server. It is sent when Send returns nil. ErrRefused if trying again is useless.
func (p *Post) Send(ctx context.Context, l Letter) error {
	m := smtp.NewMsg(smtp.WithNoDefaultUserAgent())
	m.FromMailAddress(p.from)
	if err := m.To(l.To); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m.Subject(l.Subject)
	m.SetDate()
	m.SetMessageIDWithValue(l.ID + p.from.Address[strings.LastIndexByte(p.from.Address, '@'):])
	if l.Unsubscribe != "" {
		m.SetListUnsubscribe(l.Unsubscribe)
		m.SetListUnsubscribePost()
	}
	// Nobody's holiday answer is wanted (RFC 3834).
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetBodyString(smtp.TypeTextPlain, l.Text)
	m.AddAlternativeString(smtp.TypeTextHTML, l.HTML)
	client, err := smtp.NewClient(p.host, p.options...)
	if err != nil {
		return fmt.Errorf("send mail: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	// A server that has taken the letter and then leaves impolitely has it all the same.
	if err := client.DialAndSendWithContext(ctx, m); err != nil && !m.IsDelivered() {
		var refused *smtp.SendError
		if errors.As(err, &refused) && !refused.IsTemp() && refused.ErrorCode() >= 500 {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return fmt.Errorf("send mail: %w", err)
	}
	return nil
}
