package fence

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/table"
)

// sleep() in one block cannot be interrupted: it stands for an insert that hangs.
func TestWaitSaysWhenKillingDoesNotHelp(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	tabletest.Exec(t, tbl, "ALTER TABLE events ADD CONSTRAINT slow CHECK sleep(3) = 0")
	f := New(tbl, 50*time.Millisecond)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		done <- tbl.Do(t.Context(), table.Insert{
			Statement: fmt.Sprintf("INSERT INTO events (stream, partition, sequence, term, date) SELECT 1, 0, 1, %d, '2026-01-01'", uint64(first)),
			Tag:       f.Tag(0, first),
		})
	}()
	require.Eventually(t, func() bool {
		tags, err := f.Running(t.Context(), 0, 0)
		return err == nil && len(tags) == 1
	}, time.Minute, time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	second, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	patient := f.patience
	f.patience = 300 * time.Millisecond
	require.ErrorIs(t, f.Wait(t.Context(), 0, second), ErrLingers)
	f.patience = patient
	require.NoError(t, f.Wait(t.Context(), 0, second), "it has ended after all")
	<-done
}
