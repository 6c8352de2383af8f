package dashboard

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/mail"
	"spillway.dev/profileapi/profile"
	"spillway.dev/schemas/postgres"
)

// hook is a webhook as its owner sees it.
type hook struct {
	alert.Webhook
	Sent []sent // the latest, the latest first
}

// sent is a message to a webhook.
type sent struct {
	ID           int64
	What, Result string
	Time, ISO    string
	Good         bool
	Over         bool // delivered, or given up: it can be sent again
	Soon         bool // it is being sent
}

// mostSent is how many messages are listed of each webhook.
const mostSent = 5

func (d *Dashboard) hooks(ctx context.Context, v viewer) ([]hook, error) {
	list, err := d.news.Webhooks(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	zone := v.zone()
	out := make([]hook, len(list))
	for i, w := range list {
		out[i].Webhook = w
		deliveries, err := d.news.Deliveries(ctx, v.ID, w.ID, mostSent)
		if err != nil {
			return nil, err
		}
		for _, one := range deliveries {
			out[i].Sent = append(out[i].Sent, showSent(one, zone))
		}
	}
	return out, nil
}

func showSent(d alert.Delivery, zone *time.Location) sent {
	s := sent{ID: d.ID, What: map[string]string{alert.Milestone: "Milestone", alert.Spike: "Spike", alert.Drop: "Drop", alert.Weekly: "Weekly report", alert.Test: "Test"}[d.Kind]}
	at := d.DeliveredAt
	switch {
	case d.NextAt == nil && d.Error == "" && d.DeliveredAt != nil:
		s.Result, s.Good, s.Over = "Delivered", true, true
		if d.Status != nil {
			s.Result += ", answered " + strconv.Itoa(int(*d.Status))
		}
	case d.NextAt == nil:
		s.Result, s.Over = "Given up after "+count(int64(d.Attempts), "try", "tries")+": "+d.Error, true
	case d.Attempts == 0 || d.Error == "":
		s.Result, s.Soon = "On its way", true
	default:
		s.Result, at = "Tried "+count(int64(d.Attempts), "time", "times")+", again at "+d.NextAt.In(zone).Format("15:04:05"), nil
		if d.Error != "" {
			s.Result += ": " + d.Error
		}
	}
	if at != nil {
		s.Time, s.ISO = at.In(zone).Format("2 Jan 15:04:05"), at.UTC().Format(time.RFC3339)
	}
	return s
}

// changeHooks adds, removes and tries webhooks, and sends messages again.
func (d *Dashboard) changeHooks(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	ctx := r.Context()
	for action, do := range map[string]func(id int64) (done string, err error){
		"remove": func(id int64) (string, error) {
			return "Removed. Nothing is sent there any more.", d.news.RemoveWebhook(ctx, v.ID, id)
		},
		"test": func(id int64) (string, error) {
			_, err := d.news.Try(ctx, v.ID, id)
			return "A test is on its way.", err
		},
		"replay": func(id int64) (string, error) { return "It is sent again.", d.news.Replay(ctx, v.ID, id) },
	} {
		if value := r.PostForm.Get(action); value != "" {
			id, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return errNoPage
			}
			done, err := do(id)
			if errors.Is(err, alert.ErrNotFound) {
				err = &profile.Invalid{Field: action, Message: "this was removed elsewhere meanwhile"}
			}
			return d.answer(w, r, v, "told", done, profile.LinkChange{}, err)
		}
	}
	address := strings.TrimSpace(r.PostForm.Get("url"))
	if err := alert.CheckURL(address, d.PrivateWebhooks); err != nil {
		return d.answer(w, r, v, "told", "", profile.LinkChange{}, &profile.Invalid{Field: "url", Message: err.Error()})
	}
	_, secret, err := d.news.AddWebhook(ctx, v.ID, address)
	if err != nil {
		return d.answer(w, r, v, "told", "", profile.LinkChange{}, err)
	}
	// The secret is known only now: it is shown with this answer, not after a redirect.
	m, err := d.managed(ctx, v)
	if err != nil {
		return err
	}
	m.HookSecret, m.Field, m.Done = secret, "told", "Added. Copy the secret now: it is shown only once."
	return d.showChanged(w, r, v, m, http.StatusOK)
}

