package clickhouse

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]struct {
		kind   kind
		format string
		rest   string // from formatAt for a read, from dataAt for an insert
		at     string // from infileAt
	}{
		"SELECT 1":                                   {kind: read},
		"  /* c */ -- d\n(SELECT 1)":                 {kind: read},
		"WITH 1 AS x SELECT x FORMAT JSON":           {kind: read, format: "JSON", rest: "FORMAT JSON"},
		"SELECT 1 AS format FORMAT CSV SETTINGS a=1": {kind: read, format: "CSV", rest: "FORMAT CSV SETTINGS a=1"},
		"SELECT format FROM t":                       {kind: read},
		"SELECT format, 'FORMAT CSV', \"FORMAT\" FROM t WHERE (SELECT 1 FORMAT) = 2":  {kind: read},
		"SELECT `a``FORMAT` FORMAT TSV;":                                              {kind: read, format: "TSV", rest: "FORMAT TSV;"},
		"SELECT $x$ FORMAT CSV $x$ FORMAT TSV":                                        {kind: read, format: "TSV", rest: "FORMAT TSV"},
		"SHOW TABLES FORMAT JSON":                                                     {kind: other, format: "JSON", rest: "FORMAT JSON"},
		"CREATE TABLE t (format String) ENGINE = Log":                                 {kind: other},
		"INSERT INTO t SELECT 1 FORMAT x":                                             {kind: other, format: ""},
		"INSERT INTO t (a, format) FORMAT CSV\n1,2":                                   {insert, "CSV", "1,2", "FORMAT CSV\n1,2"},
		"insert into db.format format CSV 1,2":                                        {insert, "CSV", "1,2", "format CSV 1,2"},
		"INSERT INTO `a b`.settings (x) SETTINGS m = 1 FORMAT Native":                 {insert, "Native", "", "SETTINGS m = 1 FORMAT Native"},
		"INSERT INTO values VALUES (1), (2)":                                          {insert, "Values", " (1), (2)", "VALUES (1), (2)"},
		"INSERT INTO TABLE FUNCTION file('x', 'CSV', 'a String') FORMAT CSV  \r\n\n1": {insert, "CSV", "\n1", "FORMAT CSV  \r\n\n1"},
		"INSERT INTO t WITH 1 AS x SELECT x":                                          {kind: other},
		"INSERT INTO t (* EXCEPT(b)) FORMAT TSV\n\n":                                  {insert, "TSV", "\n", "FORMAT TSV\n\n"},
	} {
		s := parse(text)
		require.Equal(t, want.kind, s.kind, text)
		require.Equal(t, want.format, s.format, text)
		if s.kind == insert {
			require.Equal(t, want.rest, text[s.dataAt:], text)
			require.Equal(t, want.at, text[s.infileAt:], text)
		} else if want.rest != "" {
			require.Equal(t, want.rest, text[s.formatAt:], text)
		}
		require.False(t, s.several, text)
	}
	require.True(t, parse("SELECT 1; DROP TABLE t").several)
	require.False(t, parse("SELECT ';' ; -- done\n").several)
	require.True(t, parse("SELECT 1 INTO OUTFILE 'x'").files)
	require.True(t, parse("INSERT INTO t FROM INFILE 'x' FORMAT CSV").files)
	require.Equal(t, "SELECT 1", "SELECT 1 ; -- x"[:parse("SELECT 1 ; -- x").end])
}

// A parser that everything passes through must take anything, and its offsets must lie in the text.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"SELECT 1", "INSERT INTO t (a) FORMAT CSV\n1", "'", "`\\", "$a$", "/*", "--", "SELECT 1 FORMAT", "INSERT INTO t VALUES", "KILL QUERY WHERE query_id = 'x'",
		"FixedString", "Decimal(", "LowCardinality(Nullable(", "Tuple(a b", "Map(", "Array(Tuple(a UInt8, `b c` DateTime64(6, 'UTC')))"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := parse(text)
		require.GreaterOrEqual(t, s.end, 0)
		require.LessOrEqual(t, s.end, len(text))
		require.LessOrEqual(t, s.formatAt, s.end)
		if s.kind == insert {
			require.GreaterOrEqual(t, s.infileAt, 0)
			require.LessOrEqual(t, s.infileAt, s.dataAt)
			require.LessOrEqual(t, s.dataAt, len(text))
		}
		for _, at := range s.queryIDs {
			require.Equal(t, 8, len(text[at:at+8]))
		}
		_, _ = layoutOf(text)
	})
}
