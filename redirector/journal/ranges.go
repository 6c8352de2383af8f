package journal

import "slices"

// Range is a range of events of one stream, by their number k; both ends are included.
type Range struct{ First, Last uint64 }

// addRange returns ranges with r added, in order, those that touch joined.
func addRange(ranges []Range, r Range) []Range {
	at, _ := slices.BinarySearchFunc(ranges, r.First, func(x Range, first uint64) int {
		if x.Last+1 < first {
			return -1
		}
		return 1
	})
	end := at
	for end < len(ranges) && ranges[end].First <= r.Last+1 {
		r.First = min(r.First, ranges[end].First)
		r.Last = max(r.Last, ranges[end].Last)
		end++
	}
	return slices.Replace(ranges, at, end, r)
}

// coarsen joins the ranges that lie closest to each other until there are at most n. What lies between is then called unreadable
// though it is not: that is said of it, nothing is done to it.
func coarsen(ranges []Range, n int) []Range {
	if len(ranges) <= n {
		return ranges
	}
	gaps := make([]uint64, 0, len(ranges)-1)
	for i := 1; i < len(ranges); i++ {
		gaps = append(gaps, ranges[i].First-ranges[i-1].Last)
	}
	slices.Sort(gaps)
	limit := gaps[len(ranges)-n-1]
	out := []Range{ranges[0]}
	for _, r := range ranges[1:] {
		if last := &out[len(out)-1]; r.First-last.Last <= limit {
			last.Last = r.Last
		} else {
			out = append(out, r)
		}
	}
	return out
}
