package stream

import (
	"cmp"
	"slices"
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

// sums are how many sequences a set has, their sum and the sum of their squares, modulo 2^64. A multiset of numbers from 1 to n that has
// the sums of 1 … n is 1 … n, but for coincidences that take several holes and doubles at once.
type sums struct{ count, sum, squares uint64 }

// sumsUpTo are the sums of 1 … n.
func sumsUpTo(n uint64) sums {
	// Divided before anything can overflow.
	a, b, c := n, n+1, 2*n+1
	if a%2 == 0 {
		a /= 2
	} else {
		b /= 2
	}
	sum := a * b
	switch {
	case a%3 == 0:
		a /= 3
	case b%3 == 0:
		b /= 3
	default:
		// 2n+1 overflows from 2^63 on; no stream is that long.
		c /= 3
	}
	return sums{n, sum, a * b * c}
}

func (s sums) plus(o sums) sums { return sums{s.count + o.count, s.sum + o.sum, s.squares + o.squares} }
func (s sums) minus(o sums) sums {
	return sums{s.count - o.count, s.sum - o.sum, s.squares - o.squares}
}

// sums of a set.
func (s Ranges) sums() sums {
	var all sums
	for _, r := range s {
		all = all.plus(sumsUpTo(r.Last)).minus(sumsUpTo(r.First - 1))
	}
	return all
}
