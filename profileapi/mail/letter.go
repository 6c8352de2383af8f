package mail

import (
	"bytes"
	"embed"
	"fmt"
	html "html/template"
	"net/url"
	"strconv"
	"strings"
	text "text/template"
	"time"

	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/weekly"
)

//go:embed templates
var files embed.FS

// Letters are written for the people who reach the dashboard at one address.
type Letters struct {
	origin string
	key    []byte
	html   *html.Template
	text   *text.Template
}

// NewLetters returns a writer of letters. origin is the dashboard's base URL, and key signs what unsubscribes.
func NewLetters(origin string, key []byte) (*Letters, error) {
	l := &Letters{origin: strings.TrimRight(origin, "/"), key: key}
	functions := map[string]any{"percent": percent, "change": change, "origin": originName, "count": count, "number": insight.Number}
	var err error
	if l.html, err = html.New("").Funcs(functions).ParseFS(files, "templates/*.html"); err != nil {
		return nil, fmt.Errorf("parse letters: %w", err)
	}
	if l.text, err = text.New("").Funcs(functions).ParseFS(files, "templates/*.txt"); err != nil {
		return nil, fmt.Errorf("parse letters: %w", err)
	}
	return l, nil
}

// About is whose letter it is, and about what.
type About struct {
	To      string // address
	Profile int64
	Handle  string
	Title   string
	Alert   int64 // names the letter
}

func (l *Letters) page(a About) string { return l.origin + "/pages/" + url.PathEscape(a.Handle) }

func (l *Letters) write(a About, kind Kind, template, subject, address string, more any) (Letter, error) {
	letter := Letter{To: a.To, Subject: subject, ID: "alert." + strconv.FormatInt(a.Alert, 10), Unsubscribe: l.origin + UnsubscribePath + Token(l.key, kind, a.Profile)}
	data := map[string]any{"Subject": subject, "Page": a.Title, "Address": address, "Unsubscribe": letter.Unsubscribe, "More": more}
	var b bytes.Buffer
	if err := l.text.ExecuteTemplate(&b, template+".txt", data); err != nil {
		return Letter{}, fmt.Errorf("write letter about alert %d: %w", a.Alert, err)
	}
	letter.Text = b.String()
	b.Reset()
	if err := l.html.ExecuteTemplate(&b, template+".html", data); err != nil {
		return Letter{}, fmt.Errorf("write letter about alert %d: %w", a.Alert, err)
	}
	letter.HTML = b.String()
	return letter, nil
}

// Alert writes what an alert says.
func (l *Letters) Alert(a About, says string, at time.Time) (Letter, error) {
	return l.write(a, Alerts, "alert", a.Title+": "+strings.TrimRight(says, "."), l.page(a), map[string]any{"Says": says, "At": at.UTC().Format("2 January 2006, 15:04 UTC")})
}

// Weekly writes a week's report.
func (l *Letters) Weekly(a About, r *weekly.Report) (Letter, error) {
	return l.write(a, Weekly, "weekly", a.Title+": your week, "+r.Span(), l.page(a)+"?"+r.Days().Encode(), r)
}

func percent(rate *float64) string {
	if rate == nil {
		return "–"
	}
	return strconv.FormatFloat(*rate*100, 'f', 1, 64) + " %"
}

func change(c *float64) string {
	if c == nil {
		return ""
	}
	return weekly.Percent(*c)
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return insight.Number(n) + " " + what + "s"
}

// originName is where visits came from in a word.
func originName(o weekly.Origin) string { return insight.ValueName(o.Dimension, o.Value) }