// letters is what a page's owner gets by mail. An owner who would get some, and was never asked whether the address is theirs (the account
// is older than this server's mail), is asked now: somebody is here who can answer.
func (d *Dashboard) letters(ctx context.Context, v viewer) (*alert.Mail, error) {
	m, err := d.news.Mail(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	if m.Address != "" && !m.Confirmed && m.Asked == nil && (m.Alerts || m.Weekly) {
		if err := d.news.AskToConfirm(ctx, v.account); err != nil {
			return nil, err
		}
		now := time.Now()
		m.Asked = &now
	}
	return &m, nil
}

func (d *Dashboard) changeMail(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	if r.PostForm.Get("confirm") != "" {
		done, err := "The letter is on its way.", d.news.AskAgain(r.Context(), v.account)
		if errors.Is(err, alert.ErrConfirmed) {
			done, err = "Nothing is to be confirmed any more.", nil // it was done elsewhere, meanwhile
		}
		if soon := (*alert.TooSoon)(nil); errors.As(err, &soon) {
			err = &profile.Invalid{Field: "confirm", Message: soon.Error()}
		}
		return d.answer(w, r, v, "told", done, profile.LinkChange{}, err)
	}
	alerts, reports := r.PostForm.Get("alerts") != "", r.PostForm.Get("weekly") != ""
	err := d.news.SetMail(r.Context(), v.ID, alert.MailChange{Alerts: &alerts, Weekly: &reports})
	if err == nil && d.Mail && (alerts || reports) {
		err = d.news.AskToConfirm(r.Context(), v.account)
	}
	return d.answer(w, r, v, "told", "Saved", profile.LinkChange{}, err)
}

// unsubscription is what a letter's address ends.
type unsubscription struct {
	What, Page, Token string
	Done              bool
}

// unsubscribe asks people, and does what mail programs ask for in their name (RFC 8058): those send a POST, so that no one who only follows
// addresses in letters ends anything. Whoever has the address may: no account is asked for.
func (d *Dashboard) unsubscribe(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Referrer-Policy", "no-referrer")
	key, err := postgres.Secret(r.Context(), d.Pool, mail.Secret)
	if err != nil {
		return err
	}
	token := r.PathValue("token")
	kind, id, ok := mail.Check(key, token)
	if !ok {
		return &refusal{http.StatusNotFound, "This address ends nothing", "It is not whole. Copy all of it from the letter, or change what you get on your page, under 'Alerts and reports'."}
	}
	title, err := d.Profiles.Title(r.Context(), id)
	if err != nil {
		return err
	}
	u := unsubscription{What: "alerts", Page: title, Token: token}
	if kind == mail.Weekly {
		u.What = "weekly reports"
	}
	if r.Method == http.MethodPost {
		if err := d.news.Unsubscribe(r.Context(), id, kind); err != nil {
			return err
		}
		u.Done = true
	}
	d.render(w, r, http.StatusOK, "unsubscribe", u)
	return nil
}

// confirmation is what a letter's address confirms.
type confirmation struct {
	Address, Token string
	Done           bool
}

// confirm asks people whether an address is theirs: programs that follow addresses in letters confirm nothing. No account is asked for,
// so that it may be done on another device than the one on which somebody signed up.
func (d *Dashboard) confirm(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Referrer-Policy", "no-referrer")
	key, err := postgres.Secret(r.Context(), d.Pool, mail.Secret)
	if err != nil {
		return err
	}
	bad := &refusal{http.StatusNotFound, "This address confirms nothing", "It is not whole or too old. Copy all of it from the letter, or sign in and ask for another letter, under 'Alerts and reports'."}
	c := confirmation{Token: r.PathValue("token")}
	account, ok := mail.Confirms(c.Token)
	if !ok {
		return bad
	}
	if c.Address, err = d.news.Address(r.Context(), account); err != nil {
		return err
	}
	if !mail.Confirmed(key, c.Token, account, c.Address, time.Now()) {
		return bad
	}
	if r.Method == http.MethodPost {
		if c.Done, err = d.news.Confirm(r.Context(), account, c.Address); err != nil {
			return err
		}
	}
	d.render(w, r, http.StatusOK, "confirm", c)
	return nil
}
