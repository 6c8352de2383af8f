package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"spillway.dev/rollup/export/cut"
	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/source"
	"spillway.dev/rollup/export/store"
	"spillway.dev/service/engines"
)

// maxProblems is how many problems a report names; the rest is counted.
const maxProblems = 100

// Report is what an audit of an export found.
type Report struct {
	Place string         `json:"place"`
	Scope manifest.Scope `json:"scope"`
	Cuts  uint64         `json:"cuts"`
	// Files, Bytes, Events and Days are of what is listed.
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"`
	Events int64 `json:"events"`
	Days   int   `json:"days"`
	// Contents says whether the files were read, or only looked for.
	Contents bool `json:"contents"`
	// Unpublished is how many events ClickHouse has that no cut has taken yet; they are no problem.
	Unpublished uint64 `json:"unpublished"`
	// UnpublishedDays is how many closed days, or newer versions of them, wait for a cut.
	UnpublishedDays int `json:"unpublished_days"`
	// Expired is how many events of the cuts had expired before they were exported, or are not in the scope: they are in no file.
	Expired uint64 `json:"expired"`
	// Unlisted is how many data files no manifest lists: garbage, or those of a cut that is being made.
	Unlisted int `json:"unlisted"`
	// Lost is how many published events ClickHouse does not have any more, though it did not record them as expired.
	Lost uint64 `json:"lost"`
	// Problems is what is wrong, a sentence each; at most 100, with MoreProblems besides.
	Problems     []string `json:"problems"`
	MoreProblems int      `json:"more_problems,omitempty"`
}

// OK says whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) == maxProblems {
		r.MoreProblems++
		return
	}
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	looked := "looked for, not read"
	if r.Contents {
		looked = "read, row by row"
	}
	fmt.Fprintf(&b, "export         %s (%s)\n", r.Place, r.Scope)
	fmt.Fprintf(&b, "cuts           %d\n", r.Cuts)
	fmt.Fprintf(&b, "files          %d, %.1f MB (%s)\n", r.Files, float64(r.Bytes)/1e6, looked)
	fmt.Fprintf(&b, "events         %d in files, %d more in ClickHouse that wait for a cut\n", r.Events, r.Unpublished)
	fmt.Fprintf(&b, "closed days    %d in files, %d wait for a cut\n", r.Days, r.UnpublishedDays)
	if r.Expired > 0 {
		fmt.Fprintf(&b, "in no file     %d (expired before they were exported, or not in the scope)\n", r.Expired)
	}
	if r.Unlisted > 0 {
		fmt.Fprintf(&b, "unlisted files %d (no part of the export)\n", r.Unlisted)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM        %s\n", p)
	}
	switch {
	case r.MoreProblems > 0:
		fmt.Fprintf(&b, "result         %d problems\n", len(r.Problems)+r.MoreProblems)
	case r.OK():
		fmt.Fprintf(&b, "result         every event up to the newest cut is in one file, once\n")
	default:
		fmt.Fprintf(&b, "result         %d problems\n", len(r.Problems))
	}
	return b.String()
}

// Audit checks an export from its own files and ClickHouse: that the manifests form a chain, that no event is in two cuts, that the
// listed files are there, and that the table has what was published. contents has every file read: its checksum, and that it holds the
// events that its manifest says, each once. Only what keeps it from checking is an error; what it finds is in the report.
func Audit(ctx context.Context, place string, where engines.Addresses, contents bool) (*Report, error) {
	s, err := store.Open(ctx, place)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	from, layout, err := source.Open(where)
	if err != nil {
		return nil, err
	}
	a := &audit{store: s, chain: manifest.Chain{Store: s}, table: cut.Table{Source: from, Layout: layout},
		report: &Report{Place: s.String(), Contents: contents, Problems: []string{}}, missing: map[string]manifest.File{}, leftOut: map[cut.Lane]uint64{}}
	if err := a.manifests(ctx); err != nil {
		return nil, fmt.Errorf("audit %s: %w", s, err)
	}
	if a.state == nil && a.report.OK() {
		return nil, fmt.Errorf("audit %s: nothing is exported there: check the address, or run 'spillway export --to %s' first", s, place)
	}
	if err := a.listing(ctx); err != nil {
		return nil, fmt.Errorf("audit %s: %w", s, err)
	}
	if err := a.clickHouse(ctx); err != nil {
		return nil, fmt.Errorf("audit %s: %w", s, err)
	}
	return a.report, nil
}

type audit struct {
	store  store.Store
	chain  manifest.Chain
	table  cut.Table
	report *Report
	state  *manifest.State
	// missing is the listed files that were not found yet.
	missing map[string]manifest.File
	// leftOut is how many published events are in no file.
	leftOut map[cut.Lane]uint64
}

