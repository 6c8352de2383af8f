// Package tabletest gives tests of ingest a real ClickHouse with Spillway's tables in a database of their own.
package tabletest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/table"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// Addresses returns a new database with all tables made.
func Addresses(t testing.TB) engines.Addresses {
	t.Helper()
	a := engines.Addresses{ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, a.MigrateClickHouse(t.Context()))
	return a
}

// Open returns the table in a new database.
func Open(t testing.TB) *table.Table {
	t.Helper()
	return At(t, Addresses(t))
}

// At returns another client of the table at an address.
func At(t testing.TB, a engines.Addresses) *table.Table {
	t.Helper()
	opened, err := table.Open(a)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, opened.Close()) })
	return opened
}

// Number asks a question whose answer is one number.
func Number(t testing.TB, from *table.Table, question string) uint64 {
	t.Helper()
	rows, err := from.Query(t.Context(), question)
	require.NoError(t, err, question)
	defer rows.Close()
	var n uint64
	for rows.Next() {
		require.NoError(t, rows.Scan(&n))
	}
	require.NoError(t, rows.Err(), question)
	return n
}

// Exec runs a statement.
func Exec(t testing.TB, on *table.Table, statement string) {
	t.Helper()
	require.NoError(t, on.Do(t.Context(), table.Insert{Statement: statement}), statement)
}
