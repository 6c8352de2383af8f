package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	Clicks  int64  `json:"clicks" doc:"In its lifetime."`
	InRange *int64 `json:"clicks_in_range" doc:"From 'from' to 'to', under the filters. Null when that is unavailable."`
}

// SeriesPoint is one bucket of the timeline.
type SeriesPoint struct {
	Time     time.Time `json:"time" doc:"Start of the bucket, in the time zone of the answer."`
	Views    *int64    `json:"views" doc:"Null where all events of the bucket were lost (see gaps): unknown, not zero."`
	Clicks   *int64    `json:"clicks" doc:"As views."`
	Complete bool      `json:"complete" doc:"Nothing of this bucket is missing any more."`
}

// ClassNumbers are the views and clicks of one class.
type ClassNumbers struct {
	Views  int64 `json:"views"`
	Clicks int64 `json:"clicks"`
}

// RangeNumbers are the numbers of a range of time. What cannot be told any more is null.
type RangeNumbers struct {
	From           time.Time               `json:"from"`
	To             time.Time               `json:"to"`
	Views          int64                   `json:"views"`
	Clicks         int64                   `json:"clicks"`
	CTR            *float64                `json:"ctr"`
	PageClicks     *int64                  `json:"page_clicks"`
	PageCTR        *float64                `json:"page_ctr"`
	UniqueVisitors *int64                  `json:"unique_visitors"`
	UniqueViewers  *int64                  `json:"unique_viewers"`
	UniqueClickers *int64                  `json:"unique_clickers"`
	UniqueCTR      *float64                `json:"unique_ctr"`
	ByClass        map[string]ClassNumbers `json:"by_class" doc:"Views and clicks of every class, those that are not counted too."`
	Source         insight.Source          `json:"source" enum:"aggregates,events" doc:"What was read: sums of days and quarter hours, or single events, which are deleted after a while."`
}

// Change is how numbers differ from the previous period's: 0.25 is a quarter more. Null where there was nothing before.
type Change struct {
	Views          *float64 `json:"views"`
	Clicks         *float64 `json:"clicks"`
	CTR            *float64 `json:"ctr"`
	UniqueVisitors *float64 `json:"unique_visitors"`
}

// Gap is a range of time of which events are missing.
type Gap struct {
	From   time.Time  `json:"from"`
	To     *time.Time `json:"to" doc:"Null: it goes on."`
	Cause  string     `json:"cause" doc:"dropped: a journal had no room. unreadable: a journal was damaged. missing: on the way. silent: a redirector fell silent."`
	Events uint64     `json:"events" doc:"How many, of all profiles together, as far as that is known."`
	Stream string     `json:"stream"`
	Lost   bool       `json:"lost" doc:"They will not come any more."`
}

// Unavailable is a part of the answer that cannot be had now.
type Unavailable struct {
	Part   insight.Part `json:"part" enum:"series,range,previous,links,breakdowns"`
	Detail string       `json:"detail"`
}

// Insights are a profile's numbers.
type Insights struct {
	ProfileID       string             `json:"profile_id"`
	Lifetime        Numbers            `json:"lifetime" doc:"Since the profile was made, of the classes that were asked for; filters do not change it."`
	Classes         []insight.Class    `json:"classes" nullable:"false" doc:"The classes that are counted in lifetime, links, range and series."`
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
	Filters         []string           `json:"filters" nullable:"false" doc:"What range, series and the links' clicks_in_range are narrowed to."`
	Range           *RangeNumbers      `json:"range,omitempty" doc:"The numbers from 'from' to 'to'. Absent when they are unavailable."`
	Previous        *RangeNumbers      `json:"previous,omitempty" doc:"With compare=previous: as many buckets before, up to the time of day that it is now."`
	Change          *Change            `json:"change,omitempty" doc:"With compare=previous: how range differs from previous."`
	Series          []SeriesPoint      `json:"series" doc:"Every bucket of the range, in order. Null when it is unavailable."`
	SeriesSource    insight.Source     `json:"series_source,omitempty" enum:"aggregates,events"`
	Gaps            []Gap              `json:"gaps" nullable:"false" doc:"Ranges of time in from … to of which events are missing, and why."`
	Annotations     []Annotation       `json:"annotations" nullable:"false" doc:"The latest 200 of the range."`
	Unavailable     []Unavailable      `json:"unavailable" nullable:"false" doc:"Parts of this answer that cannot be had now."`
	Definitions     map[string]string  `json:"definitions" doc:"What each number means."`
}

