package dashboard

import (
	"errors"
	"net"
	"net/http"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/limit"
	"spillway.dev/profileapi/profile"
)

// CookieName is the name of the cookie of a signed-in browser. Over https its prefix makes browsers refuse one that was set by another
// host or without encryption.
func CookieName(https bool) string {
	if https {
		return "__Host-spillway"
	}
	return "spillway"
}

func (d *Dashboard) cookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: CookieName(d.secure), Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: d.secure, SameSite: http.SameSiteLaxMode}
}

// who returns who is signed in.
func (d *Dashboard) who(r *http.Request) (account.Identity, bool) {
	c, err := r.Cookie(CookieName(d.secure))
	if err != nil {
		return account.Identity{}, false
	}
	who, err := d.Accounts.Session(r.Context(), c.Value)
	if err != nil {
		if !errors.Is(err, account.ErrUnknownToken) {
			d.Log.Warn("a session cannot be looked up", "error", err)
		}
		return account.Identity{}, false
	}
	return who, true
}

// form is what a page with a form shows again when something is wrong with it.
type form struct {
	Email, Handle, Title, Timezone string
	Problem                        string // what is wrong
	Field                          string // and where
	Zones                          []string
}

// maxForm is the largest form, in bytes.
const maxForm = 64 << 10

func parse(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return &refusal{http.StatusBadRequest, "This form cannot be read", "Go back, reload the page and try again."}
	}
	return nil
}

func client(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func throttled(w http.ResponseWriter, decisions ...limit.Decision) error {
	for _, decision := range decisions {
		if !decision.Allowed {
			decision.Headers(w.Header())
			return &refusal{http.StatusTooManyRequests, "Too many tries", "Wait a few minutes, then try again."}
		}
	}
	return nil
}

func (d *Dashboard) signInPage(w http.ResponseWriter, r *http.Request) error {
	d.render(w, r, http.StatusOK, "sign-in", form{})
	return nil
}

func (d *Dashboard) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := parse(w, r); err != nil {
		return err
	}
	email := r.PostForm.Get("email")
	if address, err := account.Email(email); err == nil {
		email = address
	}
	if err := throttled(w, d.signInsFrom.Take(client(r)), d.signIns.Take(client(r)+" "+email)); err != nil {
		return err
	}
	id, err := d.Accounts.SignIn(r.Context(), email, r.PostForm.Get("password"))
	if errors.Is(err, account.ErrWrongPassword) {
		d.render(w, r, http.StatusUnprocessableEntity, "sign-in", form{Email: email, Problem: "No account has this address and password."})
		return nil
	}
	if err != nil {
		return err
	}
	return d.enter(w, r, id, "/")
}

// enter signs the browser in, under a session that nobody could have known before, and leads it on.
func (d *Dashboard) enter(w http.ResponseWriter, r *http.Request, id int64, to string) error {
	if err := d.leave(r); err != nil {
		return err
	}
	secret, err := d.Accounts.OpenSession(r.Context(), id)
	if err != nil {
		return err
	}
	http.SetCookie(w, d.cookie(secret, int(account.SessionTime.Seconds())))
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

func (d *Dashboard) leave(r *http.Request) error {
	if c, err := r.Cookie(CookieName(d.secure)); err == nil {
		return d.Accounts.CloseSession(r.Context(), c.Value)
	}
	return nil
}

func (d *Dashboard) signOut(w http.ResponseWriter, r *http.Request) error {
	if err := d.leave(r); err != nil {
		return err
	}
	http.SetCookie(w, d.cookie("", -1))
	w.Header().Set("Clear-Site-Data", `"cache"`)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

var errClosed = &refusal{http.StatusForbidden, "Sign-up is closed", "Ask the operator of this Spillway for an account."}

func (d *Dashboard) signUpPage(w http.ResponseWriter, r *http.Request) error {
	if !d.SignUp {
		return errClosed
	}
	d.render(w, r, http.StatusOK, "sign-up", form{})
	return nil
}

func (d *Dashboard) signUp(w http.ResponseWriter, r *http.Request) error {
	if !d.SignUp {
		return errClosed
	}
	if err := parse(w, r); err != nil {
		return err
	}
	if err := throttled(w, d.signUps.Take(client(r))); err != nil {
		return err
	}
	f := form{Email: r.PostForm.Get("email")}
	id, err := d.Accounts.SignUp(r.Context(), f.Email, r.PostForm.Get("password"))
	switch {
	case errors.Is(err, account.ErrBadEmail):
		f.Field, f.Problem = "email", "Write an e-mail address, like ada@example.org."
	case errors.Is(err, account.ErrEmailTaken):
		f.Field, f.Problem = "email", "An account with this address exists. Sign in instead, or use another address."
	case errors.Is(err, account.ErrWeakPassword):
		f.Field, f.Problem = "password", "Use at least 10 characters. A few words in a row are good."
	case err != nil:
		return err
	default:
		if d.Mail {
			if err := d.news.AskToConfirm(r.Context(), id); err != nil {
				return err
			}
		}
		return d.enter(w, r, id, "/pages/new")
	}
	d.render(w, r, http.StatusUnprocessableEntity, "sign-up", f)
	return nil
}

func (d *Dashboard) newPage(w http.ResponseWriter, r *http.Request) error {
	if _, ok := d.who(r); !ok {
		http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
		return nil
	}
	d.render(w, r, http.StatusOK, "new", form{Timezone: "UTC", Zones: zones()})
	return nil
}

func (d *Dashboard) createPage(w http.ResponseWriter, r *http.Request) error {
	who, ok := d.who(r)
	if !ok {
		http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
		return nil
	}
	if err := parse(w, r); err != nil {
		return err
	}
	f := form{Handle: r.PostForm.Get("handle"), Title: r.PostForm.Get("title"), Timezone: r.PostForm.Get("timezone"), Zones: zones()}
	p, err := d.Profiles.Create(r.Context(), who.AccountID, profile.Change{Handle: &f.Handle, Title: &f.Title, Timezone: &f.Timezone})
	var invalid *profile.Invalid
	switch {
	case errors.As(err, &invalid):
		f.Field, f.Problem = invalid.Field, sentence(invalid.Message)
	case errors.Is(err, profile.ErrHandleTaken):
		f.Field, f.Problem = "handle", "This address is taken. Choose another."
	case errors.Is(err, profile.ErrTooMany):
		f.Problem = "An account cannot have more pages."
	case err != nil:
		return err
	default:
		http.Redirect(w, r, "/pages/"+p.Handle, http.StatusSeeOther)
		return nil
	}
	d.render(w, r, http.StatusUnprocessableEntity, "new", f)
	return nil
}
