package dictionary

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"spillway.dev/schemas/clickhouse"
)

//go:generate go run ./generate ../../docs/data-dictionary.md

// stored is a table as the migrations make it.
type stored struct {
	name    string
	about   string
	columns []storedColumn
}

type storedColumn struct{ name, kind, about string }

var (
	createTable = regexp.MustCompile(`^CREATE TABLE IF NOT EXISTS spillway\.([a-z_]+)`)
	alterTable  = regexp.MustCompile(`^ALTER TABLE spillway\.([a-z_]+)`)
	addColumn   = regexp.MustCompile(`^\s*ADD COLUMN (?:IF NOT EXISTS )?([a-z_]+) (.+)$`)
	column      = regexp.MustCompile(`^    ([a-z_0-9]+)\s+([A-Z].*)$`)
)

// storedTables reads the tables, their columns and the comments before them from the migrations.
func storedTables() ([]stored, error) {
	migrations, err := clickhouse.Layout{Database: "spillway"}.Migrations()
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var tables []stored
	for _, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		tables = read(tables, up)
	}
	return tables, nil
}

// read adds what one migration makes.
func read(tables []stored, migration string) []stored {
	var comment []string
	within := -1 // index of the table whose columns are being read
	for line := range strings.Lines(migration) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(trimmed, "--"); ok {
			if !strings.HasPrefix(strings.TrimSpace(text), "+goose") {
				comment = append(comment, strings.TrimSpace(text))
			}
			continue
		}
		about := strings.Join(comment, " ")
		if m := createTable.FindStringSubmatch(line); m != nil {
			tables = append(tables, stored{name: m[1], about: about})
			within = len(tables) - 1
		} else if m := alterTable.FindStringSubmatch(line); m != nil {
			within = slices.IndexFunc(tables, func(t stored) bool { return t.name == m[1] })
		} else if m := addColumn.FindStringSubmatch(line); m != nil && within >= 0 {
			tables[within].columns = append(tables[within].columns, storedColumn{m[1], typeOf(m[2]), about})
		} else if m := column.FindStringSubmatch(line); m != nil && within >= 0 {
			tables[within].columns = append(tables[within].columns, storedColumn{m[1], typeOf(m[2]), about})
		} else if strings.HasPrefix(line, ")") {
			within = -1
		}
		comment = nil
	}
	return tables
}

// typeOf is a column's type without what follows it.
func typeOf(definition string) string {
	depth := 0
	for i, c := range definition {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case (c == ' ' || c == ',') && depth == 0:
			return definition[:i]
		}
	}
	return definition
}

// Markdown is the data dictionary, docs/data-dictionary.md.
func Markdown() (string, error) {
	tables, err := storedTables()
	if err != nil {
		return "", fmt.Errorf("data dictionary: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Data dictionary

<!-- Written by `+"`go generate ./schemas/dictionary`"+` from the ClickHouse migrations and the export's schema. Do not edit. -->

What is in Spillway's exported files and streams, and in its ClickHouse database.

## Exported tables

Schema version %d; it is in each Parquet file's metadata (`+"`spillway.schema.version`"+`) and in each manifest. A column keeps its name,
type, place and meaning for ever; new ones come at the end. All columns are required unless they say otherwise: an empty string
means that nothing was recorded. There are no unsigned integers, which some warehouses refuse or wrap: random 64-bit ids are
16 hexadecimal digits, counts and ids that Spillway hands out stay below 2^63.

`, Version)
	for _, t := range []Table{Events(), Days()} {
		fmt.Fprintf(&b, "### %s\n\n%s\n\nSorted by `%s` within a file. From ClickHouse's table `%s`.\n\n", t.Name, t.About, strings.Join(t.Order, "`, `"), t.Source)
		b.WriteString("| column | Parquet | Arrow | meaning | in ClickHouse |\n|---|---|---|---|---|\n")
		for _, c := range t.Columns {
			about, from := c.About, c.Expression
			if c.Nullable {
				about += " Nullable."
			}
			if c.Bloom {
				about += " Has a bloom filter."
			}
			if from == "" {
				from = c.Name
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | `%s` |\n", c.Name, c.Type.Parquet(), strings.ReplaceAll(c.Type.Arrow(), "<values=utf8, indices=int32, ordered=false>", "&lt;int32, utf8&gt;"), about, from)
		}
		b.WriteString("\n")
	}
	b.WriteString("## Tables in ClickHouse\n\nDatabase `spillway`. The migrations in `schemas/clickhouse/migrations` are what counts.\n\n")
	for _, t := range tables {
		fmt.Fprintf(&b, "### `%s`\n\n", t.name)
		if t.about != "" {
			fmt.Fprintf(&b, "%s\n\n", t.about)
		}
		b.WriteString("| column | type | meaning |\n|---|---|---|\n")
		for _, c := range t.columns {
			about := c.about
			if exported, ok := t.exported(c.name); ok && about == "" {
				about = exported.About
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", c.name, c.kind, about)
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// exported is the exported column that a stored one becomes.
func (t stored) exported(name string) (Column, bool) {
	for _, e := range []Table{Events(), Days()} {
		if e.Source == t.name {
			return e.Column(name)
		}
	}
	return Column{}, false
}
