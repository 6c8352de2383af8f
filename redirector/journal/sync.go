package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"spillway.dev/redirector/journal/disk"
)

func (j *Journal) syncLoop() {
	tick := time.NewTicker(j.o.SyncInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
		}
		err := j.sync()
		if err != nil && !failing {
			j.log.Error("journal: cannot write to the disk; a power failure would take what was appended since. Check the disk", "err", err)
		} else if err == nil && failing {
			j.log.Info("journal: writing to the disk works again")
		}
		failing = err != nil
	}
}

// touchAhead is how much of the active segment beyond its tail is kept ready to be written to without a page fault, in bytes.
const touchAhead = 1 << 20

// sync forces what was appended to the disk. Appending goes on behind the last page that is synced.
func (j *Journal) sync() error {
	type part struct {
		g        *segment
		from, to int
	}
	var parts []part
	var errs []error
	for _, s := range j.Streams() {
		s.mu.Lock()
		segments := append([]*segment(nil), s.segments...)
		s.mu.Unlock()
		for _, g := range segments {
			// What a process that was killed left in the page cache is not on the disk yet either.
			if !g.own && g.synced == 0 {
				if err := g.flush(j.dir); err != nil {
					errs = append(errs, err)
				}
			}
		}
		j.mu.Lock()
		for _, g := range segments {
			if end := int(g.committed.Load()); g.own && end > g.synced {
				parts = append(parts, part{g, g.synced, end})
				if g == s.active {
					g.tail = min((g.tail+disk.PageSize-1)&^(disk.PageSize-1), int(g.size))
				}
			}
		}
		j.mu.Unlock()
	}
	started := time.Now()
	for _, p := range parts {
		b, err := p.g.pin(j.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // acknowledged and recycled meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m := p.g.mapping
		if err := m.Sync(p.from, p.to); err != nil {
			errs = append(errs, fmt.Errorf("sync %s: %w", p.g.name, err))
		} else {
			p.g.synced = p.to
		}
		_ = m.Touch(p.to, min(p.to+touchAhead, len(b)))
		p.g.unpin()
	}
	if len(parts) > 0 {
		j.counters.syncs.Add(1)
		j.counters.syncNanos.Add(uint64(time.Since(started)))
	}
	if err := errors.Join(errs...); err != nil {
		j.counters.failures.Add(1)
		return err
	}
	return nil
}

// flush puts a found segment on the disk.
func (g *segment) flush(dir disk.FS) error {
	f, err := dir.Open(g.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", g.name, err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", g.name, err)
	}
	g.synced = int(g.size)
	return nil
}
