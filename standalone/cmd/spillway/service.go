package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/ingest"
	"spillway.dev/profileapi"
	"spillway.dev/redirector"
	"spillway.dev/rollup"
	"spillway.dev/service/admin"
	"spillway.dev/service/engines"
	"spillway.dev/service/lifecycle"
	"spillway.dev/service/logging"
)

// serviceFlags are common to the services.
type serviceFlags struct {
	Engines engines.Addresses `embed:""`
	Logging logging.Config    `embed:""`
}

// part is a service that has been made and can run.
type part interface{ Run(context.Context) error }

// run makes a service with what every process has, and runs it until ctx ends.
func (f serviceFlags) run(ctx context.Context, name, listen string, make func(*slog.Logger, prometheus.Registerer, *admin.Health) (part, error)) error {
	log, err := logging.New(os.Stderr, f.Logging)
	if err != nil {
		return err
	}
	registry, health := admin.NewRegistry(), &admin.Health{}
	operators, err := admin.Listen(listen, registry, health, log)
	if err != nil {
		return err
	}
	service, err := make(log, registry, health)
	if err != nil {
		return err
	}
	log.Info("serving metrics and health", "address", operators.Address())
	return lifecycle.Run(ctx, log, lifecycle.Part{Name: name, Run: service.Run, Grace: 25 * time.Second}, lifecycle.Part{Name: "metrics", Run: operators.Run})
}

type redirectorCommand struct {
	serviceFlags
	Config redirector.Config `embed:""`
	Admin  string            `name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"127.0.0.1:9091" help:"Where metrics and health are served."`
}

func (c *redirectorCommand) Run(ctx context.Context) error {
	return c.run(ctx, "redirector", c.Admin, func(log *slog.Logger, metrics prometheus.Registerer, health *admin.Health) (part, error) {
		return redirector.New(ctx, c.Config, c.Engines, log, metrics, health)
	})
}

type ingestCommand struct {
	serviceFlags
	Config ingest.Config `embed:""`
	Admin  string        `name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"127.0.0.1:9092" help:"Where metrics and health are served."`
}

func (c *ingestCommand) Run(ctx context.Context) error {
	return c.run(ctx, "ingest", c.Admin, func(log *slog.Logger, metrics prometheus.Registerer, health *admin.Health) (part, error) {
		return ingest.New(c.Config, c.Engines, log, metrics)
	})
}

type rollupCommand struct {
	serviceFlags
	Config rollup.Config `embed:""`
	Admin  string        `name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"127.0.0.1:9093" help:"Where metrics and health are served."`
}

func (c *rollupCommand) Run(ctx context.Context) error {
	return c.run(ctx, "rollup", c.Admin, func(log *slog.Logger, metrics prometheus.Registerer, health *admin.Health) (part, error) {
		return rollup.New(ctx, c.Config, c.Engines, log, metrics, health)
	})
}

type profileAPICommand struct {
	serviceFlags
	Config profileapi.Config `embed:""`
	Admin  string            `name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"127.0.0.1:9094" help:"Where metrics and health are served."`
}

func (c *profileAPICommand) Run(ctx context.Context) error {
	return c.run(ctx, "profileapi", c.Admin, func(log *slog.Logger, metrics prometheus.Registerer, health *admin.Health) (part, error) {
		return profileapi.New(ctx, c.Config, c.Engines, log, metrics, health)
	})
}
