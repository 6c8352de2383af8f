// Package opentable keeps Apache Iceberg tables over the very files that an export published, so that engines that read Iceberg see
// new events without loading or copying anything.
//
// The tables follow the chain of manifests and can be made again from it: each snapshot names, in its summary, the last cut that it
// holds ("spillway.cut"), and the next one begins there. So an exporter that dies in between loses nothing, and of two that follow at
// once one commits. The catalog is a directory (Iceberg's Hadoop catalog), whose commits are atomic on a local file system only:
// an export in an object store has no open table.
package opentable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/catalog/hadoop"
	"github.com/apache/iceberg-go/table"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/parquetfile"
	"spillway.dev/schemas/dictionary"
)

const (
	// Folder is the catalog's folder within an export; its tables are the namespace's.
	Folder    = "iceberg"
	namespace = "spillway"
	// cutKey is the property of a snapshot's summary that says up to which cut the table goes.
	cutKey = "spillway.cut"
	// attempts is how often a commit is tried when somebody else's came first.
	attempts = 5
	// snapshots is how many older states of a table can still be read; each cut makes one.
	snapshots = 100
)

// errOvertaken is wrapped by what is returned when another exporter changed the table first.
var errOvertaken = errors.New("another exporter changed the table")

// Tables are the tables of one export.
type Tables struct {
	root    string
	catalog *hadoop.Catalog
	log     *slog.Logger
}

// Open opens, and makes if need be, the catalog in an export's directory.
func Open(ctx context.Context, root string, log *slog.Logger) (*Tables, error) {
	c, err := hadoop.NewCatalog(namespace, filepath.Join(root, Folder), iceberg.Properties{})
	if err != nil {
		return nil, fmt.Errorf("open the Iceberg catalog: %w", err)
	}
	if err := c.CreateNamespace(ctx, table.Identifier{namespace}, nil); err != nil && !errors.Is(err, catalog.ErrNamespaceAlreadyExists) {
		return nil, fmt.Errorf("make the Iceberg namespace: %w", err)
	}
	return &Tables{root: root, catalog: c, log: log}, nil
}

// Close frees what the catalog holds.
func (t *Tables) Close() error { return t.catalog.Close() }

// Follow brings all tables to the cut head.
func (t *Tables) Follow(ctx context.Context, chain *manifest.Chain, head uint64) error {
	for _, of := range []dictionary.Table{dictionary.Events(), dictionary.Days()} {
		var err error
		for range attempts {
			if err = t.follow(ctx, of, chain, head); !errors.Is(err, errOvertaken) {
				break
			}
			// Another exporter was faster: what it committed is not committed again.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
		if err != nil {
			return fmt.Errorf("Iceberg table %s: %w: if that stays, remove the folder %s, it is made again", of.Name, err, filepath.Join(t.root, Folder))
		}
	}
	return nil
}

// follow brings one table to the cut head.
func (t *Tables) follow(ctx context.Context, of dictionary.Table, chain *manifest.Chain, head uint64) error {
	own, err := t.open(ctx, of)
	if err != nil {
		return err
	}
	last, err := cutOf(own)
	if err != nil {
		return err
	}
	var files []string
	for number := last + 1; number <= head; number++ {
		m, _, err := chain.Read(ctx, number)
		if err != nil {
			return err
		}
		for _, f := range m.Files {
			if f.Table == of.Name {
				place := url.URL{Scheme: "file", Path: filepath.Join(t.root, filepath.FromSlash(f.Path))}
				files = append(files, place.String())
			}
		}
		if len(files) == 0 || number < head && len(files) < manifest.MaxFiles {
			continue
		}
		if own, err = t.add(ctx, own, files, number); err != nil {
			return err
		}
		t.log.Debug("the Iceberg table has the cut", "table", of.Name, "cut", number, "files", len(files))
		files = nil
	}
	return nil
}

// open loads a table, or makes it.
func (t *Tables) open(ctx context.Context, of dictionary.Table) (*table.Table, error) {
	name := table.Identifier{namespace, of.Name}
	own, err := t.catalog.LoadTable(ctx, name)
	if err == nil {
		// Its metadata names every file by its whole path, and is written to where the table was made.
		made := own.Location()
		there, _ := os.Stat(made)
		here, err := os.Stat(filepath.Join(t.root, Folder, namespace, of.Name))
		if err != nil {
			return nil, err
		}
		if !os.SameFile(there, here) {
			return nil, fmt.Errorf("it was made in %s, and the export was moved or copied since", made)
		}
		return own, nil
	}
	if !errors.Is(err, catalog.ErrNoSuchTable) {
		return nil, err
	}
	schema, err := table.ArrowSchemaToIceberg(parquetfile.Schema(of), false, nil)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	own, err = t.catalog.CreateTable(ctx, name, schema, catalog.WithProperties(iceberg.Properties{
		"spillway.schema.version": strconv.Itoa(dictionary.Version),
		// Otherwise each cut would add a manifest that every reader has to open.
		table.ManifestMergeEnabledKey: "true",
		// A commit that is repeated on top of somebody else's would add the files twice.
		table.CommitNumRetriesKey:                 "0",
		table.MetadataDeleteAfterCommitEnabledKey: "true",
		table.MetadataPreviousVersionsMaxKey:      strconv.Itoa(snapshots),
	}))
	if errors.Is(err, catalog.ErrTableAlreadyExists) {
		return t.catalog.LoadTable(ctx, name)
	}
	return own, err
}

// cutOf is the last cut that a table holds.
func cutOf(own *table.Table) (uint64, error) {
	snapshot := own.CurrentSnapshot()
	if snapshot == nil {
		return 0, nil
	}
	text := ""
	if snapshot.Summary != nil {
		text = snapshot.Summary.Properties[cutKey]
	}
	last, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("its newest snapshot was not made by an export (%s is %q)", cutKey, text)
	}
	return last, nil
}

// add commits files as a new snapshot.
func (t *Tables) add(ctx context.Context, own *table.Table, files []string, cut uint64) (*table.Table, error) {
	change := own.NewTransaction()
	if err := change.AddFiles(ctx, files, iceberg.Properties{cutKey: strconv.FormatUint(cut, 10)}, false); err != nil {
		return nil, fmt.Errorf("add the files of cut %d: %w", cut, err)
	}
	next, err := change.Commit(ctx)
	if err != nil {
		return nil, t.overtaken(ctx, own, err)
	}
	if own = next; len(own.Metadata().Snapshots()) < 2*snapshots {
		return own, nil
	}
	// Older states are forgotten, or the metadata that each commit writes anew would grow for ever. What only they refer to stays in
	// the folder: a few kilobytes a cut, against the danger of removing something that is not the table's.
	forget := own.NewTransaction()
	if err := forget.ExpireSnapshots(table.WithRetainLast(snapshots), table.WithOlderThan(0), table.WithPostCommit(false)); err != nil {
		return nil, fmt.Errorf("forget older states: %w", err)
	}
	if next, err = forget.Commit(ctx); err != nil {
		return nil, t.overtaken(ctx, own, err)
	}
	return next, nil
}

// overtaken tells a commit that failed because another came first from other failures: the library's errors do not.
func (t *Tables) overtaken(ctx context.Context, own *table.Table, err error) error {
	now, reading := t.catalog.LoadTable(ctx, own.Identifier())
	if errors.Is(err, table.ErrCommitFailed) || reading == nil && now.MetadataLocation() != own.MetadataLocation() {
		return fmt.Errorf("%w: %w", errOvertaken, err)
	}
	return err
}
