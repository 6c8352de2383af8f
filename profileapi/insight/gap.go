package insight

import "time"

// Gap is a range of time of which events are missing: for good, or still on their way.
type Gap struct {
	From   time.Time
	To     time.Time // zero: it goes on
	Cause  string    // dropped, unreadable, missing or silent
	Events uint64    // how many, of all profiles, as far as that is known
	Stream string
	Lost   bool // they will not come any more
}

// touches says whether the gap and [from, to) have a moment in common.
func (g Gap) touches(from, to time.Time) bool {
	return g.From.Before(to) && (g.To.IsZero() || !g.To.Before(from))
}

// covers says whether all of [from, to) is in the gap.
func (g Gap) covers(from, to time.Time) bool {
	return !g.From.After(from) && !g.To.IsZero() && !g.To.Before(to)
}

// Gaps returns the gaps that touch [from, to).
func (c Completeness) Gaps(from, to time.Time) []Gap {
	var gaps []Gap
	add := func(list []Holding, lost bool) {
		for _, h := range list {
			if h.Since == nil && h.Until == nil {
				continue // nobody knows when
			}
			g := Gap{Cause: h.Reason, Events: h.Events, Stream: h.Stream, Lost: lost}
			if h.Since != nil {
				g.From = *h.Since
			} else {
				g.From = *h.Until
			}
			if h.Until != nil {
				g.To = *h.Until
			}
			if g.touches(from, to) {
				gaps = append(gaps, g)
			}
		}
	}
	add(c.Lost, true)
	add(c.HeldBack, false)
	add(c.Silent, false)
	return gaps
}
