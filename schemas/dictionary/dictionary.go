// Package dictionary says what Spillway's exported data looks like: the columns of each table as a warehouse sees them, how
// each is computed in ClickHouse, and what it means. The Parquet writer, the API's streams and docs/data-dictionary.md are made
// from it, so that they cannot disagree.
//
// A column that was exported is never renamed, never changes its type or meaning, and is never removed; a new one is added at
// the end with a new Version. A reader of an older file takes a missing column as "not recorded".
package dictionary

import (
	"fmt"
	"strings"
)

// Version of the tables below. It is in the metadata of every file (key "spillway.schema.version") and in every manifest.
const Version = 1

// Type is a column's type in the export. Each is one that Snowflake, BigQuery, Iceberg, Spark and pandas have: there is no
// unsigned integer among them, which some of these refuse or wrap above 2^63.
type Type uint8

// The types, with the Parquet logical type and the Arrow type that each is written as.
const (
	Int32     Type = iota + 1 // INT32; int32
	Int64                     // INT64; int64
	Bool                      // BOOLEAN; bool
	Date                      // DATE; date32
	Timestamp                 // TIMESTAMP(MICROS, UTC); timestamp[us, tz=UTC]
	// Word is a string of a small, closed vocabulary: STRING; dictionary<int32, utf8> in Arrow, category in pandas.
	Word
	// Text is any other string: STRING; utf8.
	Text
)

// names are the type in Parquet (physical type and logical type) and in Arrow.
func (t Type) names() (parquet, arrow string) {
	switch t {
	case Int32:
		return "INT32", "int32"
	case Int64:
		return "INT64", "int64"
	case Bool:
		return "BOOLEAN", "bool"
	case Date:
		return "INT32, DATE", "date32"
	case Timestamp:
		return "INT64, TIMESTAMP (µs, UTC)", "timestamp[us, tz=UTC]"
	case Word:
		return "BYTE_ARRAY, STRING", "dictionary<values=utf8, indices=int32, ordered=false>"
	case Text:
		return "BYTE_ARRAY, STRING", "utf8"
	}
	return fmt.Sprintf("Type(%d)", uint8(t)), fmt.Sprintf("Type(%d)", uint8(t))
}

// Parquet names the type in Parquet: the physical type and the logical one.
func (t Type) Parquet() string {
	name, _ := t.names()
	return name
}

// Arrow names the type in Arrow, as the Arrow libraries print it.
func (t Type) Arrow() string {
	_, name := t.names()
	return name
}

// Column is one column of an exported table.
type Column struct {
	Name string
	Type Type
	// Nullable columns hold NULL where the value does not exist. All others are REQUIRED in Parquet: an empty string means that
	// nothing was recorded.
	Nullable bool
	// Expression computes the column from the ClickHouse table, with ClickHouse's query parameters in braces; empty: the column of
	// the same name. What it gives is converted to the column's type (Select), or is left to the reader to convert (Stored).
	Expression string
	// Hexadecimal says that a Text is a random 64-bit id: 16 lower-case digits, as `spillway audit` prints it.
	Hexadecimal bool
	// Distinct says that most rows have a value of their own, so that a dictionary is no use.
	Distinct bool
	// Bloom asks for a bloom filter: for columns that are looked up by value but that the order of rows does not cluster.
	Bloom bool
	// About is what it means, in one or two sentences of Markdown.
	About string
}

// Table is one exported table.
type Table struct {
	Name string
	// Source is the table in ClickHouse that it is read from.
	Source string
	// Order is what rows are sorted by within a file.
	Order []string
	// Key is the columns that name a row: no two rows of the published files agree in all of them.
	Key []string
	// About is what a row is, in one or two sentences of Markdown.
	About   string
	Columns []Column
}

