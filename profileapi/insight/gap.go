package insight

import (
	"strconv"
	"time"
)

// Gap is a range of time of which events are missing: for good, or still on their way.
type Gap struct {
	From   time.Time
	To     time.Time // zero: it goes on
	Cause  string    // dropped, unreadable, missing or silent
	Events uint64    // how many, of all profiles, as far as that is known
	Stream string
	Lost   bool // they will not come any more
}

// Sentence says in words what is missing, without when.
func (g Gap) Sentence() string {
	many := ""
	if g.Events > 0 {
		many = " " + strconv.FormatUint(g.Events, 10) + " visits of all pages together."
		if g.Events == 1 {
			many = " One visit of all pages together."
		}
	}
	switch {
	case g.Cause == "dropped":
		return "Visits could not be recorded, there was no room." + many
	case g.Lost:
		return "Records of visits were damaged." + many
	case g.Cause == "silent":
		return "A recorder fell silent; what it still holds is not here yet." + many
	}
	return "Visits are still on their way." + many
}

// touches says whether the gap and [from, to) have a moment in common.
func (g Gap) touches(from, to time.Time) bool {
	return g.From.Before(to) && (g.To.IsZero() || !g.To.Before(from))
}

// covers says whether all of [from, to) is in the gap.
func (g Gap) covers(from, to time.Time) bool {
	return !g.From.After(from) && !g.To.IsZero() && !g.To.Before(to)
}

// longest is how long a gap is thought to go on of which nobody knows the end: as long as rollup waits for what is missing. Without it a
// recorder whose disk was lost would leave every later day in doubt.
const longest = 8 * 24 * time.Hour

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
			} else if end := g.From.Add(longest); h.Since != nil && c.ComputedAt != nil && end.Before(*c.ComputedAt) {
				g.To = end
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
