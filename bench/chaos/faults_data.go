package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spillway.dev/bench/process"
	"spillway.dev/bench/wire"
)

// dataFaults destroy what was written. Each happens to a process that is down, as disks are changed and backups restored.
func dataFaults() []Fault {
	journal := func(name, does, expect string, loss Loss, damage func(*arena, string) error) Fault {
		return Fault{
			Name: name, Does: "The broker is out of reach for three seconds, then redirector-1 is killed. " + does, Expect: expect,
			Loss: loss, Rate: 800, on: damaged, Touches: []string{"redirector-1"}, strike: damageJournal(damage),
		}
	}
	return []Fault{
		journal("torn journal tail, cut", "The last 3000 bytes that were written are zeros.",
			"What was journaled after the stream's last mark cannot be known to have been there.", Unseen, cutTail),
		journal("torn journal tail, flipped bits", "200 bits among the last 3000 bytes are flipped.",
			"What was journaled after the stream's last mark cannot be known to have been there.", Unseen, flipTail),
		journal("corrupt journal segment", "200 bits in the middle of a segment are flipped, and a page of it is zeros.", "", Named, corruptSegment),
		journal("missing journal segment", "A segment's file is gone.", "", Named, removeSegment),
		journal("journal cursor lost", "Every file beside the segments is gone.", "What was shipped already is sent again, and skipped.", None, removeState),
		{
			Name: "journal cloned", Does: "As above; then redirector-1 and another redirector on a copy of its journal start at the same time.",
			Expect: "Both send the same events under the same names.",
			Rate:   800, on: damaged, Touches: []string{"redirector-1"}, strike: cloneJournal,
		},
		{
			Name: "journal restored from a backup", Does: "The journal is copied while it is written; a second later redirector-1 is killed and started on the copy.",
			Expect: "What the backup has is sent again, and skipped.",
			Loss:   Unseen, Rate: 800, on: damaged, Touches: []string{"redirector-1"}, strike: restoreJournal,
		},
		{
			Name: "broker back without its last records", Does: "Its directory is set back by a second, under kill -9. What ingest had not read is destroyed.",
			Loss: Named, on: damaged, Touches: []string{"broker"}, strike: rewindBroker,
		},
		{
			Name: "ClickHouse restored from a backup", Does: "Its directory is set back by a second, under kill -9; then `spillway ingest --rewind`.",
			Expect: "Kafka still has what the backup has not.",
			on:     damaged, Touches: []string{"clickhouse", "ingest-1", "ingest-2"}, strike: restoreClickHouse,
		},
		{
			Name: "rows deleted from ClickHouse", Does: "Every seventh row of the last seconds is deleted behind everybody's back; the ingests are started again.",
			Expect: "Who takes a partition next finds the holes, and heals them from Kafka.",
			on:     damaged, Touches: []string{"clickhouse"}, strike: deleteRows,
		},
	}
}

func damageJournal(damage func(*arena, string) error) strike {
	return func(ctx context.Context, a *arena) (func(context.Context) error, error) {
		dir, err := killWithBacklog(ctx, a)
		if err != nil {
			return nil, err
		}
		err = damage(a, dir)
		return func(ctx context.Context) error {
			a.relays("redirector-1", "broker", (*wire.Relay).Heal)
			return a.start(ctx, "redirector-1")
		}, err
	}
}

// killWithBacklog kills redirector-1 when its journal holds what it could not ship for three seconds, and returns the journal's directory.
func killWithBacklog(ctx context.Context, a *arena) (journal string, err error) {
	a.relays("redirector-1", "broker", (*wire.Relay).Stick)
	if err := sleep(ctx, 3*time.Second); err != nil {
		return "", err
	}
	a.process("redirector-1").Kill()
	return a.journal("redirector-1"), nil
}

func (a *arena) journal(redirector string) string {
	return filepath.Join(a.service(redirector).Dir, "journal")
}

func cloneJournal(ctx context.Context, a *arena) (func(context.Context) error, error) {
	const clone = "redirector-clone"
	journal, err := killWithBacklog(ctx, a)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(a.Options.Dir, clone)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755), copyTree(journal, filepath.Join(dir, "journal"))); err != nil {
		return nil, fmt.Errorf("clone a journal: %w", err)
	}
	return func(ctx context.Context) error {
		a.relays("redirector-1", "broker", (*wire.Relay).Heal)
		other, err := a.Redirector(ctx, clone)
		if err != nil {
			return err
		}
		return errors.Join(a.start(ctx, "redirector-1"), other.Ready(ctx, 30*time.Second), sleep(ctx, 2*time.Second), other.Stop(30*time.Second))
	}, nil
}

func restoreJournal(ctx context.Context, a *arena) (func(context.Context) error, error) {
	dir := a.journal("redirector-1")
	if err := errors.Join(os.RemoveAll(dir+".copy"), copyTree(dir, dir+".copy")); err != nil {
		return nil, err
	}
	return a.starter("redirector-1"), a.replaceAfterASecond(ctx, a.process("redirector-1"), dir)
}

