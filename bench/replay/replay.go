// Package replay sends a web server's access log through the visitor's path: each line's request goes to Spillway over HTTP with
// the line's user agent and referrer, and its address in X-Forwarded-For. Afterwards the insights must add up to the log.
//
// What a line becomes is decided here:
//
//   - GET and HEAD are visits. Other methods are left out: a page of links has no forms.
//   - The site's front page (/, /index.html, /index.htm, /index.php) is the profile's page: a view. Every other path is a link,
//     whose target is that path on the site: a click. The status that the server gave does not matter: somebody asked for it.
//   - The query is sent along. It does not make another link.
//   - A profile has only so many links (Config.MaxLinks). Where the log has more paths, the most requested ones get a link each, and
//     all others share one, which leads to the site itself.
//   - Times are not replayed: every visit happens now, as fast as the connections allow.
//
// Each line that is left out is counted under its reason, and everything that was sent is sent once: a request without an answer
// is not repeated, because nobody can tell whether it was counted.
package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spillway.dev/bench/creator"
)

// Config says what is replayed, and where.
type Config struct {
	// File is the access log, in the combined (or common) log format. Read three times, so it must be a file and not a pipe.
	File string `arg:"" name:"file" help:"Access log in the combined log format."`
	// Visitors is where visitors are served.
	Visitors string `name:"visitors-url" env:"SPILLWAY_VISITORS_URL" default:"http://127.0.0.1:8080" help:"Where visitors are served."`
	// API is where creators are served.
	API string `name:"api-url" env:"SPILLWAY_API_URL" default:"http://127.0.0.1:8081" help:"Where creators are served."`
	// Token is the bearer token of the profile's owner. Empty: the standalone's, from the file admin-token in Data.
	Token string `name:"token" env:"SPILLWAY_TOKEN" help:"Bearer token of the API. Default: the standalone's own, from its data directory."`
	// Data is the standalone's data directory; only its admin-token is read.
	Data string `name:"data" env:"SPILLWAY_DATA" default:"./data" help:"Data directory of the standalone, for its token."`
	// Handle names the profile, which is made if it is not there. Empty: replay- and the beginning of the file's SHA-256.
	Handle string `name:"handle" help:"Handle of the profile that gets the visits. Default: replay-, and a part of the file's SHA-256."`
	// Site is where the links lead: the log itself does not say whose it is.
	Site string `name:"site" default:"https://example.com" help:"The site that the log is of: where the links lead."`
	// MaxLinks is the most links that are made; zero means 500, which is the most that the API allows a profile.
	MaxLinks int `name:"max-links" default:"500" help:"Most links that are made; rarer paths share one."`
	// Connections is how many requests are under way at once; zero means 16.
	Connections int `name:"connections" default:"16" help:"Requests under way at once."`
	// Timeout is how long one request may take; zero means 10 s.
	Timeout time.Duration `name:"timeout" default:"10s" help:"How long an answer may take."`
	// Settle is how long the insights may take to show the last click; zero means one minute.
	Settle time.Duration `name:"settle" default:"1m" help:"How long the insights may take to show everything."`
}

// ErrDoesNotAddUp is wrapped by what Run returns when the insights differ from what was sent.
var ErrDoesNotAddUp = errors.New("the insights do not add up to the log")

// Replay is one run. Make it with New.
type Replay struct {
	config   Config
	visitors string // host:port
	site     string
	api      *creator.API
	out      io.Writer
	log      *slog.Logger
	progress *progress
}

// New checks the configuration. The table goes to out, and a line of progress if out is a terminal.
func New(config Config, out io.Writer, log *slog.Logger) (*Replay, error) {
	if config.MaxLinks == 0 {
		config.MaxLinks = creator.MaxLinks
	}
	if config.Connections == 0 {
		config.Connections = 16
	}
	if config.Timeout == 0 {
		config.Timeout = 10 * time.Second
	}
	if config.Settle == 0 {
		config.Settle = time.Minute
	}
	if config.MaxLinks < 1 || config.Connections < 1 || config.Timeout < 0 || config.Settle < 0 {
		return nil, errors.New("replay: --max-links, --connections, --timeout and --settle must be above zero")
	}
	visitors, err := url.Parse(config.Visitors)
	if err != nil || visitors.Scheme != "http" || visitors.Host == "" || strings.Trim(visitors.Path, "/") != "" {
		return nil, fmt.Errorf("replay: --visitors-url %q is not http://HOST:PORT", config.Visitors)
	}
	address := visitors.Host
	if visitors.Port() == "" {
		address += ":80"
	}
	site, err := url.Parse(config.Site)
	if err != nil || (site.Scheme != "http" && site.Scheme != "https") || site.Host == "" {
		return nil, fmt.Errorf("replay: --site %q is not an http or https address", config.Site)
	}
	if config.Token == "" {
		if config.Token, err = creator.Token(config.Data); err != nil {
			return nil, fmt.Errorf("replay: %w", err)
		}
	}
	api, err := creator.New(config.API, config.Token)
	if err != nil {
		return nil, fmt.Errorf("replay: --api-url: %w", err)
	}
	return &Replay{
		config:   config,
		visitors: address,
		site:     strings.TrimRight(site.Scheme+"://"+site.Host+site.EscapedPath(), "/"),
		api:      api,
		out:      out,
		log:      log,
		progress: newProgress(out),
	}, nil
}

// Run replays the file and blocks until the insights show it, or do not in time. It returns nil only if they add up.
func (r *Replay) Run(ctx context.Context) error {
	plan, err := readPlan(r.config.File, r.config.MaxLinks)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if plan.visits() == 0 {
		return fmt.Errorf("replay: none of the %d lines of %s is a visit: is it in the combined log format?", plan.lines, r.config.File)
	}
	handle := r.config.Handle
	if handle == "" {
		if handle, err = handleOf(r.config.File); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	page, err := r.profile(ctx, handle, plan)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	before, err := r.api.Counts(ctx, page.id)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	sent, err := r.send(ctx, page, plan)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	counted, took, err := r.settle(ctx, page, before, sent)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return r.report(plan, page, sent, counted, took)
}

func handleOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open access log: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("read access log: %w", err)
	}
	return "replay-" + hex.EncodeToString(sum.Sum(nil)[:4]), nil
}

// page is the profile with the links that the log's paths became.
type page struct {
	id, handle string
	links      map[string]creator.Link // by path, as the plan has them
}

// profile finds or makes the profile and a link for each path of the plan.
func (r *Replay) profile(ctx context.Context, handle string, plan *plan) (*page, error) {
	id, err := r.api.Profile(ctx, handle, "Replay of "+filepath.Base(r.config.File))
	if err != nil {
		return nil, err
	}
	p := &page{id: id, handle: handle, links: make(map[string]creator.Link, len(plan.links))}
	have, err := r.api.Links(ctx, id)
	if err != nil {
		return nil, err
	}
	for i, path := range plan.links {
		target := r.site + path
		l, ok := have[target]
		if !ok {
			if l, err = r.api.AddLink(ctx, id, titleOf(path), target); err != nil {
				return nil, err
			}
		}
		p.links[path] = l
		r.progress.show("links", i+1, len(plan.links))
	}
	r.progress.clear()
	return p, nil
}

func titleOf(path string) string {
	if path == others {
		return "All other paths"
	}
	return path
}
