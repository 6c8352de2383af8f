// Package profileapi is the creators' service: accounts, profiles, links, the numbers that they earn, and the dashboard.
package profileapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/api"
	"spillway.dev/profileapi/dashboard"
	"spillway.dev/profileapi/export"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/leader"
	"spillway.dev/profileapi/limit"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/mail"
	"spillway.dev/profileapi/profile"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
)

// Config of the service.
type Config struct {
	Listen      string   `name:"api-listen" env:"SPILLWAY_API_LISTEN" default:"127.0.0.1:8081" placeholder:"HOST:PORT" help:"Where creators reach the dashboard and the API."`
	Public      string   `name:"public-url" env:"SPILLWAY_PUBLIC_URL" placeholder:"URL" help:"Base URL under which visitors reach pages and links. Empty: http://127.0.0.1:8080; in 'spillway run' its own visitors' address."`
	Visitors    []string `name:"own-addresses" env:"SPILLWAY_OWN_ADDRESSES" sep:"," placeholder:"HOST:PORT" help:"Further addresses under which the redirectors are reached. A link to a tracked link of ours is refused: it could lead in a circle."`
	Demo        string   `name:"demo-profile" env:"SPILLWAY_DEMO_PROFILE" placeholder:"HANDLE" help:"Profile whose numbers the page at / shows to everybody. Empty: none."`
	Origin      string   `name:"dashboard-url" env:"SPILLWAY_DASHBOARD_URL" placeholder:"URL" help:"Base URL under which creators reach the dashboard. With https, cookies are sent over https only. Default: http and the address of api-listen."`
	SignUp      bool     `name:"sign-up" env:"SPILLWAY_SIGN_UP" default:"true" negatable:"" help:"Let anybody make an account on the dashboard."`
	Private     bool     `name:"private-webhooks" env:"SPILLWAY_PRIVATE_WEBHOOKS" help:"Let webhooks lead to this machine and the network around it, and over http."`
	SMTP        string   `name:"smtp-url" env:"SPILLWAY_SMTP_URL" placeholder:"URL" help:"Mail server: smtp://USER:PASSWORD@HOST:PORT (STARTTLS) or smtps://. Alerts and weekly reports go by mail then. Empty: there is no mail."`
	MailFrom    string   `name:"mail-from" env:"SPILLWAY_MAIL_FROM" default:"Spillway <spillway@localhost>" placeholder:"ADDRESS" help:"Who writes the mail."`
	Rate        int      `name:"api-rate" env:"SPILLWAY_API_RATE" default:"3000" help:"Requests that each token may make in a minute. 0: as many as it likes."`
	Exports     int      `name:"api-exports" env:"SPILLWAY_API_EXPORTS" default:"4" help:"Exports of single events (GET /v1/export) that may run at once; one client may run two of them."`
	Connections int32    `name:"api-database-connections" env:"SPILLWAY_API_DATABASE_CONNECTIONS" default:"10" help:"Most connections to PostgreSQL."`
}

// Service is the creators' service.
type Service struct {
	config   Config
	where    engines.Addresses
	log      *slog.Logger
	pool     *pgxpool.Pool
	columnar driver.Conn
	api      *api.API
	hub      *live.Hub
	alerts   *alert.Watch
	outbox   *alert.Outbox
	notes    *annotation.Watch
	listener net.Listener
	migrated chan struct{} // closed when the schema of Postgres is in place
	stopping chan struct{} // closed when Run begins to stop
}

