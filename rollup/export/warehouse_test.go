//go:build warehouse

package export

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every reader that can be had here reads an export as ClickHouse has it, row by row. docs/warehouse/check installs the readers, so
// this runs with a target of its own: make test-warehouse.
func TestOtherReaders(t *testing.T) {
	t.Parallel()
	f := newTables(t)
	root := t.TempDir()
	f.insert(streamA, 0, 1, 150_000, day0)
	f.insert(streamB, 1, 1, 20_000, day0.AddDate(0, 0, 40))
	f.exec("INSERT INTO days SELECT toDate('2025-11-18'), number % 97, ['', 'country', 'visitors'][1 + number % 3], if(number % 3 = 1, toString(number), ''), 'click', 'person', number, 'qr', " +
		"if(number % 3 = 0, toDateTime('2025-11-18 00:15:00', 'UTC') + (number % 96) * 900, toDateTime(0, 'UTC')), number, 3 FROM numbers(3000)")
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 9, '2025-11-20 01:02:03.456')")
	f.once(root, func(c *Config) { c.Events, c.Iceberg = 100_000, true })
	f.exec("INSERT INTO closed_days VALUES ('2025-11-18', 9, '2025-11-21 01:02:03.456')")
	f.insert(streamB, 1, 20_001, 20_010, day0)
	f.once(root, func(c *Config) { c.Iceberg = true })
	check := func(arguments ...string) error {
		c := exec.Command("../../docs/warehouse/check", append(arguments, root, f.addresses.ClickHouse)...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		return c.Run()
	}
	require.NoError(t, check())
	f.exec("ALTER TABLE events UPDATE class = 'scanner', reason = 'scanner: canary' WHERE sequence = 7 SETTINGS mutations_sync = 2")
	require.Error(t, check())
	require.NoError(t, check("--judged"))
	f.exec("ALTER TABLE events UPDATE suspect = NOT suspect WHERE sequence = 7 SETTINGS mutations_sync = 2")
	require.Error(t, check("--judged"))
}
