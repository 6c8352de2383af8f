// Package redirector is the visitors' service: it answers links and profile pages and records every visit, exactly once.
//
// The way of one visit through the folders: visit answers it, with what directory knows, target makes of a link, and page shows of a
// profile; address, class, country, hammer, owner and visitor say who came; journal keeps the event; shipper brings it to Kafka.
package redirector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/redirector/address"
	"spillway.dev/redirector/class"
	"spillway.dev/redirector/country"
	"spillway.dev/redirector/directory"
	"spillway.dev/redirector/journal"
	"spillway.dev/redirector/owner"
	"spillway.dev/redirector/page"
	"spillway.dev/redirector/shipper"
	"spillway.dev/redirector/visit"
	"spillway.dev/redirector/visitor"
	"spillway.dev/schemas/event"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/lifecycle"
)

// Config of the service.
type Config struct {
	Listen        string        `name:"visitors-listen" env:"SPILLWAY_VISITORS_LISTEN" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where visitors reach pages and links."`
	Public        string        `name:"pages-url" env:"SPILLWAY_PUBLIC_URL" placeholder:"URL" help:"Base URL under which visitors reach pages and links; it stands in the pages. Empty: http:// and the address above."`
	Trusted       []string      `name:"trusted-proxies" env:"SPILLWAY_TRUSTED_PROXIES" default:"127.0.0.0/8,::1/128" sep:"," placeholder:"NETWORK,..." help:"Networks of the proxies whose X-Forwarded-For and country header are believed."`
	CountryHeader string        `name:"country-header" env:"SPILLWAY_COUNTRY_HEADER" placeholder:"NAME" help:"Header in which a trusted proxy writes the visitor's country, as CF-IPCountry. Empty: none."`
	Countries     string        `name:"country-database" env:"SPILLWAY_COUNTRY_DATABASE" placeholder:"FILE" help:"Database in MaxMind's format that tells the country of an address. Empty or 'none': none; 'spillway run' takes the one that the set-up fetched, unless it is 'none'."`
	Rules         string        `name:"rules" env:"SPILLWAY_RULES" placeholder:"FILE" help:"The operator's own rules about who is a person (docs/counting.md); followed while it changes. Empty: none."`
	Views         string        `name:"views" env:"SPILLWAY_VIEWS" default:"page" enum:"page,beacon" help:"What counts a view: the rendered page, or the page's own beacon, so that a CDN may keep pages."`
	Journal       string        `name:"journal" env:"SPILLWAY_JOURNAL" placeholder:"DIRECTORY" help:"Directory of the journal, on a disk that outlives the process. One redirector each."`
	JournalBytes  int64         `name:"journal-bytes" env:"SPILLWAY_JOURNAL_BYTES" default:"4294967296" help:"Most bytes of the journal; beyond, events are dropped and counted."`
	SegmentBytes  int64         `name:"journal-segment-bytes" env:"SPILLWAY_JOURNAL_SEGMENT_BYTES" default:"33554432" help:"Size of one of the journal's files, in bytes."`
	Sync          time.Duration `name:"journal-sync" env:"SPILLWAY_JOURNAL_SYNC" default:"1s" help:"How often the journal is forced to the disk: the most that a power failure can take. Negative: when the kernel likes."`
	Partitions    uint32        `name:"partitions" env:"SPILLWAY_PARTITIONS" default:"4" help:"Partitions of the topic that a stream is laid over; not more than the topic has."`
	Run           uint32        `name:"partition-run" env:"SPILLWAY_PARTITION_RUN" default:"128" help:"Events in a row that go to the same partition."`
	Compression   string        `name:"compression" env:"SPILLWAY_COMPRESSION" default:"snappy" enum:"none,lz4,zstd,snappy" help:"Compression of what is sent to Kafka."`
	Snapshot      string        `name:"snapshot" env:"SPILLWAY_SNAPSHOT" placeholder:"FILE" help:"File that keeps known profiles and links over a restart. Empty: the journal's directory with .snapshot behind it. 'none': no file."`
	CacheBytes    int64         `name:"cache-bytes" env:"SPILLWAY_CACHE_BYTES" default:"134217728" help:"Memory for known profiles and links, in bytes. A link takes some 20 beside its code and target; links take three quarters at most, profiles the rest."`
	LoadTimeout   time.Duration `name:"load-timeout" env:"SPILLWAY_LOAD_TIMEOUT" default:"1s" help:"How long a visitor waits for PostgreSQL to tell of an unseen profile or link."`
	Connections   int           `name:"visitors-connections" env:"SPILLWAY_VISITORS_CONNECTIONS" default:"32768" help:"Most connections of visitors at once."`
	Farewell      time.Duration `name:"farewell" env:"SPILLWAY_FAREWELL" default:"5s" help:"How long events are still sent to Kafka at the end. What is left is sent by the next start."`
	Pool          int32         `name:"visitors-database-connections" env:"SPILLWAY_VISITORS_DATABASE_CONNECTIONS" default:"6" help:"Most connections to PostgreSQL, beside the one that hears of changes."`
}