// manifests goes along the chain from its beginning.
func (a *audit) manifests(ctx context.Context) error {
	head, err := a.chain.Head(ctx)
	beheaded := errors.Is(err, manifest.ErrDamaged)
	if beheaded {
		a.report.problem("%v", err)
	} else if err != nil {
		return err
	}
	for number := uint64(1); number <= head || beheaded; number++ {
		m, reference, err := a.chain.Read(ctx, number)
		if beheaded && errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if errors.Is(err, manifest.ErrDamaged) || errors.Is(err, store.ErrNotFound) {
			a.report.problem("%v", err)
			return nil // what comes after cannot be judged
		}
		if err != nil {
			return err
		}
		if a.state == nil {
			a.state = manifest.NewState(m.Scope)
			a.report.Scope = m.Scope
		}
		for _, d := range m.Days {
			if last := a.state.Days[d.Date].Cut; last != d.Supersedes {
				a.report.problem("%s: day %s says that it supersedes cut %d, but cut %d published it last", reference.Path, d.Date, d.Supersedes, last)
			}
		}
		if err := a.state.Apply(m, reference); err != nil {
			a.report.problem("%v", err)
			return nil
		}
		a.report.Cuts++
		if err := a.one(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// one checks a manifest in itself, and its files' contents if asked to.
func (a *audit) one(ctx context.Context, m *manifest.Manifest) error {
	path := manifest.Path(m.Cut)
	var promised, listed, rows, size int64
	for _, s := range m.Streams {
		promised += s.Rows
		if n := s.Ranges.Len(); uint64(s.Rows) > n {
			a.report.problem("%s: stream %s partition %d has %d rows for %d events", path, s.Stream, s.Partition, s.Rows, n)
		} else if left := n - uint64(s.Rows); left > 0 {
			stream, err := cut.ParseStream(s.Stream)
			if err != nil {
				return err
			}
			a.report.Expired += left
			a.leftOut[cut.Lane{Stream: stream, Partition: s.Partition}] += left
		}
	}
	inFiles := map[string]bool{}
	for _, f := range m.Files {
		a.missing[f.Path] = f
		a.report.Files++
		rows, size = rows+f.Rows, size+f.Bytes
		if f.Table == "events" {
			listed += f.Rows
			a.report.Events += f.Rows
		}
		if inFiles[f.Path] {
			a.report.problem("%s lists %s twice", path, f.Path)
		}
		inFiles[f.Path] = true
	}
	a.report.Bytes += size
	if rows != m.Rows || size != m.Bytes {
		a.report.problem("%s: its files have %d rows and %d bytes, it says %d and %d", path, rows, size, m.Rows, m.Bytes)
	}
	if listed != promised {
		a.report.problem("%s: its files have %d events, its streams %d", path, listed, promised)
	}
	if len(m.Files) > manifest.MaxFiles {
		a.report.problem("%s lists %d files, more than %d", path, len(m.Files), manifest.MaxFiles)
	}
	a.report.Days += len(m.Days)
	for _, d := range m.Days {
		for _, f := range d.Files {
			if !inFiles[f] {
				a.report.problem("%s: day %s is in %s, which is not among the files", path, d.Date, f)
			}
		}
	}
	if err := a.writtenState(ctx, m); err != nil {
		return err
	}
	if !a.report.Contents {
		return nil
	}
	return a.contents(ctx, m)
}

// writtenState holds a written state against the one that the chain gives.
func (a *audit) writtenState(ctx context.Context, m *manifest.Manifest) error {
	if m.State == nil {
		return nil
	}
	other, err := a.chain.Restore(ctx, m)
	if errors.Is(err, manifest.ErrDamaged) || errors.Is(err, store.ErrNotFound) {
		a.report.problem("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(other.Vector, a.state.Vector) || !sameDays(other.Days, a.state.Days) {
		a.report.problem("%s is not what the manifests up to it say", m.State.Path)
	}
	return nil
}

func sameDays(a, b map[string]manifest.DayVersion) bool {
	if len(a) != len(b) {
		return false
	}
	for date, d := range a {
		if other, ok := b[date]; !ok || d.Cut != other.Cut || !d.ClosedAt.Equal(other.ClosedAt) {
			return false
		}
	}
	return true
}

// listing finds the listed files, and those that are not.
func (a *audit) listing(ctx context.Context) error {
	for _, prefix := range []string{"events/", "days/"} {
		err := a.store.List(ctx, prefix, func(o store.Object) error {
			f, listed := a.missing[o.Path]
			switch {
			case !listed && strings.HasSuffix(o.Path, ".parquet"):
				a.report.Unlisted++
			case listed && o.Size != f.Bytes:
				a.report.problem("%s has %d bytes instead of %d", o.Path, o.Size, f.Bytes)
			}
			delete(a.missing, o.Path)
			return nil
		})
		if err != nil {
			return err
		}
	}
	for path := range a.missing {
		a.report.problem("%s is listed but not there", path)
	}
	return nil
}

// clickHouse holds the newest cut against the tables.
func (a *audit) clickHouse(ctx context.Context) error {
	if a.state == nil {
		a.state = manifest.NewState(manifest.Scope{})
	}
	summary, err := a.table.Compare(ctx, a.state.Vector)
	if err != nil {
		return err
	}
	a.report.Unpublished = summary.Behind.Len()
	a.report.Lost = summary.Ahead.Len()
	for _, lane := range summary.Ahead.Lanes() {
		a.report.problem("%s: the events %s were published, but ClickHouse does not have them any more: run 'spillway ingest --rewind'", lane, ranges(summary.Ahead[lane]))
	}
	if a.state.Scope.All() {
		for _, lane := range slices.SortedFunc(maps.Keys(a.leftOut), cut.Lane.Compare) {
			if n, expired := a.leftOut[lane], summary.Expired[lane]; n > expired {
				a.report.problem("%s: %d published events are in no file, but only %d have expired", lane, n, expired)
			}
		}
	}
	waiting, err := freshDays(ctx, a.table, a.state)
	if err != nil {
		return err
	}
	a.report.UnpublishedDays = len(waiting)
	return nil
}

// ranges writes a few ranges for people.
func ranges(r cut.Ranges) string {
	data, err := json.Marshal(r[:min(len(r), 5)])
	if err != nil {
		return fmt.Sprint(r)
	}
	if len(r) > 5 {
		return string(data) + " …"
	}
	return string(data)
}
