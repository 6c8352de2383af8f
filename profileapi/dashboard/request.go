package dashboard

import (
	"net/url"
	"slices"
	"time"

	"spillway.dev/profileapi/insight"
)

// request is what the page's address asks for.
type request struct {
	values  url.Values
	ask     insight.Ask
	period  insight.Period // empty: a free range
	classes []insight.Class
}

// read understands the query of a page's address. What it does not understand it leaves out: an address that somebody keeps should
// not stop working.
func (v viewer) read(query url.Values, now time.Time) request {
	location := v.zone()
	now = now.In(location)
	q := request{values: url.Values{}, period: insight.Last7Days, classes: []insight.Class{insight.Person}}
	if p := insight.Period(query.Get("range")); slices.Contains(insight.Periods(), p) {
		q.period = p
		q.values.Set("range", string(p))
	}
	q.ask = insight.Ask{Profile: v.ID, Now: now, Compare: true, Limit: 6}
	q.ask.From, q.ask.To, q.ask.Interval = q.period.Range(now, v.CreatedAt)
	from, errFrom := time.ParseInLocation(time.DateOnly, query.Get("from"), location)
	to, errTo := time.ParseInLocation(time.DateOnly, query.Get("to"), location)
	if errFrom == nil && errTo == nil && !from.After(to) && from.Year() >= 2000 && to.Year() < 2100 {
		q.period = ""
		q.values = url.Values{"from": {query.Get("from")}, "to": {query.Get("to")}}
		q.ask.From, q.ask.To = from, to.AddDate(0, 0, 1)
		q.ask.Interval = insight.Fitting(q.ask.From, q.ask.To)
		if first, end, err := q.ask.Interval.Bounds(q.ask.From, q.ask.To); err == nil {
			q.ask.From, q.ask.To = first, end
		}
	}
	if filters, err := insight.ParseFilters(query["filter"]); err == nil && len(filters) > 0 {
		q.ask.Filters = filters
		q.values["filter"] = query["filter"]
	}
	for _, c := range query["count"] {
		if class := insight.Class(c); slices.Contains(insight.Classes(), class) && !slices.Contains(q.classes, class) {
			q.classes = append(q.classes, class)
			q.values.Add("count", c)
		}
	}
	q.ask.Classes = q.classes
	for _, n := range dimensionNames() {
		q.ask.Dimensions = append(q.ask.Dimensions, n.Dimension)
	}
	return q
}

// with returns the address of the same page with one parameter changed; an empty value removes it.
func (q request) with(base string, change func(url.Values)) string {
	values := url.Values{}
	for name, list := range q.values {
		values[name] = slices.Clone(list)
	}
	change(values)
	if len(values) == 0 {
		return base
	}
	return base + "?" + values.Encode()
}

// filter returns the address of the page narrowed to a filter.
func (q request) filter(base, filter string) string {
	return q.with(base, func(v url.Values) {
		if !slices.Contains(v["filter"], filter) {
			v.Add("filter", filter)
		}
	})
}

// periodLabels are what the usual ranges are called.
func periodLabels() map[insight.Period]string {
	return map[insight.Period]string{insight.Last24Hours: "24 hours", insight.Last7Days: "7 days", insight.Last30Days: "30 days", insight.Last90Days: "90 days", insight.AllTime: "All"}
}

// periods are the addresses of a page for each of the usual ranges.
func (q request) periods(base string) (list []choice) {
	labels := periodLabels()
	for _, p := range insight.Periods() {
		list = append(list, choice{labels[p], q.with(base, func(v url.Values) { v.Set("range", string(p)); v.Del("from"); v.Del("to") }), p == q.period})
	}
	return list
}

func (n *numbers) choices(q request) {
	labels := periodLabels()
	n.Periods = q.periods(n.base)
	n.Custom = q.period == ""
	n.Short = map[insight.Period]string{"": "in these days", insight.AllTime: "so far"}[q.period]
	if n.Short == "" {
		n.Short = "in " + labels[q.period]
	}
	n.From, n.To = q.ask.From.Format(time.DateOnly), q.ask.To.Add(-time.Second).Format(time.DateOnly)
	for _, name := range []string{"filter", "count"} {
		for _, value := range q.values[name] {
			n.Hidden = append(n.Hidden, pair{name, value})
		}
	}
	for _, f := range q.ask.Filters {
		for _, value := range f.Values {
			label := insight.ValueName(f.Dimension, value)
			if f.Dimension == insight.ByLink {
				label = "Link " + value
			}
			n.Filters = append(n.Filters, choice{Label: label, Href: q.with(n.base, func(v url.Values) {
				v["filter"] = slices.DeleteFunc(v["filter"], func(have string) bool { return have == string(f.Dimension)+":"+value })
			})})
		}
	}
}
