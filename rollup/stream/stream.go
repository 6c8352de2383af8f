// Package stream knows, of every stream of events, what its shipper said of it and what is stored of it.
//
// A lane is what one stream has in one partition: its events are numbered 1, 2, 3 … there. Count, maximum, sum and sum of squares of the
// stored sequences, which a projection of the events has ready, tell whether a lane is whole; only a lane that is not is looked at row
// by row.
package stream

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway.dev/rollup/table"
	"spillway.dev/schemas/sequence"
)

// Name names a lane.
type Name struct {
	Partition uint32
	Stream    uint64
}

// Hex is how a stream is written for people and in JSON.
func Hex(stream uint64) string { return fmt.Sprintf("%016x", stream) }

// Announcement is what a shipper last said.
type Announcement struct {
	Time         time.Time // every event of the lane that was answered before is at or below Journaled
	Journaled    uint64
	Unreadable   Ranges // at or below Journaled, and gone
	Dropped      uint64 // events of the whole stream that got no name
	DroppedSince time.Time
	DroppedUntil time.Time
	Final        bool
	Began        time.Time
	Origin       string
	Partitions   uint32
}

// Lane is one stream in one partition.
type Lane struct {
	Name
	Announced    bool // there is an announcement
	Announcement Announcement

	// Of the stored rows.
	Rows        uint64
	Highest     uint64
	First, Last time.Time // of the events' times

	Expired Ranges // sequences whose rows were dropped with their month

	sums sequence.Sums
}

// Length is how many events the lane is known to have had.
func (l *Lane) Length() uint64 {
	n := max(l.Announcement.Journaled, l.Highest)
	if k := len(l.Expired); k > 0 {
		n = max(n, l.Expired[k-1].Last)
	}
	return n
}

// Stored returns the highest sequence that is stored if all below it are stored once, too. Otherwise whole is false, and only Detail
// knows more.
func (l *Lane) Stored() (highest uint64, whole bool) {
	highest = l.Highest
	if k := len(l.Expired); k > 0 {
		highest = max(highest, l.Expired[k-1].Last)
	}
	return highest, l.sums.Plus(l.Expired.sums()) == sequence.UpTo(highest)
}

// Detail is what is there of a lane, row by row.
type Detail struct {
	Present Ranges // stored or expired
	Doubled Ranges // stored more than once
	Twice   uint64 // rows that are too many
}

// Missing is what is known to have been journaled and is not there, what is unreadable included.
func (l *Lane) Missing(d Detail) Ranges { return upTo(l.Length()).Minus(d.Present) }

// Load returns all lanes, sorted by stream and partition. Announcements are read before the rows, so what is not there then was announced
// earlier: it is on its way or missing.
func Load(ctx context.Context, t *table.Tables) ([]*Lane, error) {
	all := lanes{}
	if err := all.loadAnnouncements(ctx, t); err != nil {
		return nil, err
	}
	expired, err := LoadExpired(ctx, t)
	if err != nil {
		return nil, err
	}
	for n, present := range expired {
		all.lane(n).Expired = present
	}
	if err := all.loadStored(ctx, t, ""); err != nil {
		return nil, err
	}
	return all.sorted(), nil
}

// Follow returns lanes as Load does, of those streams that something was announced of. kept are lanes of an earlier reading: those of
// streams that have ended are taken as they were then, and of the others what had expired.
func Follow(ctx context.Context, t *table.Tables, kept map[Name]*Lane, ended map[uint64]bool) ([]*Lane, error) {
	all := lanes{}
	if err := all.loadAnnouncements(ctx, t); err != nil {
		return nil, err
	}
	ask := map[uint64]bool{}
	for n, l := range all {
		before := kept[n]
		switch {
		case before != nil && ended[n.Stream]:
			all[n] = before
			continue
		case before != nil:
			l.Expired = before.Expired
		}
		ask[n.Stream] = true
	}
	if len(ask) == 0 {
		return all.sorted(), nil
	}
	if err := all.loadStored(ctx, t, " WHERE stream IN ("+table.Numbers(slices.Sorted(maps.Keys(ask)))+")"); err != nil {
		return nil, err
	}
	return all.sorted(), nil
}

