// Package standalone is everything in one process tree: the four services and, where no address is given, the engines.
package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/ingest"
	"spillway.dev/profileapi"
	"spillway.dev/profileapi/account"
	"spillway.dev/redirector"
	"spillway.dev/rollup"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/lifecycle"
	"spillway.dev/standalone/demo"
	engine "spillway.dev/standalone/engines"
	"spillway.dev/standalone/tree"
)

// Config of the whole tree.
type Config struct {
	Tree        tree.Config       `embed:"" group:"Data and embedded engines:"`
	Engines     engines.Addresses `embed:"" group:"Engines elsewhere, in the place of an embedded one:"`
	Redirector  redirector.Config `embed:"" group:"Visitors:"`
	ProfileAPI  profileapi.Config `embed:"" group:"Creators:"`
	Ingest      ingest.Config     `embed:"" group:"Ingest:"`
	Rollup      rollup.Config     `embed:"" group:"Rollup:"`
	AdminListen string            `group:"Operators:" name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"127.0.0.1:9090" placeholder:"HOST:PORT" help:"Where metrics, health and profiles are served."`
	WithoutDemo bool              `name:"without-demo" env:"SPILLWAY_WITHOUT_DEMO" help:"Make no demo profile."`
	Started     func(Summary)     `kong:"-"` // called once everything serves
}

// Summary is what somebody needs to know who wants to use what was started.
type Summary struct {
	Data     string
	Visitors string // base URL
	API      string // base URL
	Admin    string // base URL
	Engines  engines.Addresses
	Embedded []string // names of the engines that run in this tree
	Token    string
	Demo     string // code of the demo profile's first link; empty without one
	Took     time.Duration
}

// Run starts the tree and blocks until ctx ends, then stops it: visitors first, engines last. An error is one line with the cure.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	began := time.Now()
	registry, health := admin.NewRegistry(), &admin.Health{}
	for _, a := range []struct{ address, variable string }{
		{c.Redirector.Listen, "SPILLWAY_VISITORS_LISTEN"},
		{c.ProfileAPI.Listen, "SPILLWAY_API_LISTEN"},
		{c.AdminListen, "SPILLWAY_ADMIN_LISTEN"},
	} {
		if err := free(a.address, a.variable); err != nil {
			return err
		}
	}
	operators, err := admin.Listen(c.AdminListen, registry, health, log)
	if err != nil {
		return err
	}
	t, err := tree.Start(ctx, c.Tree, tree.Addresses{Kafka: c.Engines.Kafka, ClickHouse: c.Engines.ClickHouse, Postgres: c.Engines.Database}, c.Engines.Topic, log, registry)
	if err != nil {
		return err
	}
	stopTree := func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		t.Stop(stop)
	}
	where := c.Engines
	where.Kafka, where.ClickHouse, where.Database = t.Addresses.Kafka, t.Addresses.ClickHouse, t.Addresses.Postgres
	services, summary, err := c.services(ctx, t.Data(), where, log, registry, health)
	if err != nil {
		stopTree()
		return err
	}
	summary.Embedded = embedded(c.Engines)
	summary.Admin = "http://" + operators.Address()
	return lifecycle.Run(ctx, log, append(services,
		lifecycle.Part{Name: "metrics", Run: operators.Run},
		lifecycle.Part{Name: "summary", Run: func(ctx context.Context) error {
			if !ready(ctx, health) {
				return nil
			}
			summary.Took = time.Since(began)
			c.Started(summary)
			<-ctx.Done()
			return nil
		}},
		lifecycle.Part{Name: "engines", Grace: 25 * time.Second, Run: func(ctx context.Context) error {
			var failed error
			select {
			case failed = <-t.Failed():
			case <-ctx.Done():
			}
			stopTree()
			return failed
		}},
	)...)
}

