package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"spillway.dev/rollup/export/cut"
)

// State is all that a chain published up to one of its manifests.
type State struct {
	// Head is the manifest's number; zero: nothing is published yet.
	Head uint64
	// Reference is the head's manifest.
	Reference Reference
	Run       string    // of the head
	At        time.Time // of the head
	Scope     Scope
	Vector    cut.Vector
	Days      map[string]DayVersion // by date, YYYY-MM-DD
	// Hour is the partition that the newest events are in, and Sealed the newest one of which it is sure that nothing comes any more;
	// zero: there is none.
	Hour, Sealed time.Time
	// SinceState is how many manifests were published since one with a state.
	SinceState int
}

// DayVersion is the newest published version of a closed day.
type DayVersion struct {
	ClosedAt time.Time `json:"closed_at"`
	Cut      uint64    `json:"cut"`
}

// NewState is that of an empty chain.
func NewState(scope Scope) *State {
	return &State{Scope: scope, Vector: cut.Vector{}, Days: map[string]DayVersion{}}
}

// HourOf is the partition of a time.
func HourOf(t time.Time) time.Time { return t.UTC().Truncate(time.Hour) }

// Partition is the folder of a table's files that were cut in an hour.
func Partition(table string, hour time.Time) string {
	return table + "/" + hour.UTC().Format("dt=2006-01-02/hour=15") + "/"
}

// Apply goes one manifest on. The state is unchanged if it returns an error.
func (s *State) Apply(m *Manifest, reference Reference) error {
	switch {
	case m.Cut != s.Head+1:
		return fmt.Errorf("manifest %d cannot follow %d", m.Cut, s.Head)
	case m.Previous != nil && *m.Previous != s.Reference:
		return fmt.Errorf("%s: %w: it names another predecessor than %s as that is now", Path(m.Cut), ErrDamaged, s.Reference.Path)
	case !m.Scope.Equal(s.Scope):
		return fmt.Errorf("%s: %w: it is about %s, those before about %s", Path(m.Cut), ErrDamaged, m.Scope, s.Scope)
	}
	added, err := m.Vector()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := s.Vector.Add(added); err != nil {
		return fmt.Errorf("%s: %w: %w", Path(m.Cut), ErrDamaged, err)
	}
	for _, d := range m.Days {
		s.Days[d.Date] = DayVersion{ClosedAt: d.ClosedAt, Cut: m.Cut}
	}
	s.advance(m, reference)
	return nil
}

// advance takes over what a manifest says besides events and days.
func (s *State) advance(m *Manifest, reference Reference) {
	s.Head, s.Reference, s.Run, s.At, s.Scope = m.Cut, reference, m.Run, m.At, m.Scope
	s.SinceState++
	if m.State != nil {
		s.SinceState = 0
	}
	// Times never go back along the chain, so an hour before the head's has all it will ever have.
	if hour := HourOf(m.At); !s.Hour.IsZero() && s.Hour.Before(hour) {
		s.Sealed, s.Hour = s.Hour, time.Time{}
	}
	for _, f := range m.Files {
		if f.Table == "events" {
			s.Hour = HourOf(m.At)
		}
	}
}

// stateFile is a state as it is kept.
type stateFile struct {
	Format  int                   `json:"spillway_state"`
	Cut     uint64                `json:"cut"`
	Hour    time.Time             `json:"hour"`
	Sealed  time.Time             `json:"sealed"`
	Streams []Stream              `json:"streams"`
	Days    map[string]DayVersion `json:"days"`
}

// with returns the state's file as it will be after a manifest that is not published yet.
func (s *State) with(m *Manifest) ([]byte, error) {
	next := State{Head: s.Head, Reference: s.Reference, Scope: s.Scope, Hour: s.Hour, Sealed: s.Sealed, Vector: maps.Clone(s.Vector), Days: maps.Clone(s.Days)}
	if err := next.Apply(m, Reference{}); err != nil {
		return nil, err
	}
	f := stateFile{Format: Format, Cut: m.Cut, Hour: next.Hour, Sealed: next.Sealed, Days: next.Days}
	for _, lane := range next.Vector.Lanes() {
		f.Streams = append(f.Streams, Stream{Stream: cut.StreamName(lane.Stream), Partition: lane.Partition, Ranges: next.Vector[lane]})
	}
	return json.Marshal(f)
}

// restore returns the state of a manifest that points to this file.
func restore(data []byte, m *Manifest) (*State, error) {
	var f stateFile
	if err := json.Unmarshal(data, &f); err != nil || f.Cut != m.Cut || f.Format != Format || Sum(data) != m.State.SHA256 {
		return nil, fmt.Errorf("%s: %w: it is not the state of cut %d", m.State.Path, ErrDamaged, m.Cut)
	}
	s := NewState(m.Scope)
	asManifest := Manifest{Cut: f.Cut, Streams: f.Streams}
	var err error
	if s.Vector, err = asManifest.Vector(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", m.State.Path, ErrDamaged, err)
	}
	maps.Copy(s.Days, f.Days)
	s.advance(m, Reference{})
	s.Hour, s.Sealed = f.Hour, f.Sealed
	return s, nil
}
