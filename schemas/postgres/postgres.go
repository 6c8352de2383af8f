// Package postgres holds the schema of Spillway's PostgreSQL database and brings a database to it: accounts, profiles and links,
// the lifetime counters, the salts of visitor ids.
//
// A migration that has landed is never edited. A new one keeps the binaries of the version before working while both run:
// add first, use, and remove a version later (docs/decisions/0002-evolving-the-schemas.md).
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var files embed.FS

// ChangedChannel is the LISTEN channel on which the database announces changed profiles and links.
const ChangedChannel = "spillway_changed"

// Migrate brings the database at url (postgres://…) to the newest version. Several processes may call it at once: an advisory
// lock lets one work and the others wait.
func Migrate(ctx context.Context, url string) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("migrate Postgres: %w", err)
	}
	defer db.Close()
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return fmt.Errorf("migrate Postgres: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("migrate Postgres: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("migrate Postgres: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate Postgres: %w", err)
	}
	return nil
}
