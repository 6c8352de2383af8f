package cut

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Limits bound a cut.
type Limits struct {
	// Events is about how many a cut holds at most; at least 1. What is left goes into the next one.
	Events uint64
	// Lanes is how many lanes a cut adds to at most; at least 1.
	Lanes int
	// Hold is how long events wait for a hole below them to be filled, counted from the oldest of them. Zero: for ever.
	Hold time.Duration
	// Now is the time by which Hold is judged.
	Now time.Time
	// Condition leaves events out by their time.
	Condition Condition
	// Recent is a date on or after which the events that came lately probably lie: looked at first. Zero: all dates are looked at.
	Recent time.Time
}

// Plan is the next cut, chosen but not read yet.
type Plan struct {
	// Add is the sequences that the cut adds to those published.
	Add Vector
	// Rows is how many events of Add are to be read, by lane, and between which dates they are.
	Counts
	// Doubled says that the table holds some of the events more than once: they must be read once.
	Doubled bool
	// Left is how many more sequences could be published at once, and Held how many wait behind holes.
	Left, Held uint64
}

// candidate is what a lane could add.
type candidate struct {
	*lane
	add Ranges
}

// Next plans the cut after what is published. A plan without Add says that there is nothing to publish.
func (t Table) Next(ctx context.Context, published Vector, limits Limits) (*Plan, error) {
	all, err := t.lanes(ctx)
	if err != nil {
		return nil, err
	}
	there := Vector{}
	var unclear []*lane
	for _, l := range all {
		if present, ok := l.simple(published[l.Lane]); ok {
			there[l.Lane] = present
		} else {
			unclear = append(unclear, l)
		}
	}
	looked, doubled, err := t.present(ctx, unclear, published)
	if err != nil {
		return nil, err
	}
	for l, present := range looked {
		there[l] = present
	}

	plan := &Plan{Add: Vector{}}
	var candidates []candidate
	behind := Vector{}
	for _, l := range all {
		whole, rest := split(published[l.Lane], there[l.Lane])
		candidates = append(candidates, candidate{l, whole})
		if len(rest) > 0 {
			behind[l.Lane] = Ranges{{rest[0].First, rest.Highest()}}
			plan.Held += rest.Len()
		}
	}
	if limits.Hold > 0 && len(behind) > 0 {
		since, err := t.waiting(ctx, behind)
		if err != nil {
			return nil, err
		}
		for i, c := range candidates {
			from, waits := since[c.Lane]
			if !waits || limits.Now.Sub(from) < limits.Hold {
				continue
			}
			// The first hole is gone around; if there is another behind it, its turn comes with the next cut.
			_, rest := split(published[c.Lane], there[c.Lane])
			candidates[i].add = c.add.Union(rest[:1])
			plan.Held -= rest[:1].Len()
		}
	}
	plan.choose(candidates, limits)
	if len(plan.Add) == 0 {
		return plan, nil
	}
	for l := range plan.Add {
		plan.Doubled = plan.Doubled || doubled[l]
	}
	return plan, t.count(ctx, plan, all, published, limits)
}

// split divides what is there and not published into what a cut may add, and what waits behind a hole. Everything at or below the
// highest published sequence may be added: a hole there was gone around before, and is being filled.
func split(published, there Ranges) (whole, rest Ranges) {
	edge := published.Highest()
	for _, r := range published.Union(there) {
		if r.First <= edge+1 {
			edge = max(edge, r.Last)
		}
	}
	fresh := there.Minus(published)
	return fresh.UpTo(edge), fresh.Minus(upTo(edge))
}

