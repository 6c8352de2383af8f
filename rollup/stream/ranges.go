package stream

import (
	"cmp"
	"slices"

	"spillway.dev/schemas/sequence"
)

// Range is a run of sequences: First to Last, both included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Ranges are a set of sequences: sorted, not touching each other.
type Ranges []Range

// Union returns what is in any of the ranges, which may be in any order and overlap.
func Union(all ...Range) Ranges {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var union Ranges
	for _, r := range sorted {
		if r.First > r.Last {
			continue
		}
		if n := len(union); n > 0 && (union[n-1].Last+1 >= r.First || union[n-1].Last == ^uint64(0)) {
			union[n-1].Last = max(union[n-1].Last, r.Last)
			continue
		}
		union = append(union, r)
	}
	return union
}

// Minus returns what is in s but not in other.
func (s Ranges) Minus(other Ranges) Ranges {
	var left Ranges
	for _, r := range s {
		for _, o := range other {
			if o.Last < r.First {
				continue
			}
			if o.First > r.Last {
				break
			}
			if o.First > r.First {
				left = append(left, Range{r.First, o.First - 1})
			}
			if o.Last >= r.Last {
				r.First, r.Last = 1, 0
				break
			}
			r.First = o.Last + 1
		}
		if r.First <= r.Last {
			left = append(left, r)
		}
	}
	return left
}

// Count is how many sequences there are.
func (s Ranges) Count() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Last - r.First + 1
	}
	return n
}

// upTo is 1 … n.
func upTo(n uint64) Ranges {
	if n == 0 {
		return nil
	}
	return Ranges{{1, n}}
}

// sums of a set.
func (s Ranges) sums() (all sequence.Sums) {
	for _, r := range s {
		all = all.Plus(sequence.Run(r.First, r.Last))
	}
	return all
}
