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

// serviceFlags are common to the services. Each has a port of its own for what operators ask: the command line says which.
type serviceFlags struct {
	Engines engines.Addresses `embed:"" group:"Engines:"`
	Logging logging.Config    `embed:"" group:"Operators:"`
	Admin   string            `group:"Operators:" name:"admin-listen" env:"SPILLWAY_ADMIN_LISTEN" default:"${admin}" placeholder:"HOST:PORT" help:"Where metrics and health are served."`
}

// process is what a service gets from the process that it runs in.
type process struct {
	log     *slog.Logger
	metrics prometheus.Registerer
	health  *admin.Health
}

// part is a service that has been made and can run.
type part interface{ Run(context.Context) error }

// run makes a service with what every process has, and runs it until ctx ends.
func (f serviceFlags) run(ctx context.Context, name string, make func(process) (part, error)) error {
	log, err := logging.New(os.Stderr, f.Logging)
	if err != nil {
		return err
	}
	registry, health := admin.NewRegistry(), &admin.Health{}
	operators, err := admin.Listen(f.Admin, registry, health, log)
	if err != nil {
		return err
	}
	service, err := make(process{log, registry, health})
	if err != nil {
		return err
	}
	log.Info("serving metrics and health", "address", operators.Address())
	return lifecycle.Run(ctx, log, lifecycle.Part{Name: name, Run: service.Run, Grace: 25 * time.Second}, lifecycle.Part{Name: "metrics", Run: operators.Run})
}

type redirectorCommand struct {
	serviceFlags
	Config redirector.Config `embed:""`
}

func (c *redirectorCommand) Run(ctx context.Context) error {
	return c.run(ctx, "redirector", func(p process) (part, error) {
		return redirector.New(ctx, c.Config, c.Engines, p.log, p.metrics, p.health)
	})
}

type ingestCommand struct {
	serviceFlags
	Config ingest.Config `embed:""`
}

func (c *ingestCommand) Run(ctx context.Context) error {
	return c.run(ctx, "ingest", func(p process) (part, error) { return ingest.New(c.Config, c.Engines, p.log, p.metrics) })
}

type rollupCommand struct {
	serviceFlags
	Config rollup.Config `embed:""`
}

func (c *rollupCommand) Run(ctx context.Context) error {
	return c.run(ctx, "rollup", func(p process) (part, error) {
		return rollup.New(ctx, c.Config, c.Engines, p.log, p.metrics, p.health)
	})
}

type profileAPICommand struct {
	serviceFlags
	Config profileapi.Config `embed:""`
}

func (c *profileAPICommand) Run(ctx context.Context) error {
	return c.run(ctx, "profileapi", func(p process) (part, error) {
		return profileapi.New(ctx, c.Config, c.Engines, p.log, p.metrics, p.health)
	})
}