// segments returns the journal's segment files, oldest first: their names sort by age.
func segments(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, "*.segment"))
	if err == nil && len(all) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("find journal segments in %s: %w", dir, err)
	}
	slices.Sort(all)
	return all, nil
}

// newest returns the last segment in which anything was written behind the headers, its content, and where that ends.
func newest(dir string) (name string, content []byte, end int, err error) {
	all, err := segments(dir)
	if err != nil {
		return "", nil, 0, err
	}
	for _, name := range slices.Backward(all) {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", nil, 0, fmt.Errorf("read journal segment: %w", err)
		}
		if end := len(bytes.TrimRight(content, "\x00")); end > headers {
			return name, content, end, nil
		}
	}
	return "", nil, 0, fmt.Errorf("no segment in %s has a record", dir)
}

// headers is where a segment's records begin.
const headers = 8192

func cutTail(_ *arena, dir string) error {
	name, content, end, err := newest(dir)
	if err != nil {
		return err
	}
	clear(content[max(headers, end-3000):end])
	return os.WriteFile(name, content, 0o644)
}

func flipTail(a *arena, dir string) error {
	name, content, end, err := newest(dir)
	if err != nil {
		return err
	}
	a.flip(content[max(headers, end-3000):end], 200)
	return os.WriteFile(name, content, 0o644)
}

func (a *arena) flip(b []byte, bits int) {
	for range bits {
		b[a.random.IntN(len(b))] ^= 1 << a.random.IntN(8)
	}
}

// inner returns a segment that is neither the oldest nor the newest.
func inner(dir string) (string, error) {
	all, err := segments(dir)
	if err != nil {
		return "", err
	}
	if len(all) < 3 {
		return "", fmt.Errorf("the journal in %s has only %d segments: nothing lies between the first and the last", dir, len(all))
	}
	return all[len(all)/2], nil
}

func corruptSegment(a *arena, dir string) error {
	name, err := inner(dir)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read journal segment: %w", err)
	}
	middle := len(content) / 2
	a.flip(content[middle:middle+4096], 200)
	clear(content[middle+8192 : middle+12288])
	return os.WriteFile(name, content, 0o644)
}

func removeSegment(_ *arena, dir string) error {
	name, err := inner(dir)
	if err != nil {
		return err
	}
	return os.Remove(name)
}

func removeState(_ *arena, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".segment") && !strings.HasSuffix(e.Name(), ".spare") {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// setBack copies a process's directory while it stands still, lets it run on for a second, kills it, and puts the copy in place.
func (a *arena) setBack(ctx context.Context, p *process.Process, dir string) error {
	if err := freezeFor(p, func() error { return copyTree(dir, dir+".copy") }); err != nil {
		return err
	}
	return a.replaceAfterASecond(ctx, p, dir)
}

func (a *arena) replaceAfterASecond(ctx context.Context, p *process.Process, dir string) error {
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	p.Kill()
	if err := errors.Join(os.RemoveAll(dir), os.Rename(dir+".copy", dir)); err != nil {
		return fmt.Errorf("set %s back: %w", dir, err)
	}
	return nil
}

func freezeFor(p *process.Process, f func() error) error {
	if err := p.Signal(stop); err != nil {
		return err
	}
	return errors.Join(f(), p.Signal(proceed))
}

// copyTree copies a directory with owners and times.
func copyTree(from, to string) error {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, bytes.TrimSpace(out))
	}
	return nil
}

func (a *arena) brokerDir() string {
	if a.Options.Kafka != nil {
		return filepath.Join(a.Options.Kafka.Nodes[0].Dir, "log")
	}
	return a.EngineDir("kafka")
}

func rewindBroker(ctx context.Context, a *arena) (func(context.Context) error, error) {
	return a.starter("broker"), a.setBack(ctx, a.process("broker"), a.brokerDir())
}

func restoreClickHouse(ctx context.Context, a *arena) (func(context.Context) error, error) {
	if err := a.setBack(ctx, a.process("clickhouse"), a.EngineDir("clickhouse")); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := a.start(ctx, "clickhouse"); err != nil {
			return err
		}
		// As an operator would: one ingest ends, one starts that begins at the earliest offset.
		for _, name := range []string{"ingest-1", "ingest-2"} {
			if _, err := terminate(name)(ctx, a); err != nil {
				return err
			}
		}
		first := a.process("ingest-1")
		args := first.Args
		if err := first.Again(ctx, append(slices.Clone(args), "--rewind")); err != nil {
			return err
		}
		first.Args = args
		return a.start(ctx, "ingest-2")
	}, nil
}

func deleteRows(ctx context.Context, a *arena) (func(context.Context) error, error) {
	_, err := a.Ask(ctx, "ALTER TABLE spillway.events DELETE WHERE time > now64(6) - 3 AND sequence % 7 = 0 SETTINGS mutations_sync = 2")
	return restartIngests(a), err
}

// restartIngests returns what makes both ingests read again what the table has.
func restartIngests(a *arena) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, name := range []string{"ingest-1", "ingest-2"} {
			start, err := terminate(name)(ctx, a)
			if err == nil {
				err = start(ctx)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}
