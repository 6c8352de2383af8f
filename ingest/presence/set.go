package presence

import "sort"

// Range is a run of sequences, both ends included.
type Range struct{ First, Last uint64 }

// Set is a set of sequences, kept as the runs that it consists of: ascending, apart from each other. A stream without holes is one
// run. The zero value is empty.
type Set struct{ runs []Range }

// Add puts first … last into the set.
func (s *Set) Add(first, last uint64) {
	// Nearly always the stream goes on where it was.
	if n := len(s.runs); n > 0 && first >= s.runs[n-1].First {
		end := &s.runs[n-1]
		switch {
		case last <= end.Last:
			return
		case first <= end.Last || first == end.Last+1:
			end.Last = last
			return
		}
		s.runs = append(s.runs, Range{first, last})
		return
	}
	// from … to are the runs that the new one touches.
	from := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].Last >= first || s.runs[i].Last+1 == first })
	to := from
	for to < len(s.runs) && (s.runs[to].First <= last || s.runs[to].First-1 == last) {
		first, last = min(first, s.runs[to].First), max(last, s.runs[to].Last)
		to++
	}
	if from == to {
		s.runs = append(s.runs, Range{})
		copy(s.runs[from+1:], s.runs[from:])
	} else {
		s.runs = append(s.runs[:from+1], s.runs[to:]...)
	}
	s.runs[from] = Range{first, last}
}

// AppendMissing appends to missing the runs of first … last that are not in the set.
func (s *Set) AppendMissing(missing []Range, first, last uint64) []Range {
	at := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].Last >= first })
	for ; at < len(s.runs) && s.runs[at].First <= last; at++ {
		if run := s.runs[at]; run.First > first {
			missing = append(missing, Range{first, run.First - 1})
		}
		if s.runs[at].Last >= last {
			return missing
		}
		first = s.runs[at].Last + 1
	}
	return append(missing, Range{first, last})
}

// Highest returns the highest sequence of the set; zero if it is empty.
func (s *Set) Highest() uint64 {
	if len(s.runs) == 0 {
		return 0
	}
	return s.runs[len(s.runs)-1].Last
}

// Holes returns how many runs below the highest sequence are missing.
func (s *Set) Holes() int {
	if len(s.runs) == 0 {
		return 0
	}
	if s.runs[0].First == 1 {
		return len(s.runs) - 1
	}
	return len(s.runs)
}

// Count returns how many sequences are in the set.
func (s *Set) Count() (n uint64) {
	for _, r := range s.runs {
		n += r.Last - r.First + 1
	}
	return n
}