// services brings the schemas up to date and makes the services, in the order in which they stop.
func (c Config) services(ctx context.Context, data string, where engines.Addresses, log *slog.Logger, registry prometheus.Registerer, health *admin.Health) ([]lifecycle.Part, Summary, error) {
	none := Summary{}
	if err := postgres.Migrate(ctx, where.Database); err != nil {
		return nil, none, err
	}
	if err := where.MigrateClickHouse(ctx); err != nil {
		return nil, none, err
	}
	summary := Summary{Data: data, Engines: where}
	if err := c.people(ctx, &summary); err != nil {
		return nil, none, err
	}
	if err := writeAddresses(data, where); err != nil {
		return nil, none, err
	}
	if c.Redirector.Journal == "" {
		c.Redirector.Journal = filepath.Join(data, "journal")
	}
	if c.Redirector.Countries == "" {
		c.Redirector.Countries = engine.Countries(c.Tree.Program)
	}
	if !c.WithoutDemo && c.ProfileAPI.Demo == "" {
		c.ProfileAPI.Demo = demo.Handle
	}
	visitors, err := redirector.New(ctx, c.Redirector, where, log.With("service", "redirector"), registry, health)
	if err != nil {
		return nil, none, err
	}
	if c.ProfileAPI.Public == "" {
		c.ProfileAPI.Public = "http://" + visitors.Address()
	}
	taker, err := ingest.New(c.Ingest, where, log.With("service", "ingest"), registry)
	if err != nil {
		return nil, none, err
	}
	counter, err := rollup.New(ctx, c.Rollup, where, log.With("service", "rollup"), registry, health)
	if err != nil {
		return nil, none, err
	}
	creators, err := profileapi.New(ctx, c.ProfileAPI, where, log.With("service", "profileapi"), registry, health)
	if err != nil {
		return nil, none, err
	}
	parts := []lifecycle.Part{
		{Name: "redirector", Run: visitors.Run, Grace: 20 * time.Second},
		{Name: "ingest", Run: taker.Run},
		{Name: "rollup", Run: counter.Run},
		{Name: "profileapi", Run: creators.Run},
	}
	summary.Visitors, summary.API = "http://"+visitors.Address(), "http://"+creators.Address()
	return parts, summary, nil
}

// free says in one line who cannot have the address and how to choose another.
func free(address, variable string) error {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is taken, perhaps by another Spillway: stop it, or choose another address with %s", address, variable)
	}
	if err != nil {
		return fmt.Errorf("cannot serve on %s: %w: use an address of this machine and a port that you may take, as 127.0.0.1:8080 (%s)", address, err, variable)
	}
	return l.Close()
}

// ready waits until every part can do its work; false if ctx ends before.
func ready(ctx context.Context, health *admin.Health) bool {
	for len(health.Ready(ctx)) > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
	return true
}

// TokenFile is where the standalone keeps the operator's bearer token, below its data directory.
const TokenFile = "admin-token"

// people makes the operator's account and token, and the demo profile.
func (c Config) people(ctx context.Context, summary *Summary) error {
	var err error
	if summary.Token, err = adminToken(summary.Data); err != nil {
		return err
	}
	pool, err := summary.Engines.OpenPostgres(ctx, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	operator, err := account.EnsureAdminToken(ctx, pool, summary.Token)
	if err != nil || c.WithoutDemo {
		return err
	}
	summary.Demo, err = demo.Ensure(ctx, pool, operator)
	return err
}

// adminToken reads the operator's token, or makes one.
func adminToken(data string) (string, error) {
	path := filepath.Join(data, TokenFile)
	kept, err := os.ReadFile(path)
	token := strings.TrimSpace(string(kept))
	if errors.Is(err, fs.ErrNotExist) {
		token = account.NewSecret()
		err = os.WriteFile(path, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if token == "" {
		return "", fmt.Errorf("%s is empty: remove it to get a new token", path)
	}
	return token, nil
}

// AddressesFile tells `spillway audit` and its like where the engines of a running standalone are.
const AddressesFile = "addresses.json"

func writeAddresses(data string, where engines.Addresses) error {
	text, err := json.MarshalIndent(struct {
		Kafka      []string `json:"kafka"`
		ClickHouse string   `json:"clickhouse"`
		Database   string   `json:"database"`
	}{where.Kafka, where.ClickHouse, where.Database}, "", "  ")
	if err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	// It may hold passwords. A reader sees the old file or the new one, whole.
	temporary := filepath.Join(data, "."+AddressesFile)
	if err := os.WriteFile(temporary, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	if err := os.Rename(temporary, filepath.Join(data, AddressesFile)); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return nil
}

// Find fills in the addresses that are not set from what a standalone wrote into its data directory.
func Find(data string, where engines.Addresses) (engines.Addresses, error) {
	if len(where.Kafka) > 0 && where.ClickHouse != "" && where.Database != "" {
		return where, nil
	}
	text, err := os.ReadFile(filepath.Join(data, AddressesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return where, nil // whoever needs one that is missing says so
	}
	if err != nil {
		return where, fmt.Errorf("read addresses: %w", err)
	}
	var kept struct {
		Kafka                []string
		ClickHouse, Database string
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		return where, fmt.Errorf("%s is not readable; 'spillway run' writes it anew: %w", filepath.Join(data, AddressesFile), err)
	}
	if len(where.Kafka) == 0 {
		where.Kafka = kept.Kafka
	}
	if where.ClickHouse == "" {
		where.ClickHouse = kept.ClickHouse
	}
	if where.Database == "" {
		where.Database = kept.Database
	}
	return where, nil
}

func embedded(given engines.Addresses) []string {
	var names []string
	if len(given.Kafka) == 0 {
		names = append(names, "Kafka")
	}
	if given.ClickHouse == "" {
		names = append(names, "ClickHouse")
	}
	if given.Database == "" {
		names = append(names, "PostgreSQL")
	}
	return names
}
