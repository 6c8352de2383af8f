package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/share"
)

// page is everything that a page shows.
type page struct {
	viewer
	Public  string // address that visitors see
	Numbers *numbers
	Failed  string // why there are no numbers
	Manage  *manage
	Pages   []profile.Profile // of the account, to switch between
}

// manage is the part of a page on which its owner changes things.
type manage struct {
	viewer
	Public string
	Origin string
	Links  []profile.Link
	Shares []share.Share
	Secret string // of a share that was just made
	Hooks  []hook
	// HookSecret is that of a webhook that was just made.
	HookSecret string
	Mail       *alert.Mail // nil: this server sends none
	Problem    string
	Field      string // the form that the problem is about
	Done       string // what was just done
	Draft      profile.LinkChange
	Zones      []string
}

// Base is the page's address.
func (v viewer) Base() string { return v.base }

// Day names the day of a moment, where the page's owner lives.
func (v viewer) Day(at *time.Time) string { return at.In(v.zone()).Format("2 January") }

// Owner says whether the page is its owner's.
func (v viewer) Owner() bool { return v.owner() }

// Mode is owner, guest or demo.
func (v viewer) Mode() string { return v.mode }

func (d *Dashboard) showPage(w http.ResponseWriter, r *http.Request, v viewer) error {
	if v.owner() && r.URL.Query().Get("part") == "manage" {
		m, err := d.managed(r.Context(), v)
		if err == nil {
			d.render(w, r, http.StatusOK, "manage", m)
		}
		return err
	}
	n, err := d.numbers(r.Context(), v, r.URL.Query())
	if r.URL.Query().Get("part") == "numbers" {
		if err != nil {
			return err
		}
		d.render(w, r, http.StatusOK, "numbers", n)
		return nil
	}
	p := page{viewer: v, Public: d.Public + "/" + v.Handle, Numbers: n}
	status := http.StatusOK
	if err != nil {
		d.Log.Warn("a page without its numbers", "profile", v.ID, "error", err)
		p.Failed = "The numbers cannot be read right now. Nothing is lost: visits are recorded all the same."
		status = http.StatusServiceUnavailable
	}
	if v.owner() {
		if p.Manage, err = d.managed(r.Context(), v); err != nil {
			return err
		}
		if p.Pages, err = d.Profiles.List(r.Context(), v.account, 0, 100); err != nil {
			return err
		}
	}
	d.render(w, r, status, "page", p)
	return nil
}

func (d *Dashboard) managed(ctx context.Context, v viewer) (*manage, error) {
	links, err := d.Profiles.Links(ctx, v.account, v.ID)
	if err != nil {
		return nil, err
	}
	shares, err := d.shares.List(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	m := &manage{viewer: v, Public: d.Public, Origin: strings.TrimRight(d.Origin, "/"), Links: links, Shares: shares, Zones: zones()}
	if m.Hooks, err = d.hooks(ctx, v); err != nil {
		return nil, err
	}
	if d.Mail {
		if m.Mail, err = d.letters(ctx, v); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answer shows the page after a change: only the changed part if a script asked, else the whole page anew.
func (d *Dashboard) answer(w http.ResponseWriter, r *http.Request, v viewer, about string, done string, draft profile.LinkChange, failure error) error {
	problem := ""
	var invalid *profile.Invalid
	switch {
	case failure == nil:
	case errors.As(failure, &invalid):
		problem = sentence(invalid.Message)
	case errors.Is(failure, profile.ErrHandleTaken):
		problem = "This address is taken. Choose another."
	case errors.Is(failure, profile.ErrTooMany):
		problem = fmt.Sprintf("A page has at most %d links.", profile.MaxLinks)
	case errors.Is(failure, alert.ErrTooMany):
		problem = fmt.Sprintf("A page has at most %d webhooks.", alert.MaxWebhooks)
	case errors.Is(failure, share.ErrTooMany):
		problem = fmt.Sprintf("A page is shared at most %d times at once.", share.MaxShares)
	default:
		return failure
	}
	if problem == "" && r.Header.Get("X-Part") != "manage" {
		http.Redirect(w, r, v.base+"#"+about, http.StatusSeeOther)
		return nil
	}
	m, err := d.managed(r.Context(), v)
	if err != nil {
		return err
	}
	m.Problem, m.Field, m.Done, m.Draft = problem, about, done, draft
	status := http.StatusOK
	if problem != "" {
		status = http.StatusUnprocessableEntity
		m.Done = ""
	}
	return d.showChanged(w, r, v, m, status)
}

// showChanged shows the part of the page that the owner changes, alone if a script asked for it.
func (d *Dashboard) showChanged(w http.ResponseWriter, r *http.Request, v viewer, m *manage, status int) (err error) {
	if r.Header.Get("X-Part") == "manage" {
		d.render(w, r, status, "manage", m)
		return nil
	}
	p := page{viewer: v, Public: d.Public + "/" + v.Handle, Manage: m}
	if p.Numbers, err = d.numbers(r.Context(), v, nil); err != nil {
		p.Failed = "The numbers cannot be read right now."
	}
	if p.Pages, err = d.Profiles.List(r.Context(), v.account, 0, 100); err != nil {
		return err
	}
	d.render(w, r, status, "page", p)
	return nil
}
