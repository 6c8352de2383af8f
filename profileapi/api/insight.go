package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
)

// Numbers are counts and their rates. A rate is null where there is nothing to divide by, and may exceed 1.
type Numbers struct {
	Views          int64    `json:"views"`
	Clicks         int64    `json:"clicks"`
	CTR            *float64 `json:"ctr" doc:"clicks / views."`
	PageClicks     int64    `json:"page_clicks" doc:"Clicks on the profile page."`
	PageCTR        *float64 `json:"page_ctr" doc:"page_clicks / views."`
	UniqueVisitors int64    `json:"unique_visitors" doc:"Distinct visitors of each day who viewed or clicked, added up by day."`
	UniqueViewers  int64    `json:"unique_viewers"`
	UniqueClickers int64    `json:"unique_clickers"`
	UniqueCTR      *float64 `json:"unique_ctr" doc:"unique_clickers / unique_viewers."`
}

// LinkNumbers are one link's lifetime clicks.
type LinkNumbers struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	Code    string `json:"code"`
	URL     string `json:"url"`
	Hidden  bool   `json:"hidden"`
	Deleted bool   `json:"deleted" doc:"Listed while it has clicks, so that the links add up to the profile's clicks."`
	Clicks  int64  `json:"clicks"`
}

// SeriesPoint is one bucket of the timeline.
type SeriesPoint struct {
	Time   time.Time `json:"time" doc:"Start of the bucket, in the time zone of the answer."`
	Views  int64     `json:"views"`
	Clicks int64     `json:"clicks"`
}

// Unavailable is a part of the answer that cannot be had now.
type Unavailable struct {
	Part   string `json:"part" enum:"series"`
	Detail string `json:"detail"`
}

// Insights are a profile's numbers.
type Insights struct {
	ProfileID       string             `json:"profile_id"`
	Lifetime        Numbers            `json:"lifetime" doc:"Since the profile was made, of the classes that were asked for."`
	Classes         []insight.Class    `json:"classes" nullable:"false" doc:"The classes that are counted in lifetime, links and series."`
	ByClass         map[string]Numbers `json:"by_class" doc:"Lifetime numbers of every class, those that are not counted too."`
	CompleteThrough *time.Time         `json:"complete_through" doc:"Every view and click that was answered up to then is in the numbers. Null: not known."`
	HeldBack        []insight.Holding  `json:"held_back" nullable:"false" doc:"What complete_through waits for."`
	Silent          []insight.Holding  `json:"silent" nullable:"false" doc:"Streams that ended without saying so. complete_through does not wait for them any more."`
	Lost            []insight.Holding  `json:"lost" nullable:"false" doc:"Events that are gone for good."`
	Links           []LinkNumbers      `json:"links" nullable:"false" doc:"Most clicked first."`
	From            time.Time          `json:"from" doc:"Start of the first bucket."`
	To              time.Time          `json:"to" doc:"End of the last bucket."`
	Interval        insight.Interval   `json:"interval"`
	Timezone        string             `json:"timezone"`
	Series          []SeriesPoint      `json:"series" doc:"Every bucket of the range, in order. Null when it is unavailable."`
	Unavailable     []Unavailable      `json:"unavailable" nullable:"false" doc:"Parts of this answer that cannot be had now."`
	Definitions     map[string]string  `json:"definitions" doc:"What each number means."`
}

// definitions tell what each number means, in the words that a page can show.
func definitions() map[string]string {
	return map[string]string{
		"views":            "Profile pages shown, of the classes listed in classes. A person's reload is a view again.",
		"clicks":           "Redirects answered to GET requests, of the classes listed in classes, wherever the link was clicked.",
		"ctr":              "Click-through rate: clicks / views. It exceeds 1 when links are clicked elsewhere than on the page. Null without views.",
		"page_clicks":      "Clicks that came from the profile page.",
		"page_ctr":         "Click-through rate on the page: page_clicks / views.",
		"unique_visitors":  "Distinct visitor ids of each day who viewed or clicked, added up by day: a person who comes on two days counts twice. The day is the profile's local date.",
		"unique_viewers":   "As unique_visitors, of those who viewed.",
		"unique_clickers":  "As unique_visitors, of those who clicked.",
		"unique_ctr":       "Unique click-through rate: unique_clickers / unique_viewers.",
		"complete_through": "Every view and click answered up to this time is counted. Later ones may still be on their way.",
		"person":           "Neither a known bot, link preview, prefetch, HEAD request, scanner, nor the owner.",
	}
}

type insightsInput struct {
	IDPath
	From     string   `query:"from" maxLength:"40" doc:"Start of the series: RFC 3339 time, or a date in the time zone. Default: as many buckets before 'to' as make a day of hours, a month of days …"`
	To       string   `query:"to" maxLength:"40" doc:"End of the series (excluded), as from. Default: now."`
	Interval string   `query:"interval" enum:"quarter-hour,hour,day,week,month" default:"hour"`
	Timezone string   `query:"timezone" maxLength:"64" doc:"IANA name. Default: the profile's."`
	Classes  []string `query:"classes" enum:"unknown,person,bot,preview,prefetch,head,scanner,owner,test" doc:"What to count. Default: person."`
}

