package export

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/schemas/dictionary"
)

// Format is how events are written.
type Format string

// The formats.
const (
	Arrow   Format = "arrow"   // Arrow IPC stream, its buffers compressed with zstd
	Parquet Format = "parquet" // Parquet with zstd
	CSV     Format = "csv"     // RFC 4180 with a first line of names
	NDJSON  Format = "ndjson"  // one JSON object a line
)

// formats has what each is called: by ClickHouse, as a media type, at the end of a file's name.
var formats = map[Format]struct{ clickhouse, media, suffix string }{
	Arrow:   {"ArrowStream", "application/vnd.apache.arrow.stream", "arrows"},
	Parquet: {"Parquet", "application/vnd.apache.parquet", "parquet"},
	CSV:     {"CSVWithNames", "text/csv; charset=utf-8; header=present", "csv"},
	NDJSON:  {"JSONEachRow", "application/x-ndjson", "ndjson"},
}

// Formats are all formats, the one first that is given to who says nothing.
func Formats() []Format { return []Format{NDJSON, CSV, Parquet, Arrow} }

// MediaType is the format's media type.
func (f Format) MediaType() string { return formats[f].media }

// Suffix is the end of a file's name, without the dot.
func (f Format) Suffix() string { return formats[f].suffix }

// IsText says whether the format gains from compression on its way: the others are compressed inside.
func (f Format) IsText() bool { return f == CSV || f == NDJSON }

// Query says which events.
type Query struct {
	Format Format
	// Profile is the profile's id; zero: the events of all profiles.
	Profile int64
	// Since (included) and Until (not) bound the time of the events; zero: not.
	Since, Until time.Time
	// Kinds and Classes are what to give, of those that the data dictionary names; none: all.
	Kinds, Classes []string
}

// sql is the statement. Columns are computed outside, of rows that were chosen inside: a name such as sequence means the table's column
// there. One profile's events come in the order of their time; those of all come as they are stored, which needs no memory.
func (q Query) sql(layout schema.Layout) string {
	t := dictionary.Events()
	var where []string
	if q.Profile != 0 {
		where = append(where, "profile_id = "+strconv.FormatInt(q.Profile, 10))
	}
	// A profile's local date is at most a day off the UTC date; dates are what the table is partitioned and sorted by.
	if !q.Since.IsZero() {
		where = append(where, fmt.Sprintf("time >= fromUnixTimestamp64Micro(%d, 'UTC')", q.Since.UnixMicro()),
			"date >= '"+q.Since.UTC().AddDate(0, 0, -1).Format(time.DateOnly)+"'")
	}
	if !q.Until.IsZero() {
		where = append(where, fmt.Sprintf("time < fromUnixTimestamp64Micro(%d, 'UTC')", q.Until.UnixMicro()),
			"date <= '"+q.Until.UTC().AddDate(0, 0, 1).Format(time.DateOnly)+"'")
	}
	for _, list := range []struct {
		column string
		values []string
	}{{"kind", q.Kinds}, {"class", q.Classes}} {
		if len(list.values) > 0 {
			where = append(where, list.column+" IN ("+literals(list.values)+")")
		}
	}
	inside := "SELECT * FROM " + layout.All(t.Source)
	if len(where) > 0 {
		inside += " WHERE " + strings.Join(where, " AND ")
	}
	if q.Profile != 0 {
		inside += " ORDER BY time, stream, partition, sequence"
	}
	// In Arrow only what the dictionary calls a word is one: other strings may have more values than memory.
	isText := func(column string) bool {
		c, _ := t.Column(column)
		return c.Type == dictionary.Text
	}
	return "SELECT " + t.Select(isText) + " FROM (" + inside + ")\nFORMAT " + formats[q.Format].clickhouse
}

func literals(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	}
	slices.Sort(quoted)
	return strings.Join(slices.Compact(quoted), ", ")
}

// settings are ClickHouse's: little memory, and a query that ends with its connection.
func (q Query) settings(memory int64) map[string]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	s := map[string]string{
		"log_comment": "spillway api export",
		"readonly":    "2", // which the next one asks for
		"cancel_http_readonly_queries_on_client_close": "1",
		"wait_end_of_query":                            "0",
		"http_write_exception_in_output_format":        "0",
		"max_threads":                                  "2",
		"max_block_size":                               "8192",
		"preferred_block_size_bytes":                   "1000000",
		"max_memory_usage":                             number(memory),
		"max_bytes_before_external_sort":               number(memory / 4),
		"max_bytes_ratio_before_external_sort":         "0",
		"optimize_read_in_order":                       "0", // which would open every part at once
	}
	set := func(more map[string]string) {
		for name, value := range more {
			s[name] = value
		}
	}
	switch q.Format {
	case Arrow:
		set(map[string]string{
			"output_format_arrow_low_cardinality_as_dictionary":     "1",
			"output_format_arrow_use_signed_indexes_for_dictionary": "1",
			"output_format_arrow_string_as_string":                  "1",
			"output_format_arrow_compression_method":                "zstd",
		})
	case Parquet:
		set(map[string]string{
			"output_format_parquet_compression_method":   "zstd",
			"output_format_parquet_row_group_size":       "122880",
			"output_format_parquet_row_group_size_bytes": number(memory / 8),
			"output_format_parquet_string_as_string":     "1",
			"output_format_parquet_parallel_encoding":    "0",
		})
	case CSV, NDJSON:
		set(map[string]string{
			"date_time_output_format":                   "iso",
			"output_format_parallel_formatting":         "0",
			"output_format_json_quote_64bit_integers":   "0",
			"output_format_json_escape_forward_slashes": "0",
			"output_format_json_validate_utf8":          "1",
		})
	}
	return s
}