// RangeQuery is embedded in the input of what is about a range of time.
type RangeQuery struct {
	Period   string   `query:"period" enum:"24h,7d,30d,90d,all" doc:"A usual range that ends now; it chooses from, to and, unless that is given, interval."`
	From     string   `query:"from" maxLength:"40" doc:"Start: RFC 3339 time, or a date in the time zone. Default: as many buckets before 'to' as make a day of hours, a month of days …"`
	To       string   `query:"to" maxLength:"40" doc:"End (excluded), as from. Default: now."`
	Interval string   `query:"interval" enum:"quarter-hour,hour,day,week,month" doc:"Width of the buckets, in the time zone. Default: hour. The range is widened to whole buckets."`
	Timezone string   `query:"timezone" maxLength:"64" doc:"IANA name. Default: the profile's."`
	Classes  []string `query:"classes" enum:"unknown,person,bot,preview,prefetch,head,scanner,owner,test" doc:"What to count. Default: person."`
	Filter   []string `query:"filter,explode" maxItems:"50" doc:"Only events with this: dimension:value, for example country:DE or link:7. Several of one dimension: any of them; of different ones: all. Link and surface, and one other dimension in whole days, cost nothing; what else is combined is read from single events, while they are kept. A closed day keeps the 1000 most frequent values of a dimension and the rest as one: a value of that rest is found in that day only while single events are kept, and (other), the rest itself, cannot be filtered for."`
}

type insightsInput struct {
	IDPath
	RangeQuery
	NoneMatch
	Compare string `query:"compare" enum:"none,previous" default:"none" doc:"Numbers of the previous period too."`
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

// ask turns the query into what to ask of the reader, and the name of the time zone.
func (in *RangeQuery) ask(p profile.Profile, now time.Time) (insight.Ask, string, error) {
	zone := in.Timezone
	if zone == "" {
		zone = p.Timezone
	}
	invalid := func(location, value, message string) error {
		return huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "query." + location, Value: value, Message: message})
	}
	location, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		return insight.Ask{}, "", invalid("timezone", zone, "use the name of an IANA time zone, for example Europe/Berlin")
	}
	now = now.In(location)
	a := insight.Ask{Profile: p.ID, Interval: insight.Hour, To: now, Classes: []insight.Class{insight.Person}, Now: now}
	if in.Interval != "" {
		a.Interval = insight.Interval(in.Interval)
	}
	if in.Period != "" {
		var fitting insight.Interval
		a.From, a.To, fitting = insight.Period(in.Period).Range(now, p.CreatedAt)
		if in.Interval == "" {
			a.Interval = fitting
		}
	}
	if in.To != "" {
		if a.To, err = parseTime("to", in.To, location); err != nil {
			return a, "", err
		}
	}
	switch {
	case in.From != "":
		if a.From, err = parseTime("from", in.From, location); err != nil {
			return a, "", err
		}
	case in.Period == "":
		a.From = a.Interval.Back(a.To, usual(a.Interval))
	}
	if !a.From.Before(a.To) {
		return a, "", invalid("from", in.From, "use a time before 'to'")
	}
	if a.From, a.To, err = a.Interval.Bounds(a.From, a.To); err != nil {
		return a, "", err
	}
	if a.Filters, err = insight.ParseFilters(in.Filter); err != nil {
		var bad *insight.BadFilter
		if errors.As(err, &bad) {
			return a, "", invalid("filter", bad.Filter, bad.Message)
		}
		return a, "", err
	}
	if len(in.Classes) > 0 {
		a.Classes = nil
		for _, c := range in.Classes {
			if class := insight.Class(c); !slices.Contains(a.Classes, class) {
				a.Classes = append(a.Classes, class)
			}
		}
	}
	return a, zone, nil
}

func showNumbers(c insight.Counts) Numbers {
	return Numbers{
		Views: c.Views, Clicks: c.Clicks, CTR: insight.Rate(c.Clicks, c.Views), PageClicks: c.PageClicks, PageCTR: insight.Rate(c.PageClicks, c.Views),
		UniqueVisitors: c.UniqueVisitors, UniqueViewers: c.UniqueViewers, UniqueClickers: c.UniqueClickers,
		UniqueCTR: insight.Rate(c.UniqueClickers, c.UniqueViewers),
	}
}

func showRange(from, to time.Time, t *insight.Totals, classes []insight.Class) *RangeNumbers {
	if t == nil {
		return nil
	}
	c := t.Of(classes)
	out := RangeNumbers{From: from, To: to, Views: c.Views, Clicks: c.Clicks, CTR: insight.Rate(c.Clicks, c.Views), ByClass: map[string]ClassNumbers{}, Source: t.Source}
	for class, n := range t.ByClass {
		out.ByClass[string(class)] = ClassNumbers{n.Views, n.Clicks}
	}
	if t.KnowsPage {
		out.PageClicks, out.PageCTR = &c.PageClicks, insight.Rate(c.PageClicks, c.Views)
	}
	if t.KnowsUnique {
		out.UniqueVisitors, out.UniqueViewers, out.UniqueClickers = &c.UniqueVisitors, &c.UniqueViewers, &c.UniqueClickers
		out.UniqueCTR = insight.Rate(c.UniqueClickers, c.UniqueViewers)
	}
	return &out
}