// usual is how many buckets the series has when from is not given.
func usual(i insight.Interval) int {
	switch i {
	case insight.QuarterHour, insight.Hour:
		return 24
	case insight.Day:
		return 30
	case insight.Week:
		return 26
	}
	return 12
}

// within bounds what can be asked for to what a Date column can hold and Go's zones are made for.
func within(t time.Time) bool { return t.Year() >= 2000 && t.Year() < 2100 }

func parseTime(field, value string, location *time.Location) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		t, err = time.ParseInLocation(time.DateOnly, value, location)
	}
	if err != nil || !within(t) {
		return time.Time{}, huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{
			Location: "query." + field, Value: value, Message: "use an RFC 3339 time such as 2026-05-01T12:00:00Z, or a date such as 2026-05-01"})
	}
	return t.In(location), nil
}

// request turns the query into a range of the profile's time.
func (in *insightsInput) request(p profile.Profile, now time.Time) (insight.Range, string, error) {
	zone := in.Timezone
	if zone == "" {
		zone = p.Timezone
	}
	location, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		return insight.Range{}, "", huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{
			Location: "query.timezone", Value: zone, Message: "use the name of an IANA time zone, for example Europe/Berlin"})
	}
	r := insight.Range{Interval: insight.Interval(in.Interval), To: now.In(location), Classes: []insight.Class{insight.Person}}
	if in.To != "" {
		if r.To, err = parseTime("to", in.To, location); err != nil {
			return r, "", err
		}
	}
	if in.From != "" {
		if r.From, err = parseTime("from", in.From, location); err != nil {
			return r, "", err
		}
	} else {
		r.From = r.Interval.Back(r.To, usual(r.Interval))
	}
	if !r.From.Before(r.To) {
		return r, "", huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{
			Location: "query.from", Value: in.From, Message: "use a time before 'to'"})
	}
	if len(in.Classes) > 0 {
		r.Classes = nil
		for _, c := range in.Classes {
			if class := insight.Class(c); !slices.Contains(r.Classes, class) {
				r.Classes = append(r.Classes, class)
			}
		}
	}
	return r, zone, nil
}

func showNumbers(c insight.Counts) Numbers {
	return Numbers{
		Views: c.Views, Clicks: c.Clicks, CTR: insight.Rate(c.Clicks, c.Views), PageClicks: c.PageClicks, PageCTR: insight.Rate(c.PageClicks, c.Views),
		UniqueVisitors: c.UniqueVisitors, UniqueViewers: c.UniqueViewers, UniqueClickers: c.UniqueClickers,
		UniqueCTR: insight.Rate(c.UniqueClickers, c.UniqueViewers),
	}
}

func (a *API) registerInsights() {
	register(a, huma.Operation{
		OperationID: "get-insights", Method: http.MethodGet, Path: "/v1/profiles/{id}/insights",
		Summary: "Read a profile's numbers", Tags: []string{"insights"}, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *insightsInput) (*body[Insights], error) {
		id, err := number(in.ID)
		if err != nil {
			return nil, err
		}
		p, err := a.profiles.Get(ctx, who(ctx).AccountID, id)
		if err != nil {
			return nil, err
		}
		answer, err := a.insights(ctx, p, in)
		if err != nil {
			return nil, err
		}
		return &body[Insights]{*answer}, nil
	})
}

func (a *API) insights(ctx context.Context, p profile.Profile, in *insightsInput) (*Insights, error) {
	r, zone, err := in.request(p, a.now())
	if err != nil {
		return nil, err
	}
	life, err := insight.ReadLifetime(ctx, a.pool, p.ID, r.Classes)
	if err != nil {
		return nil, err
	}
	out := Insights{
		ProfileID: formatted(p.ID), Lifetime: showNumbers(life.Counted), Classes: r.Classes, ByClass: map[string]Numbers{},
		CompleteThrough: life.Completeness.Through, HeldBack: list(life.Completeness.HeldBack), Silent: list(life.Completeness.Silent),
		Lost: list(life.Completeness.Lost), Links: []LinkNumbers{}, Interval: r.Interval, Timezone: zone,
		Unavailable: []Unavailable{}, Definitions: definitions(),
	}
	for class, counts := range life.ByClass {
		out.ByClass[string(class)] = showNumbers(counts)
	}
	for _, l := range life.Links {
		out.Links = append(out.Links, LinkNumbers{ID: formatted(l.ID), Title: l.Title, Code: l.Code, URL: l.URL, Hidden: l.Hidden, Deleted: l.Deleted, Clicks: l.Clicks})
	}
	if out.From, out.To, err = r.Interval.Bounds(r.From, r.To); err != nil {
		return nil, err
	}
	points, err := a.series.Read(ctx, p.ID, r)
	if err != nil {
		// The lifetime numbers are good without the series: an answer with a part missing serves better than none.
		a.log.Warn("insights without their series", "profile", p.ID, "error", err)
		out.Unavailable = append(out.Unavailable, Unavailable{Part: "series", Detail: "the store of timelines does not answer; lifetime numbers are not affected"})
		return &out, nil
	}
	out.Series = make([]SeriesPoint, len(points))
	for i, point := range points {
		out.Series[i] = SeriesPoint{Time: point.Start, Views: point.Views, Clicks: point.Clicks}
	}
	return &out, nil
}

// list is never null in JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
