// Package api is the creators' HTTP interface: operations under /v1, described by the OpenAPI 3.1 document that it serves, with RFC 9457
// problem documents as errors.
package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/export"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/limit"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/share"
)

// Version of the interface, as its document says. The first number changes with what breaks clients.
const Version = "1.1.0"

// API answers creators' requests.
type API struct {
	accounts *account.Store
	profiles *profile.Store
	pool     *pgxpool.Pool
	reader   *insight.Reader
	hub      *live.Hub
	limiter  *limit.Limiter
	cookie   string
	public   string // base of the visitors' addresses, without a slash at its end
	log      *slog.Logger
	now      func() time.Time
	patience time.Duration // with the store of timelines

	annotations *annotation.Store
	shares      *share.Store
	alerts      *alert.Store
	exports     *export.Source
	private     bool
	letters     bool // are sent
	stopping    <-chan struct{}

	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec

	huma     huma.API
	mux      *http.ServeMux
	document []byte // the OpenAPI document as JSON
}

// Options of an API. All are needed.
type Options struct {
	Pool     *pgxpool.Pool
	Accounts *account.Store
	Profiles *profile.Store
	Reader   *insight.Reader
	Hub      *live.Hub
	// Exports gives single events; nil: exports are refused.
	Exports *export.Source
	// Limit counts the requests of each token; nil: they are not limited.
	Limit *limit.Limiter
	// Cookie is the name of the cookie that holds a signed-in browser's session; empty: there are none.
	Cookie string
	// PrivateWebhooks lets webhooks lead to this machine and the network around it, and over http.
	PrivateWebhooks bool
	// Mail says that letters are sent.
	Mail bool
	// Stopping ends open event streams; nil: never.
	Stopping <-chan struct{}
	// Public is the base URL under which visitors reach links and pages, for example https://lnk.example.
	Public  string
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Patience is how long the store of timelines may take for an answer: what has not come then is said to be missing, and the rest is
	// told. Zero: 6 s.
	Patience time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// New returns an API.
func New(o Options) (*API, error) {
	a := &API{
		accounts: o.Accounts, profiles: o.Profiles, pool: o.Pool, reader: o.Reader, hub: o.Hub, limiter: o.Limit, cookie: o.Cookie,
		annotations: annotation.NewStore(o.Pool), shares: share.NewStore(o.Pool), alerts: alert.NewStore(o.Pool), exports: o.Exports, private: o.PrivateWebhooks, letters: o.Mail, stopping: o.Stopping,
		public: strings.TrimRight(o.Public, "/"), log: o.Log, now: o.Now, patience: cmp.Or(o.Patience, 6*time.Second),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_profileapi_requests_total", Help: "Requests by operation and class of status."}, []string{"operation", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "spillway_profileapi_request_duration_seconds", Help: "Time to answer a request, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"operation"}),
		mux: http.NewServeMux(),
	}
	if a.now == nil {
		a.now = time.Now
	}
	for _, c := range []prometheus.Collector{a.requests, a.duration} {
		if err := o.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the API: %w", err)
		}
	}
	config := huma.DefaultConfig("Spillway", Version)
	config.Info.Description = "Profiles, links and the numbers that they earn. Ids are decimal numbers in strings. " +
		"Errors are problem documents (RFC 9457)."
	config.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A token as made by POST /v1/tokens. Its scopes are insights, read, write and admin; each includes the ones before it. The secret of a share link (sh_...) is a token of scope insights for one profile."},
	}
	// The document is served below, complete from the first request; pages that load scripts from elsewhere and links to single
	// schemas are not.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	a.huma = humago.New(a.mux, config)
	a.huma.UseMiddleware(a.measure, a.bound, a.authenticate, a.limit)
	a.registerAccounts()
	a.registerProfiles()
	a.registerLinks()
	a.registerInsights()
	a.registerBreakdowns()
	a.registerTables()
	a.registerEvents()
	a.registerLive()
	a.registerAnnotations()
	a.registerShares()
	a.registerCodes()
	a.registerAlerts()
	a.registerWebhooks()
	a.registerExport()
	if err := a.registerGraph(); err != nil {
		return nil, err
	}

	var err error
	if a.document, err = json.MarshalIndent(a.huma.OpenAPI(), "", "  "); err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	a.document = append(a.document, '\n')
	yaml, err := a.huma.OpenAPI().YAML()
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	a.mux.HandleFunc("GET /openapi.json", serve("application/openapi+json", a.document))
	a.mux.HandleFunc("GET /openapi.yaml", serve("application/openapi+yaml", yaml))
	return a, nil
}

func serve(kind string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(body)
	}
}

// Document is the OpenAPI document that the API serves, as JSON.
func (a *API) Document() []byte { return a.document }

// Handle adds a page to what the API's handler serves.
func (a *API) Handle(pattern string, handler http.Handler) { a.mux.Handle(pattern, handler) }

// ServeHTTP answers a request. What nothing is registered for is a problem document too.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.log.Error("a request made the API panic", "method", r.Method, "path", r.URL.Path, "panic", p)
			problem(w, http.StatusInternalServerError, "the server failed to answer; it is logged")
		}
	}()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	handler, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	// The mux knows whether the path is unknown or only the method; its own answer is plain text.
	var answer refusal
	handler.ServeHTTP(&answer, r)
	switch answer.status {
	case http.StatusMethodNotAllowed:
		allow := a.allowed(r.URL.Path)
		if allow == "" {
			allow = answer.Header().Get("Allow")
		}
		w.Header().Set("Allow", allow)
		problem(w, answer.status, "use "+allow+" here")
	case http.StatusNotFound:
		problem(w, answer.status, "nothing is at "+r.URL.Path+"; GET /openapi.json lists what there is")
	default: // a redirect to the cleaned path
		handler.ServeHTTP(w, r)
	}
	a.requests.WithLabelValues("none", statusClass(answer.status)).Inc()
}

// allowed lists the methods of the operations whose path is the one of a request, as an Allow header does; empty: the document has none.
// The mux would also name those of less exact paths: of /links/{link} at /links/order.
func (a *API) allowed(path string) string {
	segments := strings.Split(path, "/")
	var best []string // methods
	exact := -1       // how many segments are the same
	for template, item := range a.huma.OpenAPI().Paths {
		same := 0
		parts := strings.Split(template, "/")
		for i, part := range parts {
			switch {
			case len(parts) != len(segments):
				same = -1
			case part == segments[i]:
				same++
			case !strings.HasPrefix(part, "{") || segments[i] == "":
				same = -1
			}
			if same < 0 {
				break
			}
		}
		if same <= exact {
			continue
		}
		exact, best = same, nil
		for method, operation := range map[string]*huma.Operation{"GET": item.Get, "HEAD": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch, "DELETE": item.Delete} {
			if operation != nil {
				best = append(best, method)
			}
		}
	}
	slices.Sort(best)
	return strings.Join(best, ", ")
}

// refusal keeps the status and headers of an answer whose body does not matter.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}
func (r *refusal) WriteHeader(status int)      { r.status = status }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }

// problem writes an RFC 9457 problem document.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
}

func statusClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return string("12345"[status/100-1]) + "xx"
}
