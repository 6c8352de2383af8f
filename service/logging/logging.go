// Package logging makes the one logger of a process.
package logging

import (
	"fmt"
	"io"
	"log/slog"
)

// Config says what is logged and how.
type Config struct {
	Level  slog.Level `name:"log-level" env:"SPILLWAY_LOG_LEVEL" default:"INFO" help:"Least level that is logged: DEBUG, INFO, WARN or ERROR."`
	Format string     `name:"log-format" env:"SPILLWAY_LOG_FORMAT" default:"text" enum:"text,json" help:"Log lines as text or as JSON."`
}

// New returns a logger that writes to w, which is standard error in a program.
func New(w io.Writer, c Config) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: c.Level}
	switch c.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format %q: use text or json (SPILLWAY_LOG_FORMAT)", c.Format)
}