// Column returns the column of that name, or false.
func (t Table) Column(name string) (Column, bool) {
	for _, c := range t.Columns {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// Select is the list of expressions that a SELECT from the ClickHouse table needs to give these columns, in their order and with
// their names. A column for which plain says true is asked for as plain strings instead of ClickHouse's dictionaries; nil: none.
func (t Table) Select(plain func(column string) bool) string {
	parts := make([]string, 0, len(t.Columns))
	for _, c := range t.Columns {
		expression := c.stored()
		if c.Hexadecimal {
			expression = "lower(leftPad(hex(" + expression + "), 16, '0'))"
		}
		switch c.Type {
		case Int32:
			expression = "toInt32(" + expression + ")"
		case Int64:
			expression = "toInt64(" + expression + ")"
		case Word, Text:
			// Enumerations, low-cardinality and plain strings all come out as one type.
			as := "LowCardinality(String)"
			if c.Distinct || plain != nil && plain(c.Name) {
				as = "String"
			}
			expression = "CAST(" + expression + ", '" + as + "')"
		}
		parts = append(parts, expression+" AS `"+c.Name+"`")
	}
	return strings.Join(parts, ", ")
}

// stored is what the column is computed from.
func (c Column) stored() string {
	if c.Expression == "" {
		return c.Name
	}
	return c.Expression
}

// Stored is the list of expressions that a SELECT from the ClickHouse table needs to give these columns in ClickHouse's own types, in their
// order and with their names: ids and counts unsigned, enumerations and dictionaries as such. It is for a reader that converts them itself,
// which is cheaper than having ClickHouse do it.
func (t Table) Stored() string {
	parts := make([]string, 0, len(t.Columns))
	for _, c := range t.Columns {
		parts = append(parts, c.stored()+" AS `"+c.Name+"`")
	}
	return strings.Join(parts, ", ")
}

// Events is one row a view or click.
func Events() Table {
	return Table{
		Name:   "events",
		Source: "events",
		Order:  []string{"date", "profile_id", "time"},
		Key:    []string{"stream", "partition", "sequence"},
		About: "One row a view or click, of every class: filter `class = 'person'` for the numbers that creators see. " +
			"`(stream, partition, sequence)` names an event for ever and is unique over all published files.",
		Columns: []Column{
			{Name: "stream", Type: Text, Hexadecimal: true, About: "One start of one redirector: a random 64-bit id (exported as 16 hexadecimal digits)."},
			{Name: "partition", Type: Int32, About: "The Kafka partition that the event went through."},
			{Name: "sequence", Type: Int64, Distinct: true, About: "The event's number within its stream and partition, from 1, without gaps."},
			{Name: "offset", Type: Int64, About: "The offset of the event's batch in Kafka. Nothing is decided by it."},
			{Name: "time", Type: Timestamp, Distinct: true, About: "When the visitor was answered."},
			{Name: "date", Type: Date, About: "The profile's local date at that time: the day that creators see the event in."},
			{Name: "kind", Type: Word, About: "`view` (a profile page was shown) or `click` (a link was followed)."},
			{Name: "class", Type: Word, About: "Who it was: `person`, `bot`, `preview`, `prefetch`, `head`, `scanner`, `owner` or `test`, as it was judged by then; a file does not follow what is judged anew, a stream does."},
			{Name: "reason", Type: Word, About: "What decided the class (docs/counting.md lists them); empty for a person, unless a rule of the operator says so."},
			{Name: "rules_version", Type: Int64, About: "The version of the rules that decided the class: that of the built-in rules × 1 000 000 + a number from 1 to 999 999 made of the content of the operator's rules file, or 0 without one."},
			{Name: "suspect", Type: Bool, About: "One visitor id hammered. A mark: the event is counted like any other."},
			{Name: "profile_id", Type: Int64, About: "The profile."},
			{Name: "link_id", Type: Int64, Bloom: true, About: "The link that was followed; 0 for a view."},
			{Name: "visitor", Type: Text, Hexadecimal: true, Distinct: true, Bloom: true, About: "Daily visitor id (exported as 16 hexadecimal digits): the same person on the same profile on the same date has the same one, and never on another date or profile. All zeros: unknown."},
			{Name: "surface", Type: Word, About: "Where it happened: `page` (on the profile page), `direct` (the link's own address), `qr`."},
			{Name: "place", Type: Text, About: "The creator's private source tag."},
			{Name: "variant", Type: Text, About: "The link's rule that matched (a schedule, a country, a device …); empty: the link itself."},
			{Name: "layout", Type: Int64, About: "The version of the page that was shown or clicked on; 0: unknown."},
			{Name: "host", Type: Text, About: "The host that the visitor asked for."},
			{Name: "country", Type: Word, About: "ISO 3166-1 alpha-2 of the visitor's address; empty: unknown. The address itself is never stored."},
			{Name: "language", Type: Text, About: "The first language that the browser asked for."},
			{Name: "device", Type: Word, About: "Kind of device, from the user agent."},
			{Name: "browser", Type: Word, About: "Browser, from the user agent."},
			{Name: "os", Type: Word, About: "Operating system, from the user agent."},
			{Name: "user_agent", Type: Text, About: "The user agent as sent, cut to 512 bytes."},
			{Name: "referrer", Type: Text, Distinct: true, About: "The referring page without its query, cut to 512 bytes."},
			{Name: "referrer_host", Type: Text, About: "The referring page's host."},
			{Name: "channel", Type: Word, About: "The kind of source: direct, social, search …"},
			{Name: "utm_source", Type: Text, About: "`utm_source` of the address that was visited."},
			{Name: "utm_medium", Type: Text, About: "`utm_medium`."},
			{Name: "utm_campaign", Type: Text, About: "`utm_campaign`."},
			{Name: "utm_term", Type: Text, About: "`utm_term`."},
			{Name: "utm_content", Type: Text, About: "`utm_content`."},
		},
	}
}

// Days is the closed days' numbers: series by the quarter hour, breakdowns, unique visitors.
func Days() Table {
	return Table{
		Name:   "days",
		Source: "days",
		Order:  []string{"profile_id", "dimension", "kind", "class", "link_id"},
		Key:    []string{"date", "closed_at", "profile_id", "dimension", "value", "kind", "class", "link_id", "surface", "bucket"},
		About: "The numbers of each closed day, computed from its events. A day that got late events, or whose events were judged anew, is closed again and published again: " +
			"of each `date`, only the rows with the newest `closed_at` count.",
		Columns: []Column{
			{Name: "date", Type: Date, About: "The day: the profile's local date."},
			{Name: "closed_at", Type: Timestamp, Expression: "{closed_at:DateTime64(6, 'UTC')}", About: "When the day was closed. The newest one of a date replaces all others."},
			{Name: "profile_id", Type: Int64, Bloom: true, About: "The profile."},
			{Name: "dimension", Type: Word, About: "What the row counts by. Empty: the series by the quarter hour. `visitors`: the day's distinct visitors. `link`: the links, and the views as link 0. Otherwise a breakdown: `country`, `device` …, of those profiles of which some event of the day has that column set."},
			{Name: "value", Type: Text, About: "The breakdown's value, as in the column of that name in events. Of each column the 1 000 most frequent values of a profile and day; all others are `(other)`."},
			{Name: "kind", Type: Word, About: "`view` or `click`; `unknown` in dimension `visitors`: who viewed or clicked."},
			{Name: "class", Type: Word, About: "As in events."},
			{Name: "link_id", Type: Int64, About: "The link; 0 for views."},
			{Name: "surface", Type: Word, About: "As in events."},
			{Name: "bucket", Type: Timestamp, Nullable: true, Expression: "if(dimension = '', toNullable(toDateTime64(bucket, 6, 'UTC')), NULL)", About: "Start of the quarter hour; NULL outside the series."},
			{Name: "events", Type: Int64, About: "How many events."},
			{Name: "visitors", Type: Int64, About: "How many distinct visitors, where they are counted."},
		},
	}
}
