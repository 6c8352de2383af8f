package profile

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"spillway.dev/service/enginetest"
)

func TestATransactionThatIsTakenBackIsRunOnceMore(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), enginetest.Postgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for code, runs := range map[string]int{"40P01": 2, "40001": 2, "23505": 1} {
		n := 0
		err := transact(t.Context(), pool, func(tx pgx.Tx) error {
			n++
			_, err := tx.Exec(t.Context(), "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '"+code+"'; END $$")
			return err
		})
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code)
		require.Equal(t, runs, n, code)
	}
	n := 0
	require.NoError(t, transact(t.Context(), pool, func(tx pgx.Tx) error {
		if n++; n == 1 {
			_, err := tx.Exec(t.Context(), "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END $$")
			return err
		}
		return nil
	}))
}
