package fence_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/internal/tabletest"
	"spillway.dev/ingest/table"
)

// insert writes one row under a term.
func insert(t *table.Table, f *fence.Fence, partition int32, term fence.Term, sequence int) error {
	return t.Do(context.Background(), table.Insert{
		Statement: fmt.Sprintf("INSERT INTO %s (stream, partition, sequence, term, date) SELECT 1, %d, %d, %d, '2026-01-01'",
			t.Layout.Local("events"), partition, sequence, uint64(term)),
		Tag: f.Tag(partition, term),
	})
}

func refused(err error) bool {
	e, ok := errors.AsType[*table.Exception](err)
	return ok && e.Code == table.ViolatedConstraint
}

func TestOnlyTheNewestTermWrites(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	f := fence.New(tbl, 0)
	ctx := t.Context()
	require.True(t, refused(insert(tbl, f, 0, 12, 1)), "without a term nothing passes")
	require.ErrorIs(t, f.Check(ctx, 0, 12), fence.ErrNoTerm)

	first, err := f.Take(ctx, 0, 0, false)
	require.NoError(t, err)
	require.True(t, first.Healing() && first.Anew(), "who finds no term heals")
	require.NoError(t, insert(tbl, f, 0, first, 1))
	require.NoError(t, f.Check(ctx, 0, first))

	second, err := f.Take(ctx, 0, 0, false)
	require.NoError(t, err)
	require.True(t, second.Healing() && second.Anew(), "and so does who follows before it was healed")
	require.True(t, refused(insert(tbl, f, 0, first, 2)))
	require.ErrorIs(t, f.Check(ctx, 0, first), fence.ErrRefused)
	require.NoError(t, insert(tbl, f, 0, second, 2))

	third, err := f.Take(ctx, 0, first, true)
	require.NoError(t, err)
	require.True(t, third.Healing() && third.Anew(), "the healing of one that is no longer there does not count")
	fourth, err := f.Take(ctx, 0, third, false)
	require.NoError(t, err)
	require.True(t, fourth.Healing(), "it is not healed yet")
	require.False(t, fourth.Anew(), "but who takes again goes on with it")
	fifth, err := f.Take(ctx, 0, fourth, true)
	require.NoError(t, err)
	require.False(t, fifth.Healing() || fifth.Anew())
	sixth, err := f.Take(ctx, 0, 0, false)
	require.NoError(t, err)
	require.False(t, sixth.Healing() || sixth.Anew())
	require.NoError(t, insert(tbl, f, 0, sixth, 3))

	other, err := f.Take(ctx, 1, 0, false)
	require.NoError(t, err)
	require.True(t, other.Healing(), "each partition by itself")
	require.NoError(t, f.Check(ctx, 0, sixth))
	require.EqualValues(t, 3, tabletest.Number(t, tbl, "SELECT count() FROM events"))
}

// slow is an insert that runs for a while after it has passed the check.
func slow(tbl *table.Table, f *fence.Fence, term fence.Term, seconds float64) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- tbl.Do(context.Background(), table.Insert{
			Statement: fmt.Sprintf("INSERT INTO %s (stream, partition, sequence, term, date) SELECT 1, 0, number + 1, %d, '2026-01-01' FROM numbers(10) WHERE sleepEachRow(%v) = 0 SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0",
				tbl.Layout.Local("events"), uint64(term), seconds/10),
			Tag: f.Tag(0, term),
		})
	}()
	return done
}

func running(t *testing.T, f *fence.Fence) {
	t.Helper()
	require.Eventually(t, func() bool {
		tags, err := f.Running(t.Context(), 0, 0)
		require.NoError(t, err)
		return len(tags) == 1
	}, time.Minute, time.Millisecond)
}

func TestWaitReturnsWhenWhatWasCheckedBeforeHasEnded(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	tabletest.Exec(t, tbl, "ALTER TABLE events ADD CONSTRAINT slow CHECK sleep(1) = 0") // between the check and the part
	f := fence.New(tbl, 0)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- insert(tbl, f, 0, first, 1) }()
	running(t, f)
	time.Sleep(100 * time.Millisecond)
	second, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	require.Zero(t, tabletest.Number(t, tbl, "SELECT count() FROM events"))
	require.NoError(t, f.Wait(t.Context(), 0, second))
	require.EqualValues(t, 1, tabletest.Number(t, tbl, "SELECT count() FROM events"), "it was checked before the new term, so it is waited for")
	require.NoError(t, <-done)
}

func TestWaitKillsWhatLingers(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	f := fence.New(tbl, 200*time.Millisecond)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	done := slow(tbl, f, first, 60)
	running(t, f)
	second, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, f.Wait(ctx, 0, second))
	there := tabletest.Number(t, tbl, "SELECT count() FROM events")
	require.Error(t, <-done)
	require.Equal(t, there, tabletest.Number(t, tbl, "SELECT count() FROM events"))
}

func TestWaitGivesUpWhenThePartitionWasTaken(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	f := fence.New(tbl, 50*time.Millisecond)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	done := slow(tbl, fence.New(tbl, 0), first, 60)
	running(t, f)
	second, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	third, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	require.ErrorIs(t, f.Wait(t.Context(), 0, second), fence.ErrRefused)
	require.NoError(t, f.Wait(t.Context(), 0, third))
	require.Error(t, <-done, "it lingered, and was killed")
}

// What the protocol assumes of the engine: an insert is in system.processes before its term is checked …
func TestAnInsertIsSeenBeforeItIsChecked(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	f := fence.New(tbl, 0)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	done := slow(tbl, f, first, 3) // its first row comes after 0.3 s
	running(t, f)
	_, err = f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	require.True(t, refused(<-done))
	require.Zero(t, tabletest.Number(t, tbl, "SELECT count() FROM events"))
}

// … and until no part of it can appear any more, also when its sender has gone away;
func TestAnInsertIsSeenUntilItsEndWhenItsSenderIsGone(t *testing.T) {
	t.Parallel()
	tbl := tabletest.Open(t)
	tabletest.Exec(t, tbl, "ALTER TABLE events ADD CONSTRAINT slow CHECK sleep(0.5) = 0") // after the fence: checked, and not written yet
	f := fence.New(tbl, 0)
	first, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- tbl.Do(ctx, table.Insert{
			Statement: fmt.Sprintf("INSERT INTO events (stream, partition, sequence, term, date) SELECT 1, 0, number, %d, '2026-01-01' FROM numbers(10)", uint64(first)),
			Tag:       f.Tag(0, first),
		})
	}()
	running(t, f)
	time.Sleep(100 * time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, table.ErrNoAnswer)
	second, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	require.NoError(t, f.Wait(t.Context(), 0, second))
	require.EqualValues(t, 10, tabletest.Number(t, tbl, "SELECT count() FROM events"), "it was checked before the new term, so it is waited for")
}

// … a check sees each term that was answered before; and success is answered when all parts are visible.
func TestATermThatWasAnsweredIsSeen(t *testing.T) {
	t.Parallel()
	address := tabletest.Addresses(t)
	tbl, other := tabletest.At(t, address), tabletest.At(t, address)
	f, g := fence.New(tbl, 0), fence.New(other, 0)
	held, err := f.Take(t.Context(), 0, 0, false)
	require.NoError(t, err)
	for i := range 25 {
		require.NoError(t, insert(other, g, 0, held, i))
		require.EqualValues(t, i+1, tabletest.Number(t, tbl, "SELECT count() FROM events"))
		next, err := f.Take(t.Context(), 0, 0, false)
		require.NoError(t, err)
		require.True(t, refused(insert(other, g, 0, held, i)))
		held = next
	}
}
