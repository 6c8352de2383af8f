// Package cut says which events an export has published and which it publishes next.
//
// A cut is a vector, not a clock: for each stream and partition (a lane) the sequences that it holds. As a rule that is 1 up to
// the highest sequence without a hole below it. Holes wait to be filled; one that has not been for long is gone around, and what
// fills it later belongs to a later cut. Whatever lies in a cut is never looked at again, so it never changes.
package cut

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"spillway.dev/schemas/sequence"
)

// Lane is a stream in a partition: within it events are numbered 1, 2, 3 …
type Lane struct {
	Stream    uint64
	Partition uint32
}

func (l Lane) String() string { return fmt.Sprintf("stream %016x partition %d", l.Stream, l.Partition) }

// Compare orders lanes by stream and partition.
func (l Lane) Compare(other Lane) int {
	switch {
	case l.Stream < other.Stream:
		return -1
	case l.Stream > other.Stream:
		return 1
	}
	return int(int64(l.Partition) - int64(other.Partition))
}

// StreamName writes a stream's id as 16 hexadecimal digits.
func StreamName(stream uint64) string { return fmt.Sprintf("%016x", stream) }

// ParseStream reads what StreamName wrote.
func ParseStream(name string) (uint64, error) {
	if len(name) != 16 {
		return 0, fmt.Errorf("stream %q is not 16 hexadecimal digits", name)
	}
	stream, err := strconv.ParseUint(name, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("stream %q is not 16 hexadecimal digits", name)
	}
	return stream, nil
}

// Range is the sequences First … Last, both included.
type Range struct{ First, Last uint64 }

// Len is how many sequences it holds.
func (r Range) Len() uint64 { return r.Last - r.First + 1 }

// MarshalJSON writes a range as [first, last].
func (r Range) MarshalJSON() ([]byte, error) { return json.Marshal([2]uint64{r.First, r.Last}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Range) UnmarshalJSON(data []byte) error {
	var pair [2]uint64
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if pair[0] == 0 || pair[0] > pair[1] {
		return fmt.Errorf("range %v: sequences begin with 1 and the first is not above the last", pair)
	}
	r.First, r.Last = pair[0], pair[1]
	return nil
}

// Ranges is a set of sequences: ascending, none touching the next. The functions below keep it so and never change their arguments.
type Ranges []Range

// Of makes a set of ranges in any order, which may overlap.
func Of(ranges ...Range) Ranges {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int {
		switch {
		case a.First < b.First:
			return -1
		case a.First > b.First:
			return 1
		}
		return 0
	})
	var out Ranges
	for _, r := range sorted {
		if n := len(out); n > 0 && (r.First <= out[n-1].Last || r.First-1 == out[n-1].Last) {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// upTo is 1 … n; empty if n is zero.
func upTo(n uint64) Ranges {
	if n == 0 {
		return nil
	}
	return Ranges{{1, n}}
}

// Union is what is in either.
func (s Ranges) Union(other Ranges) Ranges {
	switch {
	case len(s) == 0:
		return slices.Clone(other)
	case len(other) == 0:
		return slices.Clone(s)
	}
	return Of(append(slices.Clone(s), other...)...)
}

// Minus is what is in s and not in other.
func (s Ranges) Minus(other Ranges) Ranges {
	var out Ranges
	i := 0
	for _, r := range s {
		for i > 0 && i <= len(other) && other[i-1].Last >= r.First {
			i-- // a range of other may cover the end of the range before and the beginning of this one
		}
		for i < len(other) && other[i].Last < r.First {
			i++
		}
		first, gone := r.First, false
		for ; i < len(other) && other[i].First <= r.Last; i++ {
			if other[i].First > first {
				out = append(out, Range{first, other[i].First - 1})
			}
			if other[i].Last >= r.Last {
				gone = true
				i++
				break
			}
			first = other[i].Last + 1
		}
		if !gone {
			out = append(out, Range{first, r.Last})
		}
	}
	return out
}

// UpTo is what is at or below last.
func (s Ranges) UpTo(last uint64) Ranges {
	if last == 0 {
		return nil
	}
	return s.Minus(Ranges{{last + 1, ^uint64(0)}})
}

// Len is how many sequences are in the set.
func (s Ranges) Len() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Len()
	}
	return n
}

// Highest is the highest sequence, or zero.
func (s Ranges) Highest() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].Last
}

// Unbroken is the highest sequence of which everything below is in the set too.
func (s Ranges) Unbroken() uint64 {
	if len(s) == 0 || s[0].First != 1 {
		return 0
	}
	return s[0].Last
}

// FirstN is the n lowest sequences of the set.
func (s Ranges) FirstN(n uint64) Ranges {
	var out Ranges
	for _, r := range s {
		if n == 0 {
			break
		}
		if r.Len() > n {
			r.Last = r.First + n - 1
		}
		out = append(out, r)
		n -= r.Len()
	}
	return out
}

// Sums returns those of the set.
func (s Ranges) Sums() (all sequence.Sums) {
	for _, r := range s {
		all = all.Plus(sequence.Run(r.First, r.Last))
	}
	return all
}

// Vector is the sequences of each lane.
type Vector map[Lane]Ranges

// Lanes returns the vector's lanes in order.
func (v Vector) Lanes() []Lane {
	lanes := make([]Lane, 0, len(v))
	for l := range v {
		lanes = append(lanes, l)
	}
	slices.SortFunc(lanes, Lane.Compare)
	return lanes
}

// Len is how many sequences are in all lanes.
func (v Vector) Len() uint64 {
	var n uint64
	for _, r := range v {
		n += r.Len()
	}
	return n
}

// Add puts the sequences of another vector in. It returns an error, and the first lane, if some of them are in it already.
func (v Vector) Add(other Vector) error {
	for lane, ranges := range other {
		if v[lane].Len()+ranges.Len() != v[lane].Union(ranges).Len() {
			return fmt.Errorf("%s: some of the sequences %v are published already", lane, ranges)
		}
	}
	for lane, ranges := range other {
		v[lane] = v[lane].Union(ranges)
	}
	return nil
}
