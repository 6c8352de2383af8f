package dashboard

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"spillway.dev/schemas/ownertoken"
	"spillway.dev/schemas/postgres"
)

// ownerToken signs that somebody is the owner of a page.
func (d *Dashboard) ownerToken(ctx context.Context, purpose ownertoken.Purpose, profile int64) (string, error) {
	key, err := postgres.Secret(ctx, d.Pool, ownertoken.Secret)
	if err != nil {
		return "", err
	}
	return ownertoken.Sign(key, purpose, uint64(profile), time.Now().Add(ownertoken.LinkTime)), nil
}

// leadBrowser leads the browser to the public page, which makes it the owner's, whose visits are left out of the numbers, or one like any
// other. It is a GET, because a form may lead to no other host (policy); another site's page may not have it followed.
func (d *Dashboard) leadBrowser(purpose ownertoken.Purpose) pageOf {
	return func(w http.ResponseWriter, r *http.Request, v viewer) error {
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			return &refusal{http.StatusForbidden, "This comes from another site", "Open your page here, and choose it yourself."}
		}
		token, err := d.ownerToken(r.Context(), purpose, v.ID)
		if err != nil {
			return err
		}
		w.Header().Set("Referrer-Policy", "no-referrer")
		http.Redirect(w, r, d.Public+"/"+v.Handle+"?"+ownertoken.Parameter+"="+token, http.StatusSeeOther)
		return nil
	}
}

// previewAgent is the User-Agent of the dashboard's own requests.
const previewAgent = "Spillway-Preview"

// maxPreview is the largest page that is shown as a preview, in bytes.
const maxPreview = 1 << 20

// showPreview shows the public page as visitors see it, in a frame beside the form. It is fetched as the owner's own visit.
func (d *Dashboard) showPreview(w http.ResponseWriter, r *http.Request, v viewer) error {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, d.Public+"/"+v.Handle, nil)
	if err != nil {
		return fmt.Errorf("preview of %s: %w", v.Handle, err)
	}
	token, err := d.ownerToken(r.Context(), ownertoken.Browser, v.ID)
	if err != nil {
		return err
	}
	request.AddCookie(&http.Cookie{Name: ownertoken.CookiePrefix + strconv.FormatInt(v.ID, 10), Value: token})
	// A redirector that does not know the key yet takes it for a preview, by its name.
	request.Header.Set("User-Agent", previewAgent)
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
