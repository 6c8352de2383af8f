package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
)

// BreakdownItem is one value of a breakdown.
type BreakdownItem struct {
	Value   string                  `json:"value" doc:"As the events have it; empty: nothing was recorded. A link is its id, 0 stands for views. A day keeps the 1000 most frequent values once it is closed; what a value had on a day on which it was not among them is in other."`
	Views   int64                   `json:"views"`
	Clicks  int64                   `json:"clicks"`
	Viewers *int64                  `json:"unique_viewers" doc:"With viewers=true: distinct viewers of each day, added up by day. Not to be added up over values: one visitor may have several. Null for links and surfaces, whose sums do not know visitors."`
	ByClass map[string]ClassNumbers `json:"by_class"`
}

// BreakdownOther is what all further values add up to.
type BreakdownOther struct {
	Values  int                     `json:"values" doc:"How many values it stands for; those that a closed day keeps as one count as one."`
	Views   int64                   `json:"views"`
	Clicks  int64                   `json:"clicks"`
	ByClass map[string]ClassNumbers `json:"by_class"`
}

// Breakdown tells apart what a range adds up to. Items and other together are the range's numbers.
type Breakdown struct {
	Dimension insight.Dimension `json:"dimension"`
	Items     []BreakdownItem   `json:"items" nullable:"false"`
	Other     BreakdownOther    `json:"other"`
	Source    insight.Source    `json:"source" enum:"aggregates,events"`
}

// Breakdowns of one range, all under the same filters.
type Breakdowns struct {
	ProfileID  string          `json:"profile_id"`
	Classes    []insight.Class `json:"classes" nullable:"false"`
	Filters    []string        `json:"filters" nullable:"false"`
	Range      *RangeNumbers   `json:"range"`
	Breakdowns []Breakdown     `json:"breakdowns" nullable:"false"`
}

type breakdownsInput struct {
	IDPath
	RangeQuery
	NoneMatch
	Dimensions []string `query:"dimensions" required:"true" minItems:"1" maxItems:"19" enum:"link,surface,place,channel,referrer_host,country,language,device,browser,os,utm_source,utm_medium,utm_campaign,utm_term,utm_content,variant,layout,host,reason"`
	Limit      int      `query:"limit" minimum:"1" maximum:"1000" default:"10" doc:"How many values of each; the rest is other."`
	Viewers    bool     `query:"viewers" doc:"Distinct viewers of each value too. It is a second look at the events of days that are not closed yet; closed days know them."`
	Sort       string   `query:"sort" enum:"both,clicks,views" default:"both" doc:"Most of this first."`
}

func byClass(t insight.Tally) map[string]ClassNumbers {
	all := map[string]ClassNumbers{}
	for class, n := range t.Views {
		all[string(class)] = ClassNumbers{Views: n}
	}
	for class, n := range t.Clicks {
		c := all[string(class)]
		c.Clicks = n
		all[string(class)] = c
	}
	return all
}

func (in *breakdownsInput) dimensions() []insight.Dimension {
	var list []insight.Dimension
	for _, name := range in.Dimensions {
		if d := insight.Dimension(name); !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

func (a *API) registerBreakdowns() {
	registerSeen(a, huma.Operation{
		OperationID: "get-breakdowns", Method: http.MethodGet, Path: "/v1/profiles/{id}/insights/breakdowns",
		Summary: "Break a profile's numbers down", Tags: []string{"insights"}, Security: needs(account.Insights), Errors: []int{http.StatusNotFound, http.StatusNotModified},
	}, func(ctx context.Context, p profile.Profile, in *breakdownsInput) (*page[Breakdowns], error) {
		ask, _, err := in.ask(p, a.now())
		if err != nil {
			return nil, err
		}
		q := insight.Question{Profile: p.ID, From: ask.From, To: ask.To, Filters: ask.Filters}
		totals, err := a.reader.Totals(ctx, q)
		if err != nil {
			return nil, err
		}
		order := insight.Order{Classes: ask.Classes, Limit: in.Limit, By: in.Sort, Viewers: in.Viewers}
		found, err := a.reader.Breakdowns(ctx, q, in.dimensions(), order)
		if err != nil {
			return nil, err
		}
		out := Breakdowns{ProfileID: formatted(p.ID), Classes: ask.Classes, Filters: list(in.Filter), Range: showRange(ask.From, ask.To, &totals, ask.Classes)}
		for _, b := range found {
			shown := Breakdown{Dimension: b.Dimension, Source: b.Source, Items: []BreakdownItem{}}
			for _, item := range b.Items {
				views, clicks := item.Of(ask.Classes)
				one := BreakdownItem{Value: item.Value, Views: views, Clicks: clicks, ByClass: byClass(item.Tally)}
				if item.Viewers != nil {
					viewers := int64(0)
					for _, c := range ask.Classes {
						viewers += item.Viewers[c]
					}
					one.Viewers = &viewers
				}
				shown.Items = append(shown.Items, one)
			}
			shown.Other.Values, shown.Other.ByClass = b.Others, byClass(b.Other)
			shown.Other.Views, shown.Other.Clicks = b.Other.Of(ask.Classes)
			out.Breakdowns = append(out.Breakdowns, shown)
		}
		version, err := versionOf(out)
		if err != nil {
			return nil, err
		}
		if err := in.unchanged(version); err != nil {
			return nil, err
		}
		return &page[Breakdowns]{ETag: quoted(version), Body: out}, nil
	})
}
