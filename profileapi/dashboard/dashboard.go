// Package dashboard is the creators' pages: rendered on the server, with a little script that keeps the numbers fresh, draws the
// chart and makes editing smooth. Everything works without the script too; nothing comes from another host.
//
//	/                            the demo profile's numbers, or the signed-in creator's first page
//	/sign-up /sign-in /sign-out  accounts
//	/pages/new /pages/{handle}   a creator's page: numbers, links, settings
//	/pages/{handle}/left-out     what is not in its numbers, and why
//	/shared/{secret}             one page's numbers, for whoever has the address
//	/unsubscribe/{token}         ends letters
//	/confirm/{token}             says that letters may come
package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/limit"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/mail"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/share"
	"spillway.dev/schemas/ownertoken"
)

//go:embed templates/*.html
var templates embed.FS

// Options of a dashboard.
type Options struct {
	// Demo is the handle of the profile whose numbers / shows to everybody; empty: none.
	Demo string
	// Public is the base URL of the visitors' pages.
	Public string
	// Origin is where creators reach the dashboard, as in https://spill.example. Cookies are only sent over https if it is https.
	Origin string
	// SignUp lets anybody make an account.
	SignUp   bool
	Pool     *pgxpool.Pool
	Accounts *account.Store
	Profiles *profile.Store
	Reader   *insight.Reader
	Hub      *live.Hub
	// Mail says that letters are sent.
	Mail bool
	// PrivateWebhooks lets webhooks lead to this machine and the network around it, and over http.
	PrivateWebhooks bool
	// Patience is how long the store of timelines may take for a page: what has not come then is said to be missing, and the rest is
	// shown. Zero: 6 s.
	Patience time.Duration
	Log      *slog.Logger
	// Stopping ends open event streams; nil: never.
	Stopping <-chan struct{}
}

// Dashboard serves the pages.
type Dashboard struct {
	Options
	secure      bool
	pages       *template.Template
	files       map[string]file // by path
	notes       *annotation.Store
	shares      *share.Store
	news        *alert.Store
	reports     *reports
	preview     *http.Client
	signIns     *limit.Limiter // by address and account
	signInsFrom *limit.Limiter // by address
	signUps     *limit.Limiter
}

// policy allows what the pages contain, all of it from here.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; frame-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// New returns a dashboard.
func New(o Options) (*Dashboard, error) {
	d := &Dashboard{
		Options: o, notes: annotation.NewStore(o.Pool), shares: share.NewStore(o.Pool), news: alert.NewStore(o.Pool), reports: newReports(),
		preview:     &http.Client{Timeout: 3 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		signIns:     limit.New(limit.Policy{Name: "sign-in", Quota: 10, Window: 15 * time.Minute}, nil),
		signInsFrom: limit.New(limit.Policy{Name: "sign-in", Quota: 100, Window: 15 * time.Minute}, nil),
		signUps:     limit.New(limit.Policy{Name: "sign-up", Quota: 30, Window: time.Hour}, nil),
	}
	d.Patience = cmp.Or(d.Patience, 6*time.Second)
	d.Public = strings.TrimRight(d.Public, "/")
	origin, err := url.Parse(o.Origin)
	if err != nil || origin.Host == "" || origin.Scheme != "http" && origin.Scheme != "https" {
		return nil, fmt.Errorf("dashboard URL %q: use http://HOST or https://HOST (SPILLWAY_DASHBOARD_URL)", o.Origin)
	}
	d.secure = origin.Scheme == "https"
	if d.files, err = readFiles(); err != nil {
		return nil, err
	}
	if d.pages, err = template.New("").Funcs(d.functions()).ParseFS(templates, "templates/*.html"); err != nil {
		return nil, fmt.Errorf("parse the dashboard's pages: %w", err)
	}
	return d, nil
}

// Register adds the dashboard's pages to a mux.
func (d *Dashboard) Register(handle func(pattern string, handler http.Handler)) {
	page := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Cache-Control", "no-store")
			h.Set("Content-Security-Policy", policy)
			h.Set("Referrer-Policy", "same-origin")
			if err := f(w, r); err != nil {
				d.fail(w, r, err)
			}
		}))
	}
	for path := range d.files {
		handle("GET "+path, http.HandlerFunc(d.file))
	}
	page("GET /{$}", d.home)
	page("GET /sign-in", d.signInPage)
	page("POST /sign-in", d.signIn)
	page("GET /sign-up", d.signUpPage)
	page("POST /sign-up", d.signUp)
	page("POST /sign-out", d.signOut)
	page("GET /pages/new", d.newPage)
	page("POST /pages", d.createPage)
	page("GET /pages/{handle}", d.owners(d.showPage))
	page("GET /pages/{handle}/live", d.owners(d.watch))
	page("GET /pages/{handle}/preview", d.owners(d.showPreview))
	page("GET /pages/{handle}/browser/mine", d.owners(d.leadBrowser(ownertoken.Claim)))
	page("GET /pages/{handle}/browser/not-mine", d.owners(d.leadBrowser(ownertoken.Release)))
	page("POST /pages/{handle}", d.owners(d.changePage))
	page("POST /pages/{handle}/links", d.owners(d.addLink))
	page("POST /pages/{handle}/links/{link}", d.owners(d.changeLink))
	page("POST /pages/{handle}/order", d.owners(d.orderLinks))
	page("POST /pages/{handle}/notes", d.owners(d.addNote))
	page("POST /pages/{handle}/shares", d.owners(d.changeShares))
	page("POST /pages/{handle}/webhooks", d.owners(d.changeHooks))
	page("POST /pages/{handle}/mail", d.owners(d.changeMail))
	page("GET /pages/{handle}/left-out", d.owners(d.showLeftOut))
	page("GET /demo/left-out", d.demo(d.showLeftOut))
	page("GET "+mail.UnsubscribePath+"{token}", d.unsubscribe)
	page("POST "+mail.UnsubscribePath+"{token}", d.unsubscribe)
	page("GET "+mail.ConfirmPath+"{token}", d.confirm)
	page("POST "+mail.ConfirmPath+"{token}", d.confirm)
	page("GET /shared/{secret}", d.guests(d.showPage))
	page("GET /shared/{secret}/live", d.guests(d.watch))
	page("GET /demo", d.demo(d.showPage))
	page("GET /demo/live", d.demo(d.watch))
}