// grace is how long the requests that are being answered may take at the end.
const grace = 3 * time.Second

// Service is the visitors' service.
type Service struct {
	log       *slog.Logger
	pool      *pgxpool.Pool
	journal   *journal.Journal
	shipper   *shipper.Shipper
	directory *directory.Directory
	salts     *visitor.Salts
	owners    *owner.Keys
	countries *country.Database // nil: none
	rules     *class.Rulebook   // nil: none
	server    *visit.Server
	listener  net.Listener
	farewell  time.Duration
	close     sync.Once
}

// New checks the configuration, opens the journal and takes the address, so that a directory or a port in use is known before
// anything else starts. It waits for no engine: the first visitor is served while all of them are away. where needs Kafka's and
// PostgreSQL's addresses.
func New(ctx context.Context, c Config, where engines.Addresses, log *slog.Logger, registry prometheus.Registerer, health *admin.Health) (_ *Service, err error) {
	s := &Service{log: log, farewell: c.Farewell}
	defer func() {
		if err != nil {
			s.shut()
		}
	}()
	trusted, err := address.ParseNetworks(c.Trusted)
	if err != nil {
		return nil, fmt.Errorf("%w (SPILLWAY_TRUSTED_PROXIES)", err)
	}
	views, err := page.ParseViews(c.Views)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Journal == "":
		return nil, errors.New("the journal has no directory: set SPILLWAY_JOURNAL to one that outlives the process")
	case c.Pool < 2:
		return nil, fmt.Errorf("%d connections to PostgreSQL: use at least 2 (SPILLWAY_VISITORS_DATABASE_CONNECTIONS)", c.Pool)
	case c.Farewell <= 0:
		return nil, fmt.Errorf("a farewell of %s: use some time, as 5s (SPILLWAY_FAREWELL)", c.Farewell)
	case c.LoadTimeout <= 0:
		return nil, fmt.Errorf("a visitor waits %s for PostgreSQL: use some time, as 1s (SPILLWAY_LOAD_TIMEOUT)", c.LoadTimeout)
	}
	// A connection that is silent for long is closed anyway: the kernel need not ask, nor be told four times a visitor how it should.
	silent := net.ListenConfig{KeepAlive: -1}
	if s.listener, err = silent.Listen(ctx, "tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("visitors' address %s: %w: choose another (SPILLWAY_VISITORS_LISTEN)", c.Listen, err)
	}
	if c.Public == "" {
		c.Public = "http://" + s.Address()
	}
	pages, err := page.NewRenderer(c.Public, views)
	if err != nil {
		return nil, err
	}
	if s.pool, err = where.OpenPostgres(ctx, c.Pool); err != nil {
		return nil, err
	}
	if s.journal, err = journal.Open(journal.Options{
		Dir: c.Journal, SegmentBytes: c.SegmentBytes, MaxBytes: c.JournalBytes, SyncInterval: c.Sync,
		Lanes:  event.Lanes{Partitions: c.Partitions, Run: c.Run},
		Logger: log.With("part", "journal"), Registerer: registry,
	}); err != nil {
		return nil, err
	}
	if s.shipper, err = shipper.New(s.journal, shipper.Options{
		Brokers: where.Kafka, Topic: where.Topic, Compression: c.Compression, CloseTimeout: c.Farewell,
		Logger: log.With("part", "shipper"), Registerer: registry,
	}); err != nil {
		return nil, err
	}
	// After the journal, whose lock keeps others away from the snapshot too.
	if s.directory, err = directory.New(directory.Options{
		CacheBytes: c.CacheBytes, LoadTimeout: c.LoadTimeout, Snapshot: c.snapshot(),
	}, s.pool, log.With("part", "directory"), registry); err != nil {
		return nil, err
	}
	s.salts = visitor.NewSalts(s.pool, time.Now, log.With("part", "visitor"))
	s.owners = owner.NewKeys(s.pool, log.With("part", "owner"))
	options := visit.Options{
		Names: s.directory, Journal: s.journal, Visitors: s.salts, Owners: s.owners, Pages: pages,
		Trusted: trusted, CountryHeader: c.CountryHeader,
		Log: log.With("part", "visit"), Registry: registry,
	}
	if c.Countries != "" && c.Countries != "none" {
		if s.countries, err = country.Open(c.Countries, log.With("part", "country")); err != nil {
			return nil, fmt.Errorf("%w (SPILLWAY_COUNTRY_DATABASE)", err)
		}
		options.Countries = s.countries
	}
	if c.Rules != "" {
		if s.rules, err = class.OpenRulebook(c.Rules, log.With("part", "rules"), registry); err != nil {
			return nil, err
		}
		options.Rules = s.rules
	}
	handler, err := visit.NewHandler(options)
	if err != nil {
		return nil, err
	}
	if s.server, err = visit.NewServer(handler, visit.Limits{Connections: c.Connections}); err != nil {
		return nil, err
	}
	if err = registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_redirector_connections", Help: "Open connections of visitors.",
	}, func() float64 { return float64(s.server.Connections()) })); err != nil {
		return nil, fmt.Errorf("visitors' metrics: %w", err)
	}
	// Ready as soon as it listens: a redirector that is taken out of service because an engine is away turns visitors away.
	health.Add("visitors", s.listens)
	return s, nil
}

