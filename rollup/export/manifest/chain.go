package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"spillway.dev/rollup/export/store"
)

// success is the marker's name: at the root it names the newest manifest, in an hour's folder it says that the hour is complete.
const success = "_SUCCESS"

// stateEvery is after how many manifests the state is written out: so many a new exporter reads at most.
const stateEvery = 64

// ErrConflict is returned when another exporter published the cut.
var ErrConflict = errors.New("another exporter published this cut")

// Chain is the manifests in a store.
type Chain struct {
	Store store.Store
	// StateEvery is after how many manifests the state is written out; zero: 64.
	StateEvery int
}

// marker is the content of _SUCCESS.
type marker struct {
	Cut      uint64 `json:"cut"`
	Manifest string `json:"manifest"`
}

// Read returns a manifest and its reference. It returns store.ErrNotFound if there is none of that number.
func (c *Chain) Read(ctx context.Context, number uint64) (*Manifest, Reference, error) {
	data, err := store.ReadAll(ctx, c.Store, Path(number))
	if err != nil {
		return nil, Reference{}, err
	}
	m, err := decode(data, number)
	if err != nil {
		return nil, Reference{}, err
	}
	return m, Reference{Path: Path(number), SHA256: Sum(data)}, nil
}

// Head returns the number of the newest manifest, zero if there is none, or ErrDamaged if the newest one is gone.
func (c *Chain) Head(ctx context.Context) (uint64, error) {
	var head uint64
	if data, err := store.ReadAll(ctx, c.Store, success); err == nil {
		// A hint of where to begin: it may be behind, or unreadable while it is replaced. But it is written after what it names.
		var hint marker
		if json.Unmarshal(data, &hint) == nil && hint.Cut > 0 {
			switch _, err := c.Store.Stat(ctx, Path(hint.Cut)); {
			case errors.Is(err, store.ErrNotFound):
				return 0, fmt.Errorf("%w: %s names %s, which is not there: bring it back, or export to another place", ErrDamaged, success, Path(hint.Cut))
			case err != nil:
				return 0, err
			}
			head = hint.Cut
		}
	}
	if head == 0 {
		err := c.Store.List(ctx, "manifests/", func(o store.Object) error {
			var number uint64
			if _, err := fmt.Sscanf(o.Path, "manifests/%d.json", &number); err == nil && o.Path == Path(number) {
				head = max(head, number)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	for {
		_, err := c.Store.Stat(ctx, Path(head+1))
		if errors.Is(err, store.ErrNotFound) {
			return head, nil
		}
		if err != nil {
			return 0, err
		}
		head++
	}
}

// Load returns the state at the newest manifest. It checks every link on its way.
func (c *Chain) Load(ctx context.Context) (*State, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the manifests in %s: %w", c.Store, err)
	}
	state, err := c.at(ctx, head)
	if err != nil {
		return nil, fmt.Errorf("read the manifests in %s: %w", c.Store, err)
	}
	return state, nil
}

// at returns the state at a manifest: back to the nearest written state, and forward from there.
func (c *Chain) at(ctx context.Context, number uint64) (*State, error) {
	type link struct {
		manifest  *Manifest
		reference Reference
	}
	var links []link
	for ; number > 0; number-- {
		m, reference, err := c.Read(ctx, number)
		if errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err != nil {
			return nil, err
		}
		links = append(links, link{m, reference})
		if m.State != nil {
			break
		}
	}
	if len(links) == 0 {
		return NewState(Scope{}), nil
	}
	oldest := links[len(links)-1]
	state := NewState(oldest.manifest.Scope)
	if oldest.manifest.State != nil {
		var err error
		if state, err = c.Restore(ctx, oldest.manifest); err != nil {
			return nil, err
		}
		state.Reference = oldest.reference
		links = links[:len(links)-1]
	}
	for i := len(links) - 1; i >= 0; i-- {
		if err := state.Apply(links[i].manifest, links[i].reference); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// Restore reads the state that a manifest points to. The state's own reference is left empty.
func (c *Chain) Restore(ctx context.Context, m *Manifest) (*State, error) {
	data, err := store.ReadAll(ctx, c.Store, m.State.Path)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	return restore(data, m)
}

// Advance goes on to the newest manifest from a state that was loaded before.
func (c *Chain) Advance(ctx context.Context, s *State) error {
	if s.Head > 0 {
		// Another disk may have been mounted meanwhile, or the export removed.
		switch _, err := c.Store.Stat(ctx, s.Reference.Path); {
		case errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("read the manifests in %s: %w: %w", c.Store, ErrDamaged, err)
		case err != nil:
			return fmt.Errorf("read the manifests in %s: %w", c.Store, err)
		}
	}
	for {
		m, reference, err := c.Read(ctx, s.Head+1)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the manifests in %s: %w", c.Store, err)
		}
		if s.Head == 0 {
			s.Scope = m.Scope
		}
		if err := s.Apply(m, reference); err != nil {
			return fmt.Errorf("read the manifests in %s: %w", c.Store, err)
		}
	}
}

// Publish makes m, whose files are all there, the manifest after s, and advances s. It returns ErrConflict if another exporter was
// faster: then m will never be published, and its files may be removed. After any other error it is not known whether m is
// published, and its files must stay.
func (c *Chain) Publish(ctx context.Context, s *State, m *Manifest) error {
	m.Format, m.Cut, m.Scope = Format, s.Head+1, s.Scope
	m.Previous = nil
	if s.Head > 0 {
		previous := s.Reference
		m.Previous = &previous
	}
	if err := c.writeState(ctx, s, m); err != nil {
		if _, there := c.Store.Stat(ctx, Path(m.Cut)); there == nil {
			return ErrConflict // who was faster may have removed what was being written
		}
		return fmt.Errorf("publish cut %d: %w", m.Cut, err)
	}
	data, reference, err := encode(m)
	if err != nil {
		return fmt.Errorf("publish cut %d: %w", m.Cut, err)
	}
	reference.Path = Path(m.Cut)
	if err := c.Store.CreateNew(ctx, reference.Path, data); err != nil {
		// The answer may have been lost, and the request repeated: what is there tells.
		_, there, reading := c.Read(ctx, m.Cut)
		switch {
		case reading == nil && there.SHA256 == reference.SHA256:
			// It is ours after all.
		case reading == nil:
			return ErrConflict
		default:
			return fmt.Errorf("publish cut %d: %w", m.Cut, err)
		}
	}
	if err := s.Apply(m, reference); err != nil {
		return fmt.Errorf("publish cut %d: %w", m.Cut, err)
	}
	return nil
}

// writeState writes the state out if it is time to.
func (c *Chain) writeState(ctx context.Context, s *State, m *Manifest) error {
	every := c.StateEvery
	if every == 0 {
		every = stateEvery
	}
	if s.SinceState+1 < every {
		return nil
	}
	data, err := s.with(m)
	if err != nil {
		return err
	}
	path := StatePath(m.Cut, m.Run)
	if err := store.Replace(ctx, c.Store, path, data); err != nil {
		return err
	}
	m.State = &Reference{Path: path, SHA256: Sum(data)}
	return nil
}

// Mark writes the markers: at the root which manifest is the newest, and in the newest hour that has all it will ever have, that
// it is complete. Markers are conveniences; losing one loses nothing.
func (c *Chain) Mark(ctx context.Context, s *State) error {
	if s.Head == 0 {
		return nil
	}
	data, _, err := encode(marker{s.Head, Path(s.Head)})
	if err != nil {
		return err
	}
	if !s.Sealed.IsZero() {
		path := Partition("events", s.Sealed) + success
		if _, err := c.Store.Stat(ctx, path); errors.Is(err, store.ErrNotFound) {
			if err := store.Replace(ctx, c.Store, path, data); err != nil {
				return fmt.Errorf("mark an hour as complete: %w", err)
			}
		} else if err != nil {
			return fmt.Errorf("mark an hour as complete: %w", err)
		}
	}
	if err := store.Replace(ctx, c.Store, success, data); err != nil {
		return fmt.Errorf("mark cut %d: %w", s.Head, err)
	}
	return nil
}

// Attempt is the cut and the run that a file's name speaks of.
type Attempt struct {
	Cut uint64
	Run string
}

// FileName is the name of the n-th file of an attempt, counted from 1.
func (a Attempt) FileName(n int) string {
	return fmt.Sprintf("cut-%012d-%s-%04d.parquet", a.Cut, a.Run, n)
}

// AttemptOf reads the attempt from the path of a data file or a state, finished or not; false for other files.
func AttemptOf(path string) (Attempt, bool) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	name = strings.TrimPrefix(name, "cut-")
	number, rest, ok := strings.Cut(name, "-")
	if !ok || len(number) != 12 {
		return Attempt{}, false
	}
	var a Attempt
	if _, err := fmt.Sscanf(number, "%d", &a.Cut); err != nil || a.Cut == 0 {
		return Attempt{}, false
	}
	end := strings.IndexAny(rest, "-.")
	if end <= 0 {
		return Attempt{}, false
	}
	a.Run = rest[:end]
	return a, true
}