// refusal is an error that the reader is told.
type refusal struct {
	status      int
	title, text string
}

func (e *refusal) Error() string { return e.title + ": " + e.text }

var errNoPage = &refusal{http.StatusNotFound, "There is no such page", "It may have been removed, or it belongs to another account."}

// fail shows what went wrong. What the reader cannot do anything about is logged and not shown.
func (d *Dashboard) fail(w http.ResponseWriter, r *http.Request, err error) {
	var known *refusal
	switch {
	case errors.As(err, &known):
	case errors.Is(err, profile.ErrNotFound):
		known = errNoPage
	case errors.Is(err, context.Canceled):
		return
	default:
		d.Log.Warn("a page cannot be shown", "path", r.Pattern, "error", err)
		known = &refusal{http.StatusServiceUnavailable, "The numbers cannot be read right now", "The database does not answer. Nothing is lost: visits are recorded all the same. Try again in a moment."}
		w.Header().Set("Retry-After", "3")
	}
	d.render(w, r, known.status, "message", map[string]any{"Title": known.title, "Text": known.text})
}

// render writes a page. data is what the page's template is about.
func (d *Dashboard) render(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	who, signedIn := d.who(r)
	var b bytes.Buffer
	err := d.pages.ExecuteTemplate(&b, name, map[string]any{"Data": data, "SignedIn": signedIn, "Operator": who.Operator, "SignUp": d.SignUp, "Demo": d.Demo})
	if err != nil {
		d.Log.Error("a page cannot be rendered", "page", name, "error", err)
		http.Error(w, "The page cannot be shown; it is logged.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// viewer is who looks at which profile.
type viewer struct {
	profile.Profile
	mode    string // owner, guest or demo
	base    string // address of the page
	account int64
}

func (v viewer) owner() bool { return v.mode == "owner" }

// zone is the profile's time zone.
func (v viewer) zone() *time.Location {
	location, err := time.LoadLocation(v.Timezone)
	if err != nil {
		return time.UTC
	}
	return location
}

type pageOf func(http.ResponseWriter, *http.Request, viewer) error

// owners lets in whoever is signed in and owns the page.
func (d *Dashboard) owners(f pageOf) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, ok := d.who(r)
		if !ok {
			http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
			return nil
		}
		p, err := d.Profiles.Own(r.Context(), who.AccountID, r.PathValue("handle"))
		if err != nil {
			return err
		}
		return f(w, r, viewer{p, "owner", "/pages/" + p.Handle, who.AccountID})
	}
}

// guests lets in whoever has a share's secret.
func (d *Dashboard) guests(f pageOf) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		secret := r.PathValue("secret")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("X-Robots-Tag", "noindex")
		gone := &refusal{http.StatusNotFound, "This address shows nothing any more", "It has expired or was revoked. Ask whoever gave it to you for a new one."}
		if !strings.HasPrefix(secret, account.SharePrefix) {
			return gone
		}
		who, err := d.Accounts.Authenticate(r.Context(), secret)
		if errors.Is(err, account.ErrUnknownToken) {
			return gone
		}
		if err != nil {
			return err
		}
		p, err := d.Profiles.Get(r.Context(), who.AccountID, who.ProfileID)
		if err != nil {
			return err
		}
		return f(w, r, viewer{p, "guest", "/shared/" + secret, who.AccountID})
	}
}

// demo lets everybody in.
func (d *Dashboard) demo(f pageOf) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if d.Demo == "" {
			return errNoPage
		}
		p, err := d.Profiles.ByHandle(r.Context(), d.Demo)
		if err != nil {
			return err
		}
		return f(w, r, viewer{p, "demo", "/demo", 0})
	}
}

// home leads creators to their page and shows everybody else the demo.
func (d *Dashboard) home(w http.ResponseWriter, r *http.Request) error {
	if who, ok := d.who(r); ok {
		pages, err := d.Profiles.List(r.Context(), who.AccountID, 0, 1)
		if err != nil {
			return err
		}
		if len(pages) == 0 {
			http.Redirect(w, r, "/pages/new", http.StatusSeeOther)
		} else {
			http.Redirect(w, r, "/pages/"+pages[0].Handle, http.StatusSeeOther)
		}
		return nil
	}
	if d.Demo != "" {
		err := d.demo(d.showPage)(w, r)
		if !errors.Is(err, profile.ErrNotFound) {
			return err
		}
	}
	d.render(w, r, http.StatusOK, "landing", nil)
	return nil
}