func (c Config) snapshot() string {
	switch c.Snapshot {
	case "":
		return c.Journal + ".snapshot"
	case "none":
		return ""
	}
	return c.Snapshot
}

// Address is where the service listens, with the port that the kernel chose.
func (s *Service) Address() string { return s.listener.Addr().String() }

// listens tells whether a visitor can connect.
func (s *Service) listens(ctx context.Context) error {
	var d net.Dialer
	connection, err := d.DialContext(ctx, "tcp", s.Address())
	if err != nil {
		return fmt.Errorf("connect as a visitor: %w", err)
	}
	return connection.Close()
}

// Run serves visitors until ctx ends. Then it finishes what is being answered, ships what is journaled as far as it gets within some
// seconds, and closes the journal; what is left is shipped by the next start.
func (s *Service) Run(ctx context.Context) error {
	defer s.shut()
	s.log.Info("serving visitors", "address", s.Address())
	parts := []lifecycle.Part{
		{Name: "visitors", Grace: grace + time.Second, Run: func(ctx context.Context) error {
			return s.server.Run(ctx, s.listener, grace)
		}},
		{Name: "salts", Run: s.salts.Run},
		{Name: "owners", Run: s.owners.Run},
		{Name: "directory", Run: s.directory.Run},
		{Name: "shipper", Grace: s.farewell + 2*time.Second, Run: s.shipper.Run},
	}
	if s.countries != nil {
		parts = append(parts, lifecycle.Part{Name: "countries", Run: s.countries.Run})
	}
	if s.rules != nil {
		parts = append(parts, lifecycle.Part{Name: "rules", Run: s.rules.Run})
	}
	return lifecycle.Run(ctx, s.log, parts...)
}

// shut lets go of everything that New took.
func (s *Service) shut() {
	s.close.Do(func() {
		if s.listener != nil {
			s.listener.Close()
		}
		if s.directory != nil {
			s.directory.Close()
		}
		if s.journal != nil {
			if err := s.journal.Close(); err != nil {
				s.log.Error("the journal did not close well; the next start finds what it has", "error", err)
			}
		}
		if s.pool != nil {
			closePool(s.pool)
		}
	})
}

// closePool says goodbye to PostgreSQL, but does not wait long for one that says nothing.
func closePool(pool *pgxpool.Pool) {
	done := make(chan struct{})
	go func() {
		pool.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