// New checks the configuration and takes the address, so that a port in use is known before anything else starts. It waits for no
// engine. metrics and health get what this service has to say.
func New(ctx context.Context, config Config, where engines.Addresses, log *slog.Logger, metrics prometheus.Registerer, health *admin.Health) (_ *Service, err error) {
	config.Public = cmp.Or(config.Public, "http://127.0.0.1:8080")
	public, err := url.Parse(config.Public)
	if err != nil || public.Host == "" || public.Scheme != "http" && public.Scheme != "https" || public.RawQuery != "" || public.Fragment != "" {
		return nil, fmt.Errorf("public URL %q: use http://HOST or https://HOST (SPILLWAY_PUBLIC_URL)", config.Public)
	}
	for _, address := range config.Visitors {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("own address %q: use HOST:PORT (SPILLWAY_OWN_ADDRESSES)", address)
		}
	}
	// Two of them hold the locks of whoever looks for alerts and for what is to be noted.
	if config.Connections < 4 {
		return nil, fmt.Errorf("%d connections to PostgreSQL: use at least 4 (SPILLWAY_API_DATABASE_CONNECTIONS)", config.Connections)
	}
	if config.Exports < 1 {
		return nil, fmt.Errorf("%d exports at once: use at least 1 (SPILLWAY_API_EXPORTS)", config.Exports)
	}
	s := &Service{config: config, where: where, log: log, migrated: make(chan struct{}), stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	options, layout, err := where.ClickHouseOptions()
	if err != nil {
		return nil, err
	}
	if s.columnar, err = clickhouse.Open(options); err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	if s.pool, err = where.OpenPostgres(ctx, config.Connections); err != nil {
		return nil, err
	}
	profiles := profile.NewStore(s.pool, profile.NewRules([]string{config.Public}, config.Visitors))
	accounts := account.NewStore(s.pool)
	reader := insight.NewReader(s.columnar, s.pool, layout)
	if s.hub, err = live.NewHub(s.pool, reader, live.Options{}, log, metrics); err != nil {
		return nil, err
	}
	exports, err := export.NewSource(where, export.Options{AtOnce: config.Exports}, metrics)
	if err != nil {
		return nil, err
	}
	var post *mail.Post
	if config.SMTP != "" {
		if post, err = mail.NewPost(mail.Options{URL: config.SMTP, From: config.MailFrom}); err != nil {
			return nil, err
		}
	}
	s.alerts = alert.NewWatch(s.pool, reader, alert.Options{Mail: post != nil}, log)
	s.notes = annotation.NewWatch(s.pool, reader)
	var quota *limit.Limiter
	if config.Rate > 0 {
		quota = limit.New(limit.Policy{Name: "default", Quota: config.Rate, Window: time.Minute}, nil)
	}
	if s.listener, err = net.Listen("tcp", config.Listen); err != nil {
		return nil, fmt.Errorf("creators' address %s: %w: choose another (SPILLWAY_API_LISTEN)", config.Listen, err)
	}
	origin := config.Origin
	if origin == "" {
		origin = "http://" + s.Address()
	}
	if s.outbox, err = alert.NewOutbox(s.pool, alert.OutboxOptions{Private: config.Private, Post: post, Origin: origin}, log, metrics); err != nil {
		return nil, err
	}
	if s.api, err = api.New(api.Options{
		Pool: s.pool, Accounts: accounts, Profiles: profiles, Reader: reader, Hub: s.hub, Exports: exports, Limit: quota,
		PrivateWebhooks: config.Private, Mail: post != nil, Stopping: s.stopping, Cookie: dashboard.CookieName(strings.HasPrefix(origin, "https:")), Public: config.Public, Log: log, Metrics: metrics,
	}); err != nil {
		return nil, err
	}
	page, err := dashboard.New(dashboard.Options{Demo: config.Demo, Public: config.Public, Origin: origin, SignUp: config.SignUp, Pool: s.pool, Accounts: accounts,
		Profiles: profiles, Reader: reader, Hub: s.hub, Mail: post != nil, PrivateWebhooks: config.Private, Log: log, Stopping: s.stopping})
	if err != nil {
		return nil, err
	}
	page.Register(s.api.Handle)
	health.Add("postgres", s.pool.Ping)
	health.Add("postgres schema", func(context.Context) error {
		if !s.open() {
			return errNotMigrated
		}
		return nil
	})
	return s, nil
}

// Address is where the service listens, with the port that the kernel chose.
func (s *Service) Address() string { return s.listener.Addr().String() }

// errNotMigrated is told while requests are refused.
var errNotMigrated = errors.New("the database's schema is not in place yet")

// open says whether requests are answered.
func (s *Service) open() bool {
	select {
	case <-s.migrated:
		return true
	default:
		return false
	}
}

// gate refuses requests until the schema is in place: one that met a migration would find half of a schema, or wait for its locks while
// the migration waits for those of the request.
func (s *Service) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.open() {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"title":"Service Unavailable","status":503,"detail":"%s; try again in a moment"}`+"\n", errNotMigrated)
	})
}

// Run serves until ctx ends. Postgres may be away at first: requests are refused with 503 until its schema is in place.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	server := &http.Server{
		// Browsers say where a request comes from: one that changes something for another site's page is refused, whoever is signed in.
		Handler:           s.gate(http.NewCrossOriginProtection().Handler(s.api)),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	working, stopWorking := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer func() { stopWorking(); workers.Wait() }()
	workers.Go(func() {
		if !s.migrate(working) {
			return
		}
		close(s.migrated)
		workers.Go(func() { s.hub.Run(working) })
		workers.Go(func() { s.outbox.Run(working) })
		workers.Go(func() {
			leader.Every(working, 10*time.Second, s.pool, leader.Alerts, s.log.With("part", "alerts"), s.alerts.Round)
		})
		workers.Go(func() {
			leader.Every(working, 20*time.Second, s.pool, leader.Annotations, s.log.With("part", "annotations"), s.notes.Round)
		})
	})

	select {
	case err := <-served:
		return fmt.Errorf("serve creators: %w", err)
	case <-ctx.Done():
	}
	close(s.stopping)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close()
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("stop serving creators: %w", err)
		}
	}
	return nil
}

// migrate brings the schema of Postgres to the newest version, however long Postgres stays away. It returns false if ctx ended first.
func (s *Service) migrate(ctx context.Context) bool {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := postgres.Migrate(ctx, s.where.Database)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.log.Warn("PostgreSQL's schema cannot be brought up to date yet", "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Service) close() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.columnar != nil {
		s.columnar.Close()
	}
}
