// Package demo makes a profile to look at.
package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/profile"
)

// Handle of the demo profile.
const Handle = "demo"

// Ensure makes the demo profile for the account if nobody has that handle, and returns the code of its first link; empty if it has none.
// It is made once: what its owner changes or deletes afterwards stays as it is.
func Ensure(ctx context.Context, pool *pgxpool.Pool, account int64) (code string, err error) {
	store := profile.NewStore(pool, profile.NewRules(nil, nil))
	p, err := store.ByHandle(ctx, Handle)
	switch {
	case err == nil:
		links, err := store.Links(ctx, account, p.ID)
		if errors.Is(err, profile.ErrNotFound) || err == nil && len(links) == 0 {
			return "", nil // somebody else's by now, or emptied
		}
		if err != nil {
			return "", fmt.Errorf("read the demo profile: %w", err)
		}
		return links[0].Code, nil
	case !errors.Is(err, profile.ErrNotFound):
		return "", fmt.Errorf("find the demo profile: %w", err)
	}
	handle, title, bio := Handle, "Spillway Demo", "Every view and every click of this page is counted once."
	p, err = store.Create(ctx, account, profile.Change{Handle: &handle, Title: &title, Bio: &bio})
	if err != nil {
		return "", fmt.Errorf("make the demo profile: %w", err)
	}
	for _, l := range []struct{ title, url string }{
		{"The Go programming language", "https://go.dev/"},
		{"ClickHouse", "https://clickhouse.com/"},
		{"Apache Kafka", "https://kafka.apache.org/"},
		{"PostgreSQL", "https://www.postgresql.org/"},
	} {
		made, err := store.CreateLink(ctx, account, p.ID, profile.LinkChange{Title: &l.title, URL: &l.url})
		if err != nil {
			return "", fmt.Errorf("make the demo profile's links: %w", err)
		}
		if code == "" {
			code = made.Code
		}
	}
	return code, nil
}
