// Package dashboard is the page at / : the numbers of one profile that anybody may see, live, rendered on the server.
package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var style string

//go:embed page.js
var script string

// refresh is how often the numbers are read while somebody watches, and how long they are shown before they are read again.
const refresh = time.Second

// maxWatchers bounds the open event streams of one process; a browser that gets none falls back to the page's own refresh.
const maxWatchers = 200

// Dashboard shows the profile with one handle. Its zero value is not usable.
type Dashboard struct {
	handle   string
	public   string
	pool     *pgxpool.Pool
	profiles *profile.Store
	reader   *insight.Reader
	log      *slog.Logger
	page     *template.Template
	policy   string

	watchers chan struct{} // a place for each open event stream

	mu      sync.Mutex // guards what follows, and lets one request read for all
	read    time.Time
	content []byte
}

// New returns the page of the profile with that handle. public is the base URL of the visitors' pages. An empty handle: the page only
// says where the API is.
func New(handle, public string, pool *pgxpool.Pool, profiles *profile.Store, reader *insight.Reader, log *slog.Logger) (*Dashboard, error) {
	page, err := template.New("page").Funcs(template.FuncMap{"number": number, "percent": percent, "count": count}).Parse(pageSource)
	if err != nil {
		return nil, fmt.Errorf("parse the dashboard's page: %w", err)
	}
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return &Dashboard{
		handle: handle, public: strings.TrimRight(public, "/"), pool: pool, profiles: profiles, reader: reader, log: log, page: page,
		policy: "default-src 'none'; style-src " + hash(style) + "; script-src " + hash(script) +
			"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		watchers: make(chan struct{}, maxWatchers),
	}, nil
}

// view is what the template shows.
type view struct {
	Handle, Title, URL string
	Missing            bool // there is no such profile
	Life               insight.Lifetime
	CTR                *float64
	Links              []bar
	Chart              *chart
	Through            string
	Behind             string
	HeldBack           int
	Zone               string
}

type bar struct {
	insight.LinkClicks
	Share int // percent of the most clicked
}

// chart is a timeline drawn as SVG.
type chart struct {
	Views, Clicks string // polylines' points
	Area          string // polygon under the views
	Top           int64
	Rows          []row
}

type row struct {
	Time          string
	Views, Clicks int64
}

const chartWidth, chartHeight = 960, 200

func draw(points []insight.Point) *chart {
	c := &chart{Top: 1}
	for _, p := range points {
		views, clicks := p.Of([]insight.Class{insight.Person})
		c.Top = max(c.Top, views, clicks)
	}
	var views, clicks []string
	for i, p := range points {
		x := float64(i) * chartWidth / float64(max(len(points)-1, 1))
		y := func(n int64) float64 { return chartHeight - float64(n)*chartHeight/float64(c.Top) }
		seen, clicked := p.Of([]insight.Class{insight.Person})
		views = append(views, fmt.Sprintf("%.1f,%.1f", x, y(seen)))
		clicks = append(clicks, fmt.Sprintf("%.1f,%.1f", x, y(clicked)))
		c.Rows = append(c.Rows, row{Time: p.Start.Format("Mon 15:04"), Views: seen, Clicks: clicked})
	}
	c.Views, c.Clicks = strings.Join(views, " "), strings.Join(clicks, " ")
	c.Area = fmt.Sprintf("0,%d %s %d,%d", chartHeight, c.Views, chartWidth, chartHeight)
	return c
}

func (d *Dashboard) look(ctx context.Context) (view, error) {
	v := view{Handle: d.handle, URL: d.public + "/" + d.handle}
	if d.handle == "" {
		return v, nil
	}
	p, err := d.profiles.ByHandle(ctx, d.handle)
	if errors.Is(err, profile.ErrNotFound) {
		v.Missing = true
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.Title, v.Zone = p.Title, p.Timezone
	classes := []insight.Class{insight.Person}
	if v.Life, err = insight.ReadLifetime(ctx, d.pool, p.ID, classes); err != nil {
		return v, err
	}
	v.CTR = insight.Rate(v.Life.Counted.Clicks, v.Life.Counted.Views)
	v.HeldBack = len(v.Life.Completeness.HeldBack)
	location, err := time.LoadLocation(p.Timezone)
	if err != nil {
		return v, fmt.Errorf("time zone of profile %d: %w", p.ID, err)
	}
	now := time.Now().In(location)
	if through := v.Life.Completeness.Through; through != nil {
		v.Through = through.In(location).Format("15:04:05")
		if through.In(location).Format(time.DateOnly) != now.Format(time.DateOnly) {
			v.Through = through.In(location).Format("2 January 15:04:05")
		}
	}
	var most int64
	for _, l := range v.Life.Links {
		most = max(most, l.Clicks)
	}
	for _, l := range v.Life.Links {
		v.Links = append(v.Links, bar{LinkClicks: l, Share: int(l.Clicks * 100 / max(most, 1))})
	}
	points, _, err := d.reader.Series(ctx, insight.Question{Profile: p.ID, From: insight.Hour.Back(now, 24), To: now}, insight.Hour)
	if err != nil {
		d.log.Warn("dashboard without its timeline", "error", err)
		return v, nil
	}
	v.Chart = draw(points)
	return v, nil
}

// numbers returns the part of the page that changes. One request at a time reads it; the others take what that one read.
func (d *Dashboard) numbers(ctx context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.content != nil && time.Since(d.read) < refresh*9/10 {
		return d.content, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	v, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := d.page.ExecuteTemplate(&b, "numbers", v); err != nil {
		return nil, fmt.Errorf("render the dashboard: %w", err)
	}
	d.content, d.read = b.Bytes(), time.Now()
	return d.content, nil
}

// ServeHTTP answers with the page.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, err := d.numbers(r.Context())
	status := http.StatusOK
	if err != nil {
		d.log.Warn("dashboard without numbers", "error", err)
		status = http.StatusServiceUnavailable
		content = []byte(`<p class="note" role="status">The database does not answer. This page tries again by itself.</p>`)
	}
	var b bytes.Buffer
	err = d.page.ExecuteTemplate(&b, "page", map[string]any{
		"Style": template.CSS(style), "Script": template.JS(script), "Numbers": template.HTML(content), "Live": d.handle != "",
	})
	if err != nil {
		d.log.Error("the dashboard cannot be rendered", "error", err)
		http.Error(w, "The page cannot be shown; it is logged.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", d.policy)
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// Live answers with an event stream that sends the numbers whenever they change, until the reader leaves or stopping ends.
func (d *Dashboard) Live(stopping context.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case d.watchers <- struct{}{}:
			defer func() { <-d.watchers }()
		default:
			w.Header().Set("Retry-After", "10")
			http.Error(w, "Too many watch already; reload the page instead.", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		control := http.NewResponseController(w)
		tick := time.NewTicker(refresh)
		defer tick.Stop()
		var last []byte
		for {
			content, err := d.numbers(r.Context())
			message := ": still here\n\n"
			if err == nil && !bytes.Equal(content, last) {
				last = content
				message = "data: " + strings.ReplaceAll(string(content), "\n", "\ndata: ") + "\n\n"
			}
			// A reader that takes nothing must not hold a place for ever.
			if err := control.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return
			}
			if _, err := w.Write([]byte(message)); err != nil || control.Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			case <-stopping.Done():
				return
			}
		}
	})
}

// number writes n with narrow spaces between thousands.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

func percent(rate *float64) string {
	if rate == nil {
		return "–"
	}
	return strconv.FormatFloat(*rate*100, 'f', 1, 64) + "\u202f%"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
