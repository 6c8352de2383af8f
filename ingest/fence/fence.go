// Package fence decides who may write a partition's rows: whoever wrote the partition's term last.
//
// ClickHouse holds one term a partition, a random number. Every row carries its writer's term, and the table itself refuses rows
// of another (the constraint "fence" in schemas/clickhouse). So
//
//   - a row is checked against the term when it is written: what an older owner sends after a new term was answered is refused;
//   - what was checked before the new term is still in system.processes, and is waited for before the table is read.
//
// Between them nothing slips through: what the new owner reads is complete, and stays so but for its own rows.
//
// Terms are volatile: after ClickHouse started there are none, and without a term nothing passes. Whoever takes a partition then
// heals it: ClickHouse may have lost what was not yet on disk, so they read again from earlier on. And so does everyone after them,
// until one of them has come to the end. A term says so itself, by its two lowest bits.
package fence

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway.dev/ingest/table"
)

// Term names one taking of one partition. It is never zero and never used twice.
type Term uint64

const (
	healing = 1 << 0 // since ClickHouse started nobody who held the partition has come to its end
	anew    = 1 << 1 // and the term before was not of the same owner, who would know how far it has come
	marks   = healing | anew
)

// Healing says that ClickHouse was started since somebody last read the partition to its end.
func (t Term) Healing() bool { return t&healing != 0 }

// Anew says that the healing has to begin: this owner has not begun it before.
func (t Term) Anew() bool { return t&anew != 0 }

// ErrRefused is returned to who no longer holds a partition: somebody else took it.
var ErrRefused = errors.New("somebody else took the partition")

// ErrNoTerm is returned when the partition has no term at all: ClickHouse was started since it was taken.
var ErrNoTerm = errors.New("the partition's term is gone: ClickHouse was started")

// Fence takes partitions and asks who holds them.
type Fence struct {
	table *table.Table
	// linger is how long a running insert of another owner is waited for before it is killed.
	linger time.Duration
	// patience is how long it is waited for altogether.
	patience time.Duration
}

// New returns the fence of a table. linger is how long another owner's insert may go on before it is killed; default 10 s.
func New(t *table.Table, linger time.Duration) *Fence {
	if linger <= 0 {
		linger = 10 * time.Second
	}
	return &Fence{table: t, linger: linger, patience: max(4*linger, 10*time.Second)}
}

// On returns the same fence through another node of the same cluster.
func (f *Fence) On(node *table.Table) *Fence {
	return &Fence{table: node, linger: f.linger, patience: f.patience}
}

// Take writes a new term for a partition and returns it once it was answered. mine is the term that the caller held last, zero if
// none, and healed says that the caller came to the end under it.
//
// What the new term says of healing is decided inside the statement that writes it, from the term that it replaces. A term whose
// writing was not answered is never used: the next attempt writes another.
func (f *Fence) Take(ctx context.Context, partition int32, mine Term, healed bool) (Term, error) {
	fresh, goOn := random(), healing
	if healed {
		goOn = 0
	}
	const statement = `INSERT INTO %s (partition, term)
SELECT partition, bitOr(toUInt64(%d), toUInt64(multiIf(before = 0, %d, NOT bitTest(before, 0), 0, before = %d, %d, %d))) AS term
FROM (SELECT toUInt32(%d) AS partition, %s AS before)`
	layout := f.table.Layout
	err := f.table.Do(ctx, table.Insert{
		Statement: fmt.Sprintf(statement, layout.Local("terms"), uint64(fresh), marks, uint64(mine), goOn, marks, partition, layout.CurrentTerm()),
	})
	if err != nil {
		return 0, fmt.Errorf("write a term for partition %d: %w", partition, err)
	}
	now, err := f.current(ctx, partition)
	switch {
	case err != nil:
		return 0, err
	case now == 0:
		return 0, fmt.Errorf("take partition %d: %w", partition, ErrNoTerm)
	case now&^marks != fresh:
		return 0, fmt.Errorf("take partition %d: %w", partition, ErrRefused)
	}
	return now, nil
}