// choose takes candidates until the cut is full: old streams first, so that a cut touches few months.
func (p *Plan) choose(candidates []candidate, limits Limits) {
	slices.SortFunc(candidates, func(a, b candidate) int {
		if c := a.from.Compare(b.from); c != 0 {
			return c
		}
		return a.Lane.Compare(b.Lane)
	})
	room := limits.Events
	for _, c := range candidates {
		add := c.add.FirstN(room)
		if len(add) > maxRanges {
			add = add[:maxRanges]
		}
		if len(p.Add) == limits.Lanes {
			add = nil
		}
		if len(add) > 0 {
			p.Add[c.Lane] = add
			room -= add.Len()
		}
		p.Left += c.add.Len() - add.Len()
	}
}

// count finds out how many rows the plan's events are, and where.
func (t Table) count(ctx context.Context, p *Plan, all map[Lane]*lane, published Vector, limits Limits) error {
	// A date is the profile's local one: at most a day away from that of the time.
	condition := limits.Condition
	var expect, extra int64
	for l, add := range p.Add {
		gone := add.Len() - add.Minus(all[l].expired).Len()
		expect += int64(add.Len() - gone)
		extra += int64(gone) // recorded as expired, but the month may not be dropped yet
		from, to := all[l].from, all[l].to
		if from.IsZero() {
			continue
		}
		if day := from.AddDate(0, 0, -1); condition.MinDate.IsZero() || day.Before(condition.MinDate) {
			condition.MinDate = day
		}
		if day := to.AddDate(0, 0, 1); day.After(condition.MaxDate) {
			condition.MaxDate = day
		}
	}
	unbounded := condition.Since == nil && condition.Until == nil
	var err error
	// New events are nearly always recent. That these are all of them is proved by their number.
	if unbounded && extra == 0 && limits.Recent.After(condition.MinDate) {
		recent := condition
		recent.MinDate = limits.Recent
		if p.Counts, err = t.Count(ctx, p.Add, recent, p.Doubled); err != nil || p.Total == expect {
			return err
		}
	}
	if p.Counts, err = t.Count(ctx, p.Add, condition, p.Doubled); err != nil {
		return err
	}
	if unbounded && (p.Total < expect || p.Total > expect+extra) {
		return fmt.Errorf("%w: %d of the %d events that were there are left", ErrChanged, p.Total, expect)
	}
	return nil
}

// ErrChanged is wrapped by what is returned when the table changed while a cut was made (a month expired, a backup was restored):
// plan again.
var ErrChanged = fmt.Errorf("the table of events changed meanwhile")

// Summary is what the table has and what of it is published, for an audit.
type Summary struct {
	// Present and Published are counts of sequences; Present counts expired ones too.
	Present, Published uint64
	// Behind is what is there and not published yet, Ahead what is published but neither there nor recorded as expired.
	Behind, Ahead Vector
	// Expired is how many of a lane's events are recorded as expired.
	Expired map[Lane]uint64
	// Doubled is how many lanes have events twice in the table. The export has them once.
	Doubled int
}

// Compare holds what is published against what is there.
func (t Table) Compare(ctx context.Context, published Vector) (*Summary, error) {
	all, err := t.lanes(ctx)
	if err != nil {
		return nil, err
	}
	s := &Summary{Published: published.Len(), Behind: Vector{}, Ahead: Vector{}, Expired: map[Lane]uint64{}}
	var unclear []*lane
	there := Vector{}
	for _, l := range all {
		s.Expired[l.Lane] = l.expired.Len()
		if present, ok := l.simple(published[l.Lane]); ok {
			there[l.Lane] = present
		} else {
			unclear = append(unclear, l)
		}
	}
	// Unlike a cut, an audit wants to know what is missing below, too.
	looked, doubled, err := t.present(ctx, unclear, Vector{})
	if err != nil {
		return nil, err
	}
	for l, present := range looked {
		there[l] = present
	}
	s.Doubled = len(doubled)
	for l, present := range there {
		s.Present += present.Len()
		if more := present.Minus(published[l]); len(more) > 0 {
			s.Behind[l] = more
		}
	}
	for l, ranges := range published {
		if gone := ranges.Minus(there[l]); len(gone) > 0 {
			s.Ahead[l] = gone
		}
	}
	return s, nil
}
