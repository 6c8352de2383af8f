package dictionary

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/data-dictionary.md is what the schemas give.
func TestDictionaryIsGenerated(t *testing.T) {
	want, err := Markdown()
	require.NoError(t, err)
	got, err := os.ReadFile("../../docs/data-dictionary.md")
	require.NoError(t, err)
	require.Equal(t, want, string(got), "run 'go generate ./schemas/dictionary'")
}

// Every column of the exported tables' sources is exported, or left out on purpose.
func TestNothingIsForgotten(t *testing.T) {
	leftOut := map[string]string{
		"events.term": "the fence's: who wrote the row",
	}
	tables, err := storedTables()
	require.NoError(t, err)
	seen := 0
	for _, from := range tables {
		for _, e := range []Table{Events(), Days()} {
			if e.Source != from.name {
				continue
			}
			seen++
			require.Greater(t, len(from.columns), 10)
			for _, c := range from.columns {
				_, exported := e.Column(c.name)
				require.NotEqual(t, leftOut[from.name+"."+c.name] != "", exported, "%s.%s", from.name, c.name)
			}
		}
	}
	require.Equal(t, 2, seen)
}

func TestTablesAreConsistent(t *testing.T) {
	for _, e := range []Table{Events(), Days()} {
		names := map[string]bool{}
		for _, c := range e.Columns {
			require.False(t, names[c.Name], "%s twice", c.Name)
			names[c.Name] = true
			require.NotEmpty(t, c.About, c.Name)
			require.NotContains(t, c.Type.Parquet(), "Type(", c.Name)
		}
		for _, name := range append(e.Key, e.Order...) {
			require.True(t, names[name], "%s of %s", name, e.Name)
		}
	}
	require.Contains(t, Events().Select(nil), "CAST(country, 'LowCardinality(String)') AS `country`")
	require.Contains(t, Events().Select(func(c string) bool { return c == "place" }), "CAST(place, 'String') AS `place`")
}