// random returns a new term without marks.
func random() Term {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails: it ends the program instead
		if t := Term(binary.LittleEndian.Uint64(b[:])) &^ marks; t != 0 {
			return t
		}
	}
}

// Check asks whether the partition's term is still this one.
func (f *Fence) Check(ctx context.Context, partition int32, held Term) error {
	now, err := f.current(ctx, partition)
	switch {
	case err != nil:
		return err
	case now == 0:
		return ErrNoTerm
	case now != held:
		return ErrRefused
	}
	return nil
}

func (f *Fence) current(ctx context.Context, partition int32) (Term, error) {
	question := fmt.Sprintf("SELECT %s AS term FROM (SELECT toUInt32(%d) AS partition)", f.table.Layout.CurrentTerm(), partition)
	var term uint64
	err := f.table.Each(ctx, question, func(scan func(...any) error) error { return scan(&term) })
	if err != nil {
		return 0, fmt.Errorf("read the term of partition %d: %w", partition, err)
	}
	return Term(term), nil
}

// Tag is what system.processes shows of an insert: whose it is.
func (f *Fence) Tag(partition int32, term Term) string {
	return fmt.Sprintf("%s%016x", f.prefix(partition), uint64(term))
}

func (f *Fence) prefix(partition int32) string {
	return fmt.Sprintf("spillway insert %s/%d/", f.table.Layout.Database, partition)
}

// ErrLingers is wrapped by Wait's error when an insert neither ends nor can be killed.
var ErrLingers = errors.New("an insert of another owner neither ends nor can be killed; restart ClickHouse if that lasts")

// Wait returns when no insert into the partition that another owner began is running any more. One that lingers is killed. It
// gives up when the term is no longer the partition's, and with ErrLingers when killing does not help: then the partition must not
// be read, for what the insert writes could still appear.
func (f *Fence) Wait(ctx context.Context, partition int32, held Term) error {
	pause, began, killed := 2*time.Millisecond, time.Now(), time.Time{}
	for {
		running, err := f.Running(ctx, partition, held)
		if err != nil {
			return err
		}
		if len(running) == 0 {
			return nil
		}
		if err := f.Check(ctx, partition, held); err != nil {
			return err
		}
		if time.Since(began) > f.linger && time.Since(killed) > f.linger {
			for _, tag := range running {
				if err := f.kill(ctx, tag); err != nil {
					return err
				}
			}
			killed = time.Now()
		}
		if time.Since(began) > f.patience {
			return fmt.Errorf("wait for %s: %w", strings.Join(running, ", "), ErrLingers)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}

// Running returns the tags of the inserts into the partition that run now, but those under the given term. On a cluster every
// replica is asked; one that does not answer is an error, because its inserts could still appear.
func (f *Fence) Running(ctx context.Context, partition int32, but Term) ([]string, error) {
	question := fmt.Sprintf("SELECT DISTINCT Settings['log_comment'] AS tag FROM %s WHERE startsWith(tag, '%s') AND tag != '%s'",
		f.processes(), f.prefix(partition), f.Tag(partition, but))
	var tags []string
	err := f.table.Each(ctx, question, func(scan func(...any) error) error {
		var tag string
		if err := scan(&tag); err != nil {
			return err
		}
		tags = append(tags, tag)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for running inserts into partition %d: %w", partition, err)
	}
	return tags, nil
}

func (f *Fence) processes() string {
	if f.table.Layout.Cluster == "" {
		return "system.processes"
	}
	return fmt.Sprintf("clusterAllReplicas('%s', system.processes)", f.table.Layout.Cluster)
}

func (f *Fence) kill(ctx context.Context, tag string) error {
	statement := "KILL QUERY " + f.table.Layout.OnCluster() + " WHERE Settings['log_comment'] = '" + strings.ReplaceAll(tag, "'", "") + "' ASYNC"
	err := f.table.Each(ctx, statement, func(func(...any) error) error { return nil })
	if err != nil {
		return fmt.Errorf("kill an insert that lingers: %w", err)
	}
	return nil
}
