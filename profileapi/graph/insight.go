package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	graphql "github.com/graph-gophers/graphql-go"

	"spillway.dev/profileapi/insight"
)

type insightArgs struct {
	Period     string
	Classes    []string
	Filters    []string
	Dimensions []string
	Limit      int32
	Compare    bool
}

type insightsNode struct {
	From, To        graphql.Time
	Interval        string
	CompleteThrough *graphql.Time
	Lifetime        numbers
	Range, Previous *numbers
	Series          *[]bucket
	Links           []linkNumbers
	Breakdowns      []breakdown
	Gaps            []gap
	Unavailable     []string
}

type numbers struct {
	Views, Clicks  float64
	CTR            *float64
	UniqueVisitors *float64
}

type bucket struct {
	Time          graphql.Time
	Views, Clicks *float64
	Complete      bool
}

type linkNumbers struct {
	ID            graphql.ID
	Title         string
	Clicks        float64
	ClicksInRange *float64
}

type breakdown struct {
	Dimension string
	Items     []item
	Other     item
}

type item struct {
	Value         string
	Views, Clicks float64
}

type gap struct {
	From  graphql.Time
	To    *graphql.Time
	Cause string
	Lost  bool
}

func (a insightArgs) ask(n *profileNode, now time.Time) (insight.Ask, error) {
	location, err := time.LoadLocation(n.p.Timezone)
	if err != nil {
		location = time.UTC
	}
	now = now.In(location)
	ask := insight.Ask{Profile: n.p.ID, Now: now, Compare: a.Compare, Limit: int(min(max(a.Limit, 1), 100))}
	period := map[string]insight.Period{"LAST_24_HOURS": insight.Last24Hours, "LAST_7_DAYS": insight.Last7Days, "LAST_30_DAYS": insight.Last30Days,
		"LAST_90_DAYS": insight.Last90Days, "ALL_TIME": insight.AllTime}[a.Period]
	ask.From, ask.To, ask.Interval = period.Range(now, n.p.CreatedAt)
	for _, c := range a.Classes {
		class := insight.Class(c)
		if !slices.Contains(insight.Classes(), class) {
			return ask, fmt.Errorf("classes: %q is none", c)
		}
		if !slices.Contains(ask.Classes, class) {
			ask.Classes = append(ask.Classes, class)
		}
	}
	if len(ask.Classes) == 0 {
		return ask, errors.New("classes: name at least one")
	}
	for _, name := range a.Dimensions {
		d := insight.Dimension(name)
		if !d.Valid() {
			return ask, fmt.Errorf("dimensions: %q is none", name)
		}
		if !slices.Contains(ask.Dimensions, d) {
			ask.Dimensions = append(ask.Dimensions, d)
		}
	}
	ask.Filters, err = insight.ParseFilters(a.Filters)
	return ask, err
}

// Insights reads the profile's numbers.
func (n *profileNode) Insights(ctx context.Context, args insightArgs) (*insightsNode, error) {
	if who(ctx).left.Add(-1) < 0 {
		return nil, errCost
	}
	ask, err := args.ask(n, n.g.now())
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, n.g.patience)
	defer cancel()
	r, err := n.g.reader.Report(asking, ask, n.g.log)
	if err != nil {
		return nil, n.g.tell(err)
	}
	out := &insightsNode{From: graphql.Time{Time: r.From}, To: graphql.Time{Time: r.To}, Interval: string(r.Interval), Links: []linkNumbers{},
		Breakdowns: []breakdown{}, Gaps: []gap{}, Unavailable: []string{}}
	if t := r.Lifetime.Completeness.Through; t != nil {
		out.CompleteThrough = &graphql.Time{Time: *t}
	}
	out.Lifetime = show(r.Lifetime.Counted, true)
	if r.Totals != nil {
		shown := show(r.Totals.Of(r.Classes), r.Totals.KnowsUnique)
		out.Range = &shown
	}
	if r.Previous != nil {
		shown := show(r.Previous.Of(r.Classes), r.Previous.KnowsUnique)
		out.Previous = &shown
	}
	if r.Series != nil {
		buckets := make([]bucket, len(r.Series))
		for i, v := range r.Series {
			buckets[i] = bucket{Time: graphql.Time{Time: v.Start}, Complete: v.Complete}
			if !v.Gap {
				buckets[i].Views, buckets[i].Clicks = float(v.Views), float(v.Clicks)
			}
		}
		out.Series = &buckets
	}
	for _, l := range r.Lifetime.Links {
		one := linkNumbers{ID: graphql.ID(strconv.FormatInt(l.ID, 10)), Title: l.Title, Clicks: float64(l.Clicks)}
		if r.Links != nil {
			_, clicks := r.Links[l.ID].Of(r.Classes)
			one.ClicksInRange = float(clicks)
		}
		out.Links = append(out.Links, one)
	}
	for _, b := range r.Breakdowns {
		one := breakdown{Dimension: string(b.Dimension), Items: []item{}, Other: of("", b.Other, r.Classes)}
		for _, i := range b.Items {
			one.Items = append(one.Items, of(i.Value, i.Tally, r.Classes))
		}
		out.Breakdowns = append(out.Breakdowns, one)
	}
	for _, g := range r.Gaps {
		one := gap{From: graphql.Time{Time: g.From}, Cause: g.Cause, Lost: g.Lost}
		if !g.To.IsZero() {
			one.To = &graphql.Time{Time: g.To}
		}
		out.Gaps = append(out.Gaps, one)
	}
	for part, why := range r.Unavailable {
		out.Unavailable = append(out.Unavailable, string(part)+": "+why)
	}
	slices.Sort(out.Unavailable)
	return out, nil
}

func float(n int64) *float64 {
	f := float64(n)
	return &f
}

func show(c insight.Counts, unique bool) numbers {
	n := numbers{Views: float64(c.Views), Clicks: float64(c.Clicks), CTR: insight.Rate(c.Clicks, c.Views)}
	if unique {
		n.UniqueVisitors = float(c.UniqueVisitors)
	}
	return n
}

func of(value string, t insight.Tally, classes []insight.Class) item {
	views, clicks := t.Of(classes)
	return item{value, float64(views), float64(clicks)}
}
