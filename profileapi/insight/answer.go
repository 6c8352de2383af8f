package insight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Tally is views and clicks of each class.
type Tally struct {
	Views, Clicks map[Class]int64
}

func (t *Tally) add(c cell) {
	if t.Views == nil {
		t.Views, t.Clicks = map[Class]int64{}, map[Class]int64{}
	}
	if c.kind == kindView {
		t.Views[c.class] += int64(c.events)
	} else {
		t.Clicks[c.class] += int64(c.events)
	}
}

// Of returns the views and clicks of the classes together.
func (t Tally) Of(classes []Class) (views, clicks int64) {
	for _, c := range classes {
		views += t.Views[c]
		clicks += t.Clicks[c]
	}
	return views, clicks
}

// Point is one bucket of a series.
type Point struct {
	Start time.Time
	Tally
}

// Series returns the buckets of the interval that touch the question's time, those without events too.
func (r *Reader) Series(ctx context.Context, q Question, interval Interval) ([]Point, Source, error) {
	bounds, err := interval.buckets(q.From, q.To)
	if err != nil {
		return nil, "", err
	}
	points := make([]Point, len(bounds)-1)
	if len(points) == 0 {
		return points, Aggregates, nil
	}
	index := make(map[string]int, len(points))
	for i := range points {
		points[i].Start = bounds[i]
		index[strconv.FormatInt(bounds[i].Unix(), 10)] = i
	}
	q.From, q.To = bounds[0], bounds[len(bounds)-1]
	q.alone()
	cells, source, err := r.count(ctx, q, []panel{{starts: bounds[:len(bounds)-1]}})
	if err != nil {
		return nil, "", fmt.Errorf("read series of profile %d: %w", q.Profile, err)
	}
	for _, c := range cells {
		i, ok := index[c.key]
		if !ok {
			return nil, "", fmt.Errorf("read series of profile %d: a bucket at %s that was not asked for", q.Profile, c.key)
		}
		points[i].add(c)
	}
	return points, source, nil
}

// Totals are the numbers of a range of time.
type Totals struct {
	ByClass map[Class]Counts
	// KnowsPage is false where it cannot be told which clicks came from the page.
	KnowsPage bool
	// KnowsUnique is false where visitors cannot be told apart any more.
	KnowsUnique bool
	Source      Source
}

// Of returns the numbers of the classes together.
func (t Totals) Of(classes []Class) Counts {
	var all Counts
	for _, c := range classes {
		all.Add(t.ByClass[c])
	}
	return all
}

// Totals returns the numbers of the question's time.
func (r *Reader) Totals(ctx context.Context, q Question) (Totals, error) {
	q.alone()
	cells, source, err := r.count(ctx, q, []panel{{}})
	if err != nil {
		return Totals{}, fmt.Errorf("read totals of profile %d: %w", q.Profile, err)
	}
	t := Totals{ByClass: map[Class]Counts{}, KnowsPage: q.Filters.inSeries() || source == Events, Source: source}
	for _, c := range cells {
		n := t.ByClass[c.class]
		switch {
		case c.kind == kindView:
			n.Views += int64(c.events)
		default:
			n.Clicks += int64(c.events)
			if c.page {
				n.PageClicks += int64(c.events)
			}
		}
		t.ByClass[c.class] = n
	}
	known, err := r.visitors(ctx, q, t.ByClass)
	if err != nil {
		return Totals{}, fmt.Errorf("read visitors of profile %d: %w", q.Profile, err)
	}
	t.KnowsUnique = known
	if known && len(q.Filters) > 0 {
		t.Source = Events
	}
	return t, nil
}

// Item is one value of a breakdown.
type Item struct {
	Value string
	Tally
	// Viewers are the distinct viewers of each day, added up by day; nil where they were not asked for or are not known. They are not to be
	// added up over values: one visitor may have several.
	Viewers map[Class]int64
}

// Breakdown is what a dimension's values add up to.
type Breakdown struct {
	Dimension Dimension
	Items     []Item // the limit's most, by the order that was asked for
	Other     Tally  // the rest together
	Others    int    // how many values are in it; those that closed days keep as one count as one
	// Folded is true where closed days have kept values as one, which are in Other: how many they are is not known any more, and what an item
	// had on a day on which it was not among the most frequent is missing from it.
	Folded bool
	Source Source
}

// Order says what the items of a breakdown are sorted by: the most first, of the classes that count.
type Order struct {
	By      string // "clicks" or "views"; empty: both together
	Classes []Class
	Limit   int // zero: all
	// Viewers asks for the distinct viewers of each value, which is a second look at open days. Links and surfaces have none.
	Viewers bool
}

// Breakdowns returns a breakdown by each dimension.
func (r *Reader) Breakdowns(ctx context.Context, q Question, dimensions []Dimension, o Order) ([]Breakdown, error) {
	panels := make([]panel, len(dimensions))
	for i, d := range dimensions {
		panels[i] = panel{dimension: d, viewers: o.Viewers}
	}
	q.alone()
	cells, source, err := r.count(ctx, q, panels)
	if err != nil {
		return nil, fmt.Errorf("read breakdowns of profile %d: %w", q.Profile, err)
	}
	sums := map[string]map[string]*Item{}
	for _, c := range cells {
		of := sums[c.dimension]
		if of == nil {
			of = map[string]*Item{}
			sums[c.dimension] = of
		}
		if of[c.key] == nil {
			of[c.key] = &Item{Value: c.key}
			if o.Viewers && !Dimension(c.dimension).inSeries() {
				of[c.key].Viewers = map[Class]int64{}
			}
		}
		if c.kind == kindViewers {
			of[c.key].Viewers[c.class] += int64(c.events)
			continue
		}
		of[c.key].add(c)
	}
	out := make([]Breakdown, len(dimensions))
	for i, d := range dimensions {
		b := Breakdown{Dimension: d, Source: source}
		for _, item := range sums[string(d)] {
			if item.Value == Rest {
				b.Folded, b.Other, b.Others = true, item.Tally, 1
				continue
			}
			b.Items = append(b.Items, *item)
		}
		weight := func(t Tally) int64 {
			views, clicks := t.Of(o.Classes)
			switch o.By {
			case "clicks":
				return clicks
			case "views":
				return views
			}
			return views + clicks
		}
		slices.SortFunc(b.Items, func(x, y Item) int {
			return cmp.Or(cmp.Compare(weight(y.Tally), weight(x.Tally)), cmp.Compare(x.Value, y.Value))
		})
		if o.Limit > 0 && len(b.Items) > o.Limit {
			b.Others += len(b.Items) - o.Limit
			for _, item := range b.Items[o.Limit:] {
				b.Other.Merge(item.Tally)
			}
			b.Items = slices.Clip(b.Items[:o.Limit])
		}
		out[i] = b
	}
	return out, nil
}

// Merge adds another tally.
func (t *Tally) Merge(o Tally) {
	if t.Views == nil {
		t.Views, t.Clicks = map[Class]int64{}, map[Class]int64{}
	}
	for c, n := range o.Views {
		t.Views[c] += n
	}
	for c, n := range o.Clicks {
		t.Clicks[c] += n
	}
}
