// Package graph answers in one request what a page needs, as GraphQL: profiles, their links, numbers, series and breakdowns. A query is
// bounded before it runs: in its length, its depth, how many fields it selects, and how many reports it may read.
package graph

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	graphql "github.com/graph-gophers/graphql-go"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
)

//go:embed schema.graphql
var schema string

// Bounds of a query.
const (
	MaxDepth      = 8
	MaxSelections = 200
	MaxLength     = 8 << 10 // bytes
	// MaxReports is how many times numbers may be asked for: aliases and lists multiply them.
	MaxReports = 5
	// MaxTime is how long a query may take.
	MaxTime = 15 * time.Second
)

// Graph answers queries.
type Graph struct {
	schema   *graphql.Schema
	profiles *profile.Store
	reader   *insight.Reader
	patience time.Duration
	log      *slog.Logger
	now      func() time.Time
}

// New returns a graph. patience is how long the store of timelines may take for one profile's numbers: what has not come then is said to be
// missing, and the rest is told. now nil: time.Now.
func New(profiles *profile.Store, reader *insight.Reader, patience time.Duration, log *slog.Logger, now func() time.Time) (*Graph, error) {
	if now == nil {
		now = time.Now
	}
	g := &Graph{profiles: profiles, reader: reader, patience: patience, log: log, now: now}
	var err error
	g.schema, err = graphql.ParseSchema(schema, &query{g}, graphql.UseFieldResolvers(), graphql.MaxDepth(MaxDepth), graphql.MaxSelections(MaxSelections),
		graphql.MaxQueryLength(MaxLength), graphql.MaxParallelism(4), graphql.OverlapValidationLimit(2000))
	if err != nil {
		return nil, fmt.Errorf("parse the GraphQL schema: %w", err)
	}
	return g, nil
}

// asker is who asks, and how much that may still cost.
type asker struct {
	account.Identity
	left atomic.Int32
}

type askerKey struct{}

// Answer answers one query for somebody, as JSON, with the HTTP status that says whether it could be read at all.
func (g *Graph) Answer(ctx context.Context, who account.Identity, text, operation string, variables map[string]any) (int, []byte, error) {
	a := &asker{Identity: who}
	a.left.Store(MaxReports)
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, askerKey{}, a), MaxTime)
	defer cancel()
	answer := g.schema.Exec(ctx, text, operation, variables)
	b, err := json.Marshal(answer)
	if err != nil {
		return 0, nil, fmt.Errorf("write a GraphQL answer: %w", err)
	}
	if answer.Data == nil {
		return http.StatusBadRequest, b, nil
	}
	return http.StatusOK, b, nil
}

// Schema is what can be asked, in GraphQL's own language.
func (g *Graph) Schema() string { return schema }

var (
	errForbidden = errors.New("this needs a token with scope read")
	errAway      = errors.New("the database does not answer; try again in a moment")
	errCost      = fmt.Errorf("too costly: a query may ask for insights %d times", MaxReports)
)

func who(ctx context.Context) *asker {
	a, ok := ctx.Value(askerKey{}).(*asker)
	if !ok {
		panic("BUG: a query without somebody who asks")
	}
	return a
}

// tell turns an error into what the client may know.
func (g *Graph) tell(err error) error {
	var expired *insight.Expired
	switch {
	case errors.Is(err, insight.ErrTooManyBuckets):
		return insight.ErrTooManyBuckets
	case errors.As(err, &expired):
		return expired
	}
	g.log.Warn("a GraphQL query could not be answered", "error", err)
	return errAway
}

type query struct{ g *Graph }

// Profile finds one profile; null if the token may not see it.
func (q *query) Profile(ctx context.Context, args struct{ ID graphql.ID }) (*profileNode, error) {
	a := who(ctx)
	id, err := strconv.ParseInt(string(args.ID), 10, 64)
	if err != nil || a.ProfileID != 0 && a.ProfileID != id {
		return nil, nil
	}
	p, err := q.g.profiles.Get(ctx, a.AccountID, id)
	if errors.Is(err, profile.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, q.g.tell(err)
	}
	return &profileNode{q.g, p}, nil
}

// Profiles lists the account's profiles.
func (q *query) Profiles(ctx context.Context, args struct {
	First int32
	After *graphql.ID
}) ([]*profileNode, error) {
	a := who(ctx)
	if !a.May(account.Read) {
		return nil, errForbidden
	}
	var after int64
	if args.After != nil {
		var err error
		if after, err = strconv.ParseInt(string(*args.After), 10, 64); err != nil {
			return nil, errors.New("after: use the id of a profile")
		}
	}
	list, err := q.g.profiles.List(ctx, a.AccountID, after, int(min(max(args.First, 1), 100)))
	if err != nil {
		return nil, q.g.tell(err)
	}
	nodes := make([]*profileNode, len(list))
	for i, p := range list {
		nodes[i] = &profileNode{q.g, p}
	}
	return nodes, nil
}

type profileNode struct {
	g *Graph
	p profile.Profile
}

// ID is the decimal id.
func (n *profileNode) ID() graphql.ID { return graphql.ID(strconv.FormatInt(n.p.ID, 10)) }

// Handle is the page's address.
func (n *profileNode) Handle() string { return n.p.Handle }

// Title is the page's name.
func (n *profileNode) Title() string { return n.p.Title }

// Bio is the page's text.
func (n *profileNode) Bio() string { return n.p.Bio }

// Timezone says where the profile's day begins.
func (n *profileNode) Timezone() string { return n.p.Timezone }

type linkNode struct {
	ID               graphql.ID
	Code, Title, URL string
	Hidden           bool
}

// Links are the page's links in their order.
func (n *profileNode) Links(ctx context.Context) ([]linkNode, error) {
	a := who(ctx)
	if !a.May(account.Read) {
		return nil, errForbidden
	}
	links, err := n.g.profiles.Links(ctx, a.AccountID, n.p.ID)
	if err != nil {
		return nil, n.g.tell(err)
	}
	nodes := make([]linkNode, len(links))
	for i, l := range links {
		nodes[i] = linkNode{graphql.ID(strconv.FormatInt(l.ID, 10)), l.Code, l.Title, l.URL, l.Hidden}
	}
	return nodes, nil
}