func change(now, before *RangeNumbers) *Change {
	if now == nil || before == nil {
		return nil
	}
	c := Change{Views: insight.Growth(float64(now.Views), float64(before.Views)), Clicks: insight.Growth(float64(now.Clicks), float64(before.Clicks))}
	if now.CTR != nil && before.CTR != nil {
		c.CTR = insight.Growth(*now.CTR, *before.CTR)
	}
	if now.UniqueVisitors != nil && before.UniqueVisitors != nil {
		c.UniqueVisitors = insight.Growth(float64(*now.UniqueVisitors), float64(*before.UniqueVisitors))
	}
	return &c
}

// seen returns a profile that the caller may see.
func (a *API) seen(ctx context.Context, id string) (profile.Profile, error) {
	n, err := number(id)
	if err != nil {
		return profile.Profile{}, err
	}
	who := who(ctx)
	if who.ProfileID != 0 && who.ProfileID != n {
		return profile.Profile{}, profile.ErrNotFound
	}
	return a.profiles.Get(ctx, who.AccountID, n)
}

func (a *API) registerInsights() {
	registerSeen(a, huma.Operation{
		OperationID: "get-insights", Method: http.MethodGet, Path: "/v1/profiles/{id}/insights",
		Summary: "Read a profile's numbers", Tags: []string{"insights"}, Security: needs(account.Insights), Errors: []int{http.StatusNotFound, http.StatusNotModified},
	}, func(ctx context.Context, p profile.Profile, in *insightsInput) (*page[Insights], error) {
		answer, err := a.insights(ctx, p, in)
		if err != nil {
			return nil, err
		}
		version, err := versionOf(answer)
		if err != nil {
			return nil, err
		}
		if err := in.unchanged(version); err != nil {
			return nil, err
		}
		return &page[Insights]{ETag: quoted(version), Body: *answer}, nil
	})
}

// versionOf names what an answer says.
func versionOf(answer any) (string, error) {
	b, err := json.Marshal(answer)
	if err != nil {
		return "", fmt.Errorf("write the answer: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12]), nil
}

// report leaves time for the rest of the answer when the store of timelines hangs.
func (a *API) report(ctx context.Context, ask insight.Ask) (*insight.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	return a.reader.Report(ctx, ask, a.log)
}

func (a *API) insights(ctx context.Context, p profile.Profile, in *insightsInput) (*Insights, error) {
	ask, zone, err := in.ask(p, a.now())
	if err != nil {
		return nil, err
	}
	ask.Compare = in.Compare == "previous"
	r, err := a.report(ctx, ask)
	if err != nil {
		return nil, err
	}
	out := Insights{
		ProfileID: formatted(p.ID), Lifetime: showNumbers(r.Lifetime.Counted), Classes: r.Classes, ByClass: map[string]Numbers{},
		CompleteThrough: r.Lifetime.Completeness.Through, HeldBack: list(r.Lifetime.Completeness.HeldBack), Silent: list(r.Lifetime.Completeness.Silent),
		Lost: list(r.Lifetime.Completeness.Lost), Links: []LinkNumbers{}, From: r.From, To: r.To, Interval: r.Interval, Timezone: zone, Filters: list(in.Filter),
		Range: showRange(r.From, r.To, r.Totals, r.Classes), Previous: showRange(r.PreviousFrom, r.PreviousTo, r.Previous, r.Classes),
		SeriesSource: r.SeriesSource, Gaps: []Gap{}, Annotations: []Annotation{}, Unavailable: []Unavailable{}, Definitions: insight.Definitions(),
	}
	out.Change = change(out.Range, out.Previous)
	for class, counts := range r.Lifetime.ByClass {
		out.ByClass[string(class)] = showNumbers(counts)
	}
	for _, l := range r.Lifetime.Links {
		n := LinkNumbers{ID: formatted(l.ID), Title: l.Title, Code: l.Code, URL: l.URL, Hidden: l.Hidden, Deleted: l.Deleted, Clicks: l.Clicks}
		if r.Links != nil {
			_, clicks := r.Links[l.ID].Of(r.Classes)
			n.InRange = &clicks
		}
		out.Links = append(out.Links, n)
	}
	for _, v := range r.Series {
		point := SeriesPoint{Time: v.Start, Views: &v.Views, Clicks: &v.Clicks, Complete: v.Complete}
		if v.Gap {
			point.Views, point.Clicks = nil, nil
		}
		out.Series = append(out.Series, point)
	}
	for _, g := range r.Gaps {
		gap := Gap{From: g.From, Cause: g.Cause, Events: g.Events, Stream: g.Stream, Lost: g.Lost}
		if !g.To.IsZero() {
			gap.To = &g.To
		}
		out.Gaps = append(out.Gaps, gap)
	}
	for part, detail := range r.Unavailable {
		out.Unavailable = append(out.Unavailable, Unavailable{part, detail})
	}
	slices.SortFunc(out.Unavailable, func(x, y Unavailable) int { return cmp.Compare(x.Part, y.Part) })
	notes, err := a.annotations.List(ctx, p.ID, r.From, r.To, 0, 200)
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		out.Annotations = append(out.Annotations, showAnnotation(n))
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
