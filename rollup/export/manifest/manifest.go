// Package manifest is the contract between an export and those who read it: what a manifest lists is published, nothing else is.
//
// Manifests form a chain. Cut N's is the file manifests/N (twelve digits) and names N-1's with its checksum. It is made last, when
// all of its files are there, and only if there is none of that number yet: of two exporters that work on the same cut one
// publishes it. So a file of cut N that manifest N does not list can never be published, and is garbage for certain once manifest N
// is there; no clock is asked.
//
// A manifest says what its cut added. Every so many cuts it also points to a state: all that was published up to there, so
// that nobody has to read the chain from its beginning.
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"spillway.dev/rollup/export/cut"
)

// Format is the version of the manifest's own form.
const Format = 1

// MaxFiles is how many files one manifest lists at most: Snowflake's COPY INTO takes no more by name.
const MaxFiles = 1000

// Manifest is what one cut publishes.
type Manifest struct {
	Format int `json:"spillway_manifest"`
	// Cut counts from 1.
	Cut uint64 `json:"cut"`
	// At is the time of the cut, by which its files are partitioned. It never goes back along the chain.
	At time.Time `json:"at"`
	// Run is a random name of the attempt that published it; the names of its files hold it.
	Run string `json:"run"`
	// Previous is cut N-1's manifest; absent in the first.
	Previous *Reference `json:"previous,omitempty"`
	// Scope is the same in a whole chain.
	Scope         Scope `json:"scope"`
	SchemaVersion int   `json:"schema_version"`
	// Rows, Bytes: sums over the files.
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
	Files []File `json:"files"`
	// Streams is which events the cut added; they are in the files of table events, in no particular one.
	Streams []Stream `json:"streams"`
	// Days is which closed days the cut added or replaced.
	Days []Day `json:"days,omitempty"`
	// State is everything published up to and with this cut, if it was written out here.
	State *Reference `json:"state,omitempty"`
}

// Reference names a file by path and content.
type Reference struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// Scope is which events, by their time, a chain is about. The zero value is all.
type Scope struct {
	Since *time.Time `json:"since,omitempty"` // from this time on
	Until *time.Time `json:"until,omitempty"` // before this time
}

// Equal says whether two scopes are the same.
func (s Scope) Equal(other Scope) bool {
	same := func(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }
	return same(s.Since, other.Since) && same(s.Until, other.Until)
}

// All says whether the scope leaves nothing out.
func (s Scope) All() bool { return s.Since == nil && s.Until == nil }

func (s Scope) String() string {
	switch form := time.RFC3339; {
	case s.All():
		return "all events"
	case s.Until == nil:
		return "events since " + s.Since.Format(form)
	case s.Since == nil:
		return "events until " + s.Until.Format(form)
	default:
		return "events since " + s.Since.Format(form) + " until " + s.Until.Format(form)
	}
}

// File is one published Parquet file.
type File struct {
	Path          string `json:"path"`
	Table         string `json:"table"` // events or days
	Rows          int64  `json:"rows"`
	Bytes         int64  `json:"bytes"`
	SHA256        string `json:"sha256"`
	RowGroups     int    `json:"row_groups"`
	SchemaVersion int    `json:"schema_version"`
	// MinTime and MaxTime are of the events; absent in days.
	MinTime *time.Time `json:"min_time,omitempty"`
	MaxTime *time.Time `json:"max_time,omitempty"`
	// MinDate and MaxDate are the least and greatest date, YYYY-MM-DD.
	MinDate string `json:"min_date"`
	MaxDate string `json:"max_date"`
}

// Stream is what a cut added of one stream in one partition.
type Stream struct {
	Stream    string     `json:"stream"` // 16 hexadecimal digits
	Partition uint32     `json:"partition"`
	Ranges    cut.Ranges `json:"ranges"` // [first, last], both included
	// Rows is how many of these events are in the cut's files. It is less than the ranges hold when events had expired before they
	// were exported, or are not in the scope.
	Rows int64 `json:"rows"`
}

// Day is one closed day's numbers.
type Day struct {
	Date string `json:"date"` // YYYY-MM-DD
	// ClosedAt tells a day's versions apart: only the newest one counts.
	ClosedAt time.Time `json:"closed_at"`
	Events   uint64    `json:"events"` // of the day, of all classes
	Rows     int64     `json:"rows"`
	Files    []string  `json:"files"`
	// Supersedes is the number of the cut that published the day before; zero: none did.
	Supersedes uint64 `json:"supersedes,omitempty"`
}

// Path is where a cut's manifest is.
func Path(cut uint64) string { return fmt.Sprintf("manifests/%012d.json", cut) }

// StatePath is where a cut's state is.
func StatePath(cut uint64, run string) string { return fmt.Sprintf("states/%012d-%s.json", cut, run) }

// Vector is the events that the cut added.
func (m *Manifest) Vector() (cut.Vector, error) {
	v := make(cut.Vector, len(m.Streams))
	for _, s := range m.Streams {
		stream, err := cut.ParseStream(s.Stream)
		if err != nil {
			return nil, fmt.Errorf("manifest of cut %d: %w", m.Cut, err)
		}
		if err := v.Add(cut.Vector{{Stream: stream, Partition: s.Partition}: s.Ranges}); err != nil {
			return nil, fmt.Errorf("manifest of cut %d: %w", m.Cut, err)
		}
	}
	return v, nil
}

// encode writes any of the package's files; people read them too.
func encode(v any) ([]byte, Reference, error) {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, Reference{}, err
	}
	data = append(data, '\n')
	return data, Reference{SHA256: Sum(data)}, nil
}

// Sum is a file's checksum as manifests have it.
func Sum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// ErrDamaged is wrapped by what is returned when a manifest, a state or the chain is not what it should be.
var ErrDamaged = errors.New("the export is damaged")

func decode(data []byte, number uint64) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", Path(number), ErrDamaged, err)
	}
	switch {
	case m.Format > Format:
		return nil, fmt.Errorf("%s is of form %d, this Spillway knows %d: use a newer one", Path(number), m.Format, Format)
	case m.Cut != number || m.Format < 1 || m.Run == "" || (m.Previous == nil) != (number == 1):
		return nil, fmt.Errorf("%s: %w: it is no manifest of cut %d", Path(number), ErrDamaged, number)
	}
	return &m, nil
}
