package dashboard

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway.dev/profileapi/profile"
)

func (d *Dashboard) changePage(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	value := func(name string) *string {
		if !r.PostForm.Has(name) {
			return nil
		}
		s := r.PostForm.Get(name)
		return &s
	}
	p, err := d.Profiles.Update(r.Context(), v.account, v.ID, profile.Change{
		Handle: value("handle"), Title: value("title"), Bio: value("bio"), Timezone: value("timezone"), Theme: value("theme")}, nil)
	if err == nil {
		if p.Handle != v.Handle && r.Header.Get("X-Part") != "" {
			w.Header().Set("X-Location", "/pages/"+p.Handle) // the page has moved
		}
		v.Profile, v.base = p, "/pages/"+p.Handle
	}
	return d.answer(w, r, v, "settings", "Saved", profile.LinkChange{}, err)
}

func (d *Dashboard) addNote(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	text := strings.Join(strings.Fields(r.PostForm.Get("text")), " ")
	if text == "" || len(text) > 500 {
		return d.answer(w, r, v, "notes", "", profile.LinkChange{}, &profile.Invalid{Field: "text", Message: "write a line of up to 500 characters"})
	}
	_, err := d.notes.Create(r.Context(), v.ID, time.Now(), nil, text)
	return d.answer(w, r, v, "notes", "Noted", profile.LinkChange{}, err)
}

func (d *Dashboard) changeShares(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	ctx := r.Context()
	if revoke := r.PostForm.Get("revoke"); revoke != "" {
		id, err := strconv.ParseInt(revoke, 10, 64)
		if err != nil {
			return errNoPage
		}
		return d.answer(w, r, v, "shares", "Revoked", profile.LinkChange{}, d.shares.Revoke(ctx, v.ID, id))
	}
	name := strings.TrimSpace(r.PostForm.Get("name"))
	if name == "" || len(name) > 100 {
		return d.answer(w, r, v, "shares", "", profile.LinkChange{}, &profile.Invalid{Field: "name", Message: "write who it is for, in up to 100 characters"})
	}
	var expires *time.Time
	if days, err := strconv.Atoi(r.PostForm.Get("days")); err == nil && days > 0 && days <= 3650 {
		t := time.Now().AddDate(0, 0, days)
		expires = &t
	}
	_, secret, err := d.shares.Create(ctx, v.ID, name, expires)
	if err != nil {
		return d.answer(w, r, v, "shares", "", profile.LinkChange{}, err)
	}
	// The secret is known only now: it is shown with this answer, not after a redirect.
	m, err := d.managed(ctx, v)
	if err != nil {
		return err
	}
	m.Secret, m.Field, m.Done = secret, "shares", "Shared. Copy the address now: it is shown only once."
	return d.showChanged(w, r, v, m, http.StatusOK)
}
