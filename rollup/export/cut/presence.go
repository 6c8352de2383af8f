package cut

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway.dev/rollup/export/source"
	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/schemas/sequence"
)

// projected lets ClickHouse answer from the projection `streams`, a few rows for each part, instead of reading all events.
func projected() map[string]string {
	return map[string]string{"optimize_aggregation_in_order": "0", "optimize_read_in_order": "0"}
}

// Table reads what is there of each stream.
type Table struct {
	Source *source.ClickHouse
	Layout schema.Layout
}

// lane is what the table and its record of expired events say about a lane.
type lane struct {
	Lane
	sums     sequence.Sums
	highest  uint64
	from, to time.Time // of its events
	expired  Ranges    // what was there in months that were dropped
}

// bucket is how many sequences are looked at together where a lane is not whole.
const bucket = 1 << 16

// maxRanges is how many separate ranges of one lane a query is given: each costs every row a look-up.
const maxRanges = 16

// lanes reads every lane from the projection and from expired_streams.
func (t Table) lanes(ctx context.Context) (map[Lane]*lane, error) {
	all := map[Lane]*lane{}
	at := func(l Lane) *lane {
		if all[l] == nil {
			all[l] = &lane{Lane: l}
		}
		return all[l]
	}
	// Expired streams first: a month that is dropped between the two questions is then missing from both and found a round later,
	// never taken for a hole that was filled.
	err := t.Source.Rows(ctx, source.Query{SQL: "SELECT stream, partition, highest, holes.1 AS first, holes.2 AS last FROM " + t.Layout.All("expired_streams") + " FINAL"},
		func(r source.Row) error {
			l := at(Lane{r.Uint(0), uint32(r.Uint(1))})
			first, last := r.Uints(3), r.Uints(4)
			holes := make([]Range, len(first))
			for i := range first {
				holes[i] = Range{first[i], last[i]}
			}
			l.expired = l.expired.Union(upTo(r.Uint(2)).Minus(Of(holes...)))
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read which streams expired: %w", err)
	}
	err = t.Source.Rows(ctx, source.Query{
		SQL: "SELECT stream, partition, count(), max(sequence), sum(sequence), sum(sequence * sequence), min(time), max(time) FROM " +
			t.Layout.All("events") + " GROUP BY partition, stream",
		Settings: projected(),
	}, func(r source.Row) error {
		l := at(Lane{r.Uint(0), uint32(r.Uint(1))})
		l.sums = sequence.Sums{Count: r.Uint(2), Sum: r.Uint(4), Squares: r.Uint(5)}
		l.highest, l.from, l.to = r.Uint(3), r.Time(6), r.Time(7)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read which events are there: %w", err)
	}
	return all, nil
}

// simple returns what is there of a lane if its sums say so without looking at rows: its events are those published (of which what
// expired may be gone or not) and, right behind them, a row of new ones without a hole.
func (l *lane) simple(published Ranges) (Ranges, bool) {
	known := published.Union(l.expired)
	if beyond := known.Highest(); l.highest > beyond {
		known = known.Union(Ranges{{beyond + 1, l.highest}})
	}
	return known, l.sums == known.Sums() || l.sums == known.Minus(l.expired).Sums()
}

// present finds out what is there of the lanes that are not simple, above their unbroken published beginning. Doubled rows count once.
// It says of which lanes.
func (t Table) present(ctx context.Context, lanes []*lane, published Vector) (found Vector, doubled map[Lane]bool, err error) {
	found, doubled = Vector{}, map[Lane]bool{}
	if len(lanes) == 0 {
		return found, doubled, nil
	}
	look := Vector{}
	for _, l := range lanes {
		if low := published[l.Lane].Unbroken(); low < l.highest {
			look[l.Lane] = Ranges{{low + 1, l.highest}}
		}
	}
	collected := map[Lane][]Range{}
	broken := Vector{}
	err = t.Source.Rows(ctx, source.Query{SQL: fmt.Sprintf(
		"SELECT stream, partition, count(), min(sequence), max(sequence), sum(sequence), sum(sequence * sequence) FROM %s WHERE %s GROUP BY stream, partition, intDiv(sequence - 1, %d)",
		t.Layout.All("events"), look.Predicate(), bucket)},
		func(r source.Row) error {
			l, whole := Lane{r.Uint(0), uint32(r.Uint(1))}, Range{r.Uint(3), r.Uint(4)}
			if (sequence.Run(whole.First, whole.Last) == sequence.Sums{Count: r.Uint(2), Sum: r.Uint(5), Squares: r.Uint(6)}) {
				collected[l] = append(collected[l], whole)
			} else {
				number := (whole.First - 1) / bucket
				broken[l] = broken[l].Union(Ranges{{number*bucket + 1, (number + 1) * bucket}})
			}
			return nil
		})
	if err != nil {
		return nil, nil, fmt.Errorf("look for holes: %w", err)
	}
	for l, ranges := range broken {
		if len(ranges) > maxRanges {
			broken[l] = Ranges{{ranges[0].First, ranges.Highest()}} // the buckets between come along, which costs less
		}
		broken[l] = broken[l].Minus(upTo(look[l][0].First - 1))
	}
	if len(broken) > 0 {
		err := t.Source.Rows(ctx, source.Query{SQL: fmt.Sprintf(
			"SELECT stream, partition, groupUniqArray(sequence), count() FROM %s WHERE %s GROUP BY stream, partition, intDiv(sequence - 1, %d)",
			t.Layout.All("events"), broken.Predicate(), bucket)},
			func(r source.Row) error {
				l := Lane{r.Uint(0), uint32(r.Uint(1))}
				sequences := slices.Clone(r.Uints(2))
				slices.Sort(sequences)
				if uint64(len(sequences)) < r.Uint(3) {
					doubled[l] = true
				}
				for i := 0; i < len(sequences); {
					j := i + 1
					for j < len(sequences) && sequences[j] == sequences[j-1]+1 {
						j++
					}
					collected[l] = append(collected[l], Range{sequences[i], sequences[j-1]})
					i = j
				}
				return nil
			})
		if err != nil {
			return nil, nil, fmt.Errorf("look for holes: %w", err)
		}
	}
	for _, l := range lanes {
		found[l.Lane] = Of(collected[l.Lane]...).Union(l.expired).Union(upTo(published[l.Lane].Unbroken()))
	}
	return found, doubled, nil
}

// waiting is since when events wait behind holes: the least time of any of them, by lane.
func (t Table) waiting(ctx context.Context, behind Vector) (map[Lane]time.Time, error) {
	since := map[Lane]time.Time{}
	if len(behind) == 0 {
		return since, nil
	}
	err := t.Source.Rows(ctx, source.Query{SQL: "SELECT stream, partition, min(time) FROM " + t.Layout.All("events") + " WHERE " + behind.Predicate() + " GROUP BY stream, partition"},
		func(r source.Row) error {
			since[Lane{r.Uint(0), uint32(r.Uint(1))}] = r.Time(2)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("look how long events have waited behind holes: %w", err)
	}
	return since, nil
}

// Counts is what the table has of a vector's events.
type Counts struct {
	Rows             map[Lane]int64
	Total            int64
	MinDate, MaxDate time.Time // zero if there is no row
}

// Condition is the part of a WHERE clause that bounds rows by date and time; the zero value bounds nothing.
type Condition struct {
	MinDate, MaxDate time.Time // both included; zero: none
	Since, Until     *time.Time
}

// SQL is the condition, beginning with AND, or empty.
func (c Condition) SQL() string {
	var b strings.Builder
	if !c.MinDate.IsZero() {
		fmt.Fprintf(&b, " AND date >= toDate('%s')", c.MinDate.Format(time.DateOnly))
	}
	if !c.MaxDate.IsZero() {
		fmt.Fprintf(&b, " AND date <= toDate('%s')", c.MaxDate.Format(time.DateOnly))
	}
	if c.Since != nil {
		fmt.Fprintf(&b, " AND time >= fromUnixTimestamp64Micro(%d, 'UTC')", c.Since.UnixMicro())
	}
	if c.Until != nil {
		fmt.Fprintf(&b, " AND time < fromUnixTimestamp64Micro(%d, 'UTC')", c.Until.UnixMicro())
	}
	return b.String()
}

// Count counts a vector's rows; distinct: those of one name once.
func (t Table) Count(ctx context.Context, v Vector, c Condition, distinct bool) (Counts, error) {
	counts := Counts{Rows: map[Lane]int64{}}
	if len(v) == 0 {
		return counts, nil
	}
	count := "count()"
	if distinct {
		count = "uniqExact(sequence)"
	}
	err := t.Source.Rows(ctx, source.Query{SQL: "SELECT stream, partition, " + count + ", min(date), max(date) FROM " + t.Layout.All("events") +
		" WHERE " + v.Predicate() + c.SQL() + " GROUP BY stream, partition"},
		func(r source.Row) error {
			counts.Rows[Lane{r.Uint(0), uint32(r.Uint(1))}] = int64(r.Uint(2))
			counts.Total += int64(r.Uint(2))
			if low := r.Date(3); counts.MinDate.IsZero() || low.Before(counts.MinDate) {
				counts.MinDate = low
			}
			if high := r.Date(4); counts.MaxDate.IsZero() || high.After(counts.MaxDate) {
				counts.MaxDate = high
			}
			return nil
		})
	if err != nil {
		return counts, fmt.Errorf("count the cut's events: %w", err)
	}
	return counts, nil
}
