package parquetfile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/dictionary"
)

// The data dictionary names the types that files really have.
func TestTypesAreAsDocumented(t *testing.T) {
	for _, table := range []dictionary.Table{dictionary.Events(), dictionary.Days()} {
		schema := Schema(table)
		for i, c := range table.Columns {
			require.Equal(t, c.Type.Arrow(), schema.Field(i).Type.String(), c.Name)
			require.Equal(t, c.Nullable, schema.Field(i).Nullable, c.Name)
		}
	}
}
