// Command chaos breaks a whole Spillway under load and checks that every answered visit was counted once. See package chaos.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"spillway.dev/bench/chaos"
)

func main() {
	var config chaos.Config
	kong.Parse(&config, kong.Name("chaos"), kong.Description("Breaks a whole Spillway under load and checks that every answered visit was counted once."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := chaos.New(config, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		err = c.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
