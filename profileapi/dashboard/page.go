package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Public  string
	Origin  string
	Links   []profile.Link
	Shares  []share.Share
	Secret  string // of a share that was just made
	Problem string
	Field   string // the form that the problem is about
	Done    string // what was just done
	Draft   profile.LinkChange
	Zones   []string
}

// Base is the page's address.
func (v viewer) Base() string { return v.base }

// Owner says whether the page is its owner's.
func (v viewer) Owner() bool { return v.owner() }

// Mode is owner, guest or demo.
func (v viewer) Mode() string { return v.mode }

func (d *Dashboard) showPage(w http.ResponseWriter, r *http.Request, v viewer) error {
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
	return &manage{viewer: v, Public: d.Public, Origin: strings.TrimRight(d.Origin, "/"), Links: links, Shares: shares, Zones: zones()}, nil
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
	case errors.Is(failure, share.ErrTooMany):
		problem = fmt.Sprintf("A page is shared at most %d times at once.", share.MaxShares)
	default:
		return failure
	}
	scripted := r.Header.Get("X-Part") == "manage"
	if !scripted && problem == "" {
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
	if scripted {
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

func (d *Dashboard) addLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	title, address := r.PostForm.Get("title"), strings.TrimSpace(r.PostForm.Get("url"))
	if address != "" && !strings.Contains(address, ":") {
		address = "https://" + address // as people write it
	}
	draft := profile.LinkChange{Title: &title, URL: &address}
	_, err := d.Profiles.CreateLink(r.Context(), v.account, v.ID, draft)
	if err == nil {
		draft = profile.LinkChange{}
	}
	return d.answer(w, r, v, "links", "Added "+title, draft, err)
}

func (d *Dashboard) changeLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	id, err := strconv.ParseInt(r.PathValue("link"), 10, 64)
	if err != nil {
		return errNoPage
	}
	field := "link-" + strconv.FormatInt(id, 10)
	ctx := r.Context()
	done := ""
	switch action := r.PostForm.Get("action"); action {
	case "save":
		title, address := r.PostForm.Get("title"), strings.TrimSpace(r.PostForm.Get("url"))
		_, err = d.Profiles.UpdateLink(ctx, v.account, v.ID, id, profile.LinkChange{Title: &title, URL: &address}, nil)
		done = "Saved " + title
	case "hide", "show":
		hidden := action == "hide"
		var l profile.Link
		l, err = d.Profiles.UpdateLink(ctx, v.account, v.ID, id, profile.LinkChange{Hidden: &hidden}, nil)
		done = map[bool]string{true: "Hidden: ", false: "Shown: "}[hidden] + l.Title
	case "delete":
		err = d.Profiles.DeleteLink(ctx, v.account, v.ID, id, nil)
		done = "Removed. Its numbers are kept."
	case "up", "down":
		done, err = d.move(ctx, v, id, action == "up")
	default:
		return &refusal{http.StatusBadRequest, "This form cannot be read", "Go back, reload the page and try again."}
	}
	return d.answer(w, r, v, field, done, profile.LinkChange{}, err)
}

// move puts a link one place up or down.
func (d *Dashboard) move(ctx context.Context, v viewer, id int64, up bool) (string, error) {
	links, err := d.Profiles.Links(ctx, v.account, v.ID)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(links, func(l profile.Link) bool { return l.ID == id })
	if at < 0 {
		return "", profile.ErrNotFound
	}
	to := at + 1
	if up {
		to = at - 1
	}
	if to < 0 || to >= len(links) {
		return links[at].Title + " is at the end already", nil
	}
	links[at], links[to] = links[to], links[at]
	order := make([]int64, len(links))
	for i, l := range links {
		order[i] = l.ID
	}
	_, err = d.Profiles.Reorder(ctx, v.account, v.ID, order)
	return fmt.Sprintf("%s is number %d of %d now", links[to].Title, to+1, len(links)), err
}

func (d *Dashboard) orderLinks(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	var order []int64
	for _, s := range r.PostForm["link"] {
		id, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errNoPage
		}
		order = append(order, id)
	}
	_, err := d.Profiles.Reorder(r.Context(), v.account, v.ID, order)
	var invalid *profile.Invalid
	if errors.As(err, &invalid) {
		err = &profile.Invalid{Field: "links", Message: "the links were changed elsewhere meanwhile; this is how they are now"}
	}
	return d.answer(w, r, v, "links", "The order is saved", profile.LinkChange{}, err)
}

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
	if r.Header.Get("X-Part") == "manage" {
		d.render(w, r, http.StatusOK, "manage", m)
		return nil
	}
	p := page{viewer: v, Public: d.Public + "/" + v.Handle, Manage: m}
	if p.Numbers, err = d.numbers(ctx, v, nil); err != nil {
		p.Failed = "The numbers cannot be read right now."
	}
	d.render(w, r, http.StatusOK, "page", p)
	return nil
}

// maxPreview is the largest page that is shown as a preview, in bytes.
const maxPreview = 1 << 20

// showPreview shows the public page as visitors see it, in a frame beside the form. It is fetched with a header that says that nobody
// looks at it, so it is not counted as a view.
func (d *Dashboard) showPreview(w http.ResponseWriter, r *http.Request, v viewer) error {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, d.Public+"/"+v.Handle, nil)
	if err != nil {
		return fmt.Errorf("preview of %s: %w", v.Handle, err)
	}
	request.Header.Set("Sec-Purpose", "prefetch")
	request.Header.Set("User-Agent", "Spillway-Preview")
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	answer, err := d.preview.Do(request)
	if err == nil {
		defer answer.Body.Close()
		var body []byte
		if body, err = io.ReadAll(io.LimitReader(answer.Body, maxPreview)); err == nil && answer.StatusCode == http.StatusOK {
			h.Set("Content-Security-Policy", "sandbox; default-src 'none'; img-src 'self' data: "+d.Public+"; style-src "+styles(answer.Header.Get("Content-Security-Policy"))+
				"; base-uri 'none'; form-action 'none'; frame-ancestors 'self'")
			_, err = io.Copy(w, bytes.NewReader(body))
			return err
		}
	}
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; frame-ancestors 'self'")
	_, err = io.WriteString(w, "<!doctype html><html lang=en><title>Preview</title><p>The page cannot be shown here right now.")
	return err
}

var styleHash = regexp.MustCompile(`style-src ('sha256-[A-Za-z0-9+/=]+')`)

// styles returns the style that the page's own policy allows.
func styles(policy string) string {
	if found := styleHash.FindStringSubmatch(policy); found != nil {
		return found[1]
	}
	return "'none'"
}