type lanes map[Name]*Lane

func (all lanes) lane(n Name) *Lane {
	if all[n] == nil {
		all[n] = &Lane{Name: n}
	}
	return all[n]
}

func (all lanes) sorted() []*Lane {
	list := slices.Collect(maps.Values(all))
	slices.SortFunc(list, func(a, b *Lane) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}

// loadStored reads the projection streams.
func (all lanes) loadStored(ctx context.Context, t *table.Tables, where string) error {
	var n Name
	var l Lane
	err := t.Each(ctx, `SELECT partition, stream AS s, count(), max(sequence), sum(sequence), sum(sequence * sequence), min(time), max(time)
		FROM `+t.All("events")+where+` GROUP BY partition, stream`,
		[]any{&n.Partition, &n.Stream, &l.Rows, &l.Highest, &l.sums.Sum, &l.sums.Squares, &l.First, &l.Last}, func() error {
			to := all.lane(n)
			to.Rows, to.Highest, to.First, to.Last = l.Rows, l.Highest, l.First, l.Last
			to.sums = sequence.Sums{Count: l.Rows, Sum: l.sums.Sum, Squares: l.sums.Squares}
			return nil
		})
	if err != nil {
		return fmt.Errorf("read what is stored of the streams: %w", err)
	}
	return nil
}

func (all lanes) loadAnnouncements(ctx context.Context, t *table.Tables) error {
	var n Name
	var a Announcement
	var unreadable string
	var final uint8
	err := t.Each(ctx, `SELECT partition, stream AS s, max(time), max(journaled), `+ranges("groupUniqArrayArray(unreadable)")+`, max(dropped), max(dropped_since),
			max(dropped_until), max(final), max(began), anyLast(origin), max(partitions)
		FROM `+t.All("announcements")+` GROUP BY partition, s`,
		[]any{&n.Partition, &n.Stream, &a.Time, &a.Journaled, &unreadable, &a.Dropped, &a.DroppedSince, &a.DroppedUntil, &final, &a.Began, &a.Origin, &a.Partitions},
		func() error {
			l := all.lane(n)
			l.Announced, l.Announcement = true, a
			l.Announcement.Final = final != 0
			var err error
			l.Announcement.Unreadable, err = parseRanges(unreadable)
			return err
		})
	if err != nil {
		return fmt.Errorf("read announcements: %w", err)
	}
	return nil
}

// LoadExpired returns the sequences whose rows were dropped with their month, or are about to be.
func LoadExpired(ctx context.Context, t *table.Tables) (map[Name]Ranges, error) {
	expired := map[Name]Ranges{}
	var n Name
	var highest uint64
	var text string
	err := t.Each(ctx, "SELECT partition, stream AS s, argMax(highest, recorded_at), "+ranges("argMax(holes, recorded_at)")+" FROM "+t.All("expired_streams")+" GROUP BY partition, s",
		[]any{&n.Partition, &n.Stream, &highest, &text}, func() error {
			holes, err := parseRanges(text)
			expired[n] = upTo(highest).Minus(Union(holes...))
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read expired streams: %w", err)
	}
	return expired, nil
}

// ranges writes an Array(Tuple(UInt64, UInt64)) as text: "1-5,7-7".
func ranges(column string) string {
	return "arrayStringConcat(arrayMap(r -> concat(toString(r.1), '-', toString(r.2)), " + column + "), ',')"
}

func parseRanges(text string) (Ranges, error) {
	if text == "" {
		return nil, nil
	}
	var all []Range
	for _, part := range strings.Split(text, ",") {
		first, last, _ := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("range %q: %w", part, err)
		}
		b, err := strconv.ParseUint(last, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("range %q: %w", part, err)
		}
		all = append(all, Range{a, b})
	}
	return Union(all...), nil
}

func (n Name) rows(t *table.Tables) string {
	return fmt.Sprintf("%s WHERE stream = %d AND partition = %d", t.All("events"), n.Stream, n.Partition)
}

// ReadDetail reads a lane's rows.
func ReadDetail(ctx context.Context, t *table.Tables, l *Lane) (Detail, error) {
	var d Detail
	present, err := readRuns(ctx, t, l.Name, "")
	if err != nil {
		return Detail{}, err
	}
	d.Present = Union(append(present, l.Expired...)...)
	var n, rows uint64
	var doubled []Range
	err = t.Each(ctx, "SELECT sequence, count() AS n FROM "+l.rows(t)+" GROUP BY sequence HAVING n > 1", []any{&n, &rows}, func() error {
		doubled = append(doubled, Range{n, n})
		d.Twice += rows - 1
		return nil
	})
	if err != nil {
		return Detail{}, fmt.Errorf("read doubled rows of stream %s in partition %d: %w", Hex(l.Stream), l.Partition, err)
	}
	d.Doubled = Union(doubled...)
	return d, nil
}

// Around returns the times of the last stored event below a sequence and of the first above another; zero where there is none.
func Around(ctx context.Context, t *table.Tables, n Name, below, above uint64) (before, after time.Time, err error) {
	err = t.Row(ctx, fmt.Sprintf("SELECT maxIf(time, sequence < %d), minIf(time, sequence > %d) FROM %s", below, above, n.rows(t)), &before, &after)
	if err != nil {
		return before, after, fmt.Errorf("read times of stream %s in partition %d: %w", Hex(n.Stream), n.Partition, err)
	}
	epoch := func(t time.Time) time.Time {
		if t.UnixMicro() == 0 {
			return time.Time{}
		}
		return t
	}
	return epoch(before), epoch(after), nil
}

// Same says whether two readings of a lane tell the same of its rows and of what was announced to be in it.
func (l *Lane) Same(o *Lane) bool {
	return l.sums == o.sums && l.Highest == o.Highest && l.Announcement.Journaled == o.Announcement.Journaled &&
		slices.Equal(l.Announcement.Unreadable, o.Announcement.Unreadable) && slices.Equal(l.Expired, o.Expired)
}

// LoadPartition returns the sequences that a partition of the table of events has, by its id: a month, as 202605.
func LoadPartition(ctx context.Context, t *table.Tables, id string) (map[Name]Ranges, error) {
	present := map[Name]Ranges{}
	var scattered []Name
	var n Name
	var lowest, highest uint64
	var s sequence.Sums
	where := "_partition_id = '" + id + "'"
	err := t.Each(ctx, `SELECT partition, stream AS s, count(), min(sequence), max(sequence), sum(sequence), sum(sequence * sequence)
		FROM `+t.All("events")+` WHERE `+where+` GROUP BY partition, stream`,
		[]any{&n.Partition, &n.Stream, &s.Count, &lowest, &highest, &s.Sum, &s.Squares}, func() error {
			if sequence.Run(lowest, highest) == s {
				present[n] = Ranges{{lowest, highest}}
			} else {
				scattered = append(scattered, n)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read the streams of %s: %w", id, err)
	}
	// Where months meet, the events of a stream belong to one or the other by their profiles' time zones.
	for _, n := range scattered {
		if present[n], err = readRuns(ctx, t, n, " AND "+where); err != nil {
			return nil, err
		}
	}
	return present, nil
}

// readRuns reads the sequences of a lane's rows.
func readRuns(ctx context.Context, t *table.Tables, n Name, condition string) (Ranges, error) {
	var runs []Range
	var r Range
	// Numbers that follow each other have the same difference to their row's number.
	err := t.Each(ctx, `SELECT min(n), max(n) FROM (
			SELECT n, n - row_number() OVER (ORDER BY n) AS island FROM (SELECT DISTINCT sequence AS n FROM `+n.rows(t)+condition+`))
		GROUP BY island ORDER BY 1`, []any{&r.First, &r.Last}, func() error { runs = append(runs, r); return nil })
	if err != nil {
		return nil, fmt.Errorf("read rows of stream %s in partition %d: %w", Hex(n.Stream), n.Partition, err)
	}
	return Union(runs...), nil
}
