// Package page renders what a visitor sees: a profile, or a short notice instead of one. A page is rendered once for each version
// of a profile, as bytes that are then answered again and again. It needs no JavaScript, loads nothing but itself, and fits
// into the first round trips of a connection.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	//go:embed assets/style.css
	styleSource string
	//go:embed assets/beacon.js
	beaconSource string
	//go:embed assets/profile.html
	profileSource string
	//go:embed assets/notice.html
	noticeSource string
	//go:embed assets/favicon.svg
	favicon []byte
)

// Profile is what a profile's page shows.
type Profile struct {
	Handle string
	Title  string
	Bio    string
	Theme  string // "light" or "dark"; anything else follows the visitor's device
	Layout uint32 // the page's version, carried by its links
	Links  []Link
}

// Link is one line of the page, in its place.
type Link struct {
	Host  string // own domain that the code belongs to; empty: the one that the page is on
	Code  string
	Title string
}

// Page is ready to be answered. It is not changed any more.
type Page struct {
	HTML []byte
	Gzip []byte // HTML, compressed
	// ETag and GzipETag name HTML and Gzip: strong, in their quotes, the same on every redirector.
	ETag, GzipETag string
	// Canary is the code of the page's canary (Canary); empty where there is none.
	Canary string
	// Policy is the Content-Security-Policy that allows just what the page contains.
	Policy string
}

// Views says who counts a view of a profile's page.
type Views uint8

const (
	// Rendered counts each answer: pages must not be cached by anyone but their reader.
	Rendered Views = iota
	// Beacon lets the page itself report that it is seen, so that a CDN may keep pages.
	Beacon
)

// ParseViews reads the setting: "page" or "beacon".
func ParseViews(s string) (Views, error) {
	switch s {
	case "page":
		return Rendered, nil
	case "beacon":
		return Beacon, nil
	}
	return Rendered, fmt.Errorf("views %q: use page or beacon (SPILLWAY_VIEWS)", s)
}

// Renderer renders pages. It may be used by many at once.
type Renderer struct {
	public  string
	views   Views
	profile *template.Template
	notice  *template.Template
	style   template.CSS
	script  template.JS
	policy  string // of a profile's page
	plain   string // of a notice
}

// NewRenderer returns a renderer of pages whose addresses begin with public, as in "https://spill.example".
func NewRenderer(public string, views Views) (*Renderer, error) {
	u, err := url.Parse(public)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("public address %q: write it as https://spill.example (SPILLWAY_PUBLIC_URL)", public)
	}
	r := &Renderer{
		public: strings.TrimRight(public, "/"),
		views:  views,
		style:  template.CSS(strings.TrimSpace(styleSource)),
		script: template.JS(strings.TrimSpace(beaconSource)),
	}
	if r.profile, err = template.New("profile").Parse(profileSource); err != nil {
		return nil, fmt.Errorf("template of the profile page: %w", err)
	}
	if r.notice, err = template.New("notice").Parse(noticeSource); err != nil {
		return nil, fmt.Errorf("template of the notices: %w", err)
	}
	r.plain = "default-src 'none'; style-src " + source(string(r.style)) + "; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	r.policy = r.plain
	if views == Beacon {
		r.policy += "; script-src " + source(string(r.script)) + "; connect-src 'self'"
	}
	return r, nil
}

// source names an inline element's content in a Content-Security-Policy.
func source(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Views says who counts the views of this renderer's pages.
func (r *Renderer) Views() Views { return r.views }

// Secure tells whether pages are reached over https.
func (r *Renderer) Secure() bool { return strings.HasPrefix(r.public, "https:") }

// Profile renders a profile's page.
func (r *Renderer) Profile(p Profile) (*Page, error) {
	type link struct{ Address, Title string }
	data := struct {
		Handle, Title, Bio, Description, Canonical, Theme, Initial, Beacon string
		Hue                                                                uint32
		Links                                                              []link
		Canary                                                             string
		Style                                                              template.CSS
		Script                                                             template.JS
	}{
		Handle: p.Handle, Title: p.Title, Bio: p.Bio,
		Description: description(p),
		Canonical:   r.public + "/" + url.PathEscape(p.Handle),
		Initial:     initial(p.Title),
		Hue:         hue(p.Handle),
		Style:       r.style,
		Script:      r.script,
	}
	if p.Theme == "light" || p.Theme == "dark" {
		data.Theme = p.Theme
	}
	version := "?sw_page=" + strconv.FormatUint(uint64(p.Layout), 10)
	if r.views == Beacon {
		data.Beacon = "/b/" + url.PathEscape(p.Handle) + version
	}
	scheme, _, _ := strings.Cut(r.public, "://")
	for _, l := range p.Links {
		address := "/l/" + url.PathEscape(l.Code) + version
		if l.Host != "" {
			address = scheme + "://" + l.Host + address
		}
		data.Links = append(data.Links, link{address, l.Title})
	}
	if len(p.Links) == 0 {
		return finish(r.profile, data, r.policy)
	}
	code := Canary(p.Handle)
	data.Canary = "/l/" + code + version
	rendered, err := finish(r.profile, data, r.policy)
	if err != nil {
		return nil, err
	}
	rendered.Canary = code
	return rendered, nil
}

// Notice is a page that says one thing.
type Notice struct {
	Sign  string // one or two characters in place of a face
	Title string
	Text  string
}

// Notice renders a notice.
func (r *Renderer) Notice(n Notice) (*Page, error) {
	return finish(r.notice, struct {
		Notice
		Style template.CSS
	}{n, r.style}, r.plain)
}

// Favicon is the icon of all pages, image/svg+xml.
func Favicon() []byte { return bytes.Clone(favicon) }

func finish(t *template.Template, data any, policy string) (*Page, error) {
	var html bytes.Buffer
	if err := t.Execute(&html, data); err != nil {
		return nil, fmt.Errorf("render %s page: %w", t.Name(), err)
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compress %s page: %w", t.Name(), err)
	}
	if _, err := w.Write(html.Bytes()); err != nil {
		return nil, fmt.Errorf("compress %s page: %w", t.Name(), err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress %s page: %w", t.Name(), err)
	}
	sum := sha256.Sum256(html.Bytes())
	name := hex.EncodeToString(sum[:8])
	return &Page{
		HTML:     bytes.Clone(html.Bytes()),
		Gzip:     bytes.Clone(packed.Bytes()),
		ETag:     `"` + name + `"`,
		GzipETag: `"` + name + `-gzip"`,
		Policy:   policy,
	}, nil
}

// description is what previews and search engines show: the bio in one line, or what there is.
func description(p Profile) string {
	const most = 200
	text := strings.Join(strings.Fields(p.Bio), " ")
	if text == "" {
		return "All links of " + p.Title + " in one place."
	}
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return strings.TrimSpace(string([]rune(text)[:most-1])) + "…"
}

// initial is the letter that stands for a face.
func initial(title string) string {
	for _, r := range title {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return string(unicode.ToUpper(r))
		}
	}
	return "•"
}

// hue picks one of the style's eight colours, always the same for a handle.
func hue(handle string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(handle))
	return h.Sum32() % 8
}
