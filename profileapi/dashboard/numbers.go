package dashboard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway.dev/profileapi/insight"
)

// numbers is what the part of the page shows that changes with every visit.
type numbers struct {
	viewer
	Empty    bool // nothing was ever counted
	Periods  []choice
	Custom   bool
	From, To string // dates of the free range's form
	Hidden   []pair // what the form keeps
	Span     string
	Short    string // the range, in a word or two
	Filters  []choice
	Cards    []card
	Through  string
	Zone     string
	HeldBack int
	Gaps     []string
	Chart    *chart
	Links    []linkRow
	Panels   []breakdown
	Classes  []classRow
	Counted  string
	Feed     []visit
	Notes    []note
	News     []note // alerts of the last days
	Query    string // of the page, to ask for the same again
	Missing  []string
	CSV      string
}

type pair struct{ Name, Value string }

// choice is something that can be chosen by following a link.
type choice struct {
	Label, Href string
	Current     bool
}

// card is a headline number.
type card struct {
	ID, Label, Value string
	InRange          string
	Change           string // as "12 %"; empty: nothing to compare with
	Direction        string // up, down or same
	How              []string
}

// chart is the timeline: what the script draws, and the table behind it.
type chart struct {
	Data    string // JSON
	Summary string
	Rows    []row
}

type row struct {
	Time, Views, Clicks string
	Complete            bool
}

type linkRow struct {
	Title, URL      string
	Clicks          string // in the range
	Lifetime        string
	Rate            string
	Share           int // percent of the most clicked
	Hidden, Deleted bool
	Href            string
}

type breakdown struct {
	Name, CSV string
	Items     []item
}

type item struct {
	Label, Href   string
	Views, Clicks string
	Share         int
	Other         bool
}

type classRow struct {
	Name, Views, Clicks string
	Counted             bool
	Href, Action        string
}

type visit struct {
	Kind, Text, Time, ISO string
}

type note struct{ Time, ISO, Text string }

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
	location, err := time.LoadLocation(v.Timezone)
	if err != nil {
		location = time.UTC
	}
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

// reports keeps what was read a moment ago, so that many who watch one page cost as much as one.
type reports struct {
	mu   sync.Mutex // guards kept
	kept map[string]*kept
}

type kept struct {
	once sync.Once
	at   time.Time
	n    *numbers
	err  error
}

// fresh is how long a page's numbers are shown before they are read again.
const fresh = 700 * time.Millisecond

func newReports() *reports { return &reports{kept: map[string]*kept{}} }

func (r *reports) get(key string, read func() (*numbers, error)) (*numbers, error) {
	now := time.Now()
	r.mu.Lock()
	k := r.kept[key]
	if k == nil || now.Sub(k.at) > fresh {
		for old, one := range r.kept {
			if now.Sub(one.at) > fresh {
				delete(r.kept, old)
			}
		}
		k = &kept{at: now}
		r.kept[key] = k
	}
	r.mu.Unlock()
	k.once.Do(func() { k.n, k.err = read() })
	return k.n, k.err
}

// numbers reads what the page shows.
func (d *Dashboard) numbers(ctx context.Context, v viewer, query url.Values) (*numbers, error) {
	q := v.read(query, time.Now())
	key := fmt.Sprint(v.mode, " ", v.base, " ", v.ID, " ", v.UpdatedAt.UnixMicro(), " ", q.values.Encode())
	return d.reports.get(key, func() (*numbers, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return d.readNumbers(ctx, v, q)
	})
}

func (d *Dashboard) readNumbers(ctx context.Context, v viewer, q request) (*numbers, error) {
	r, err := d.Reader.Report(ctx, q.ask, d.Log)
	if err != nil {
		return nil, err
	}
	n := &numbers{viewer: v, Span: span(r.From, r.To), Zone: v.Timezone, Query: q.values.Encode(), HeldBack: len(r.Lifetime.Completeness.HeldBack)}
	n.Empty = len(r.Lifetime.ByClass) == 0
	n.choices(q)
	if through := r.Lifetime.Completeness.Through; through != nil {
		n.Through = throughText(*through, q.ask.Now)
	}
	n.cards(r, q)
	for _, g := range r.Gaps {
		n.Gaps = append(n.Gaps, gapText(g, q.ask.Now.Location()))
	}
	for part := range r.Unavailable {
		n.Missing = append(n.Missing, sentence(r.Unavailable[part]))
	}
	slices.Sort(n.Missing)
	n.Missing = slices.Compact(n.Missing)
	notes, err := d.notes.List(ctx, v.ID, r.From, r.To, 0, 50)
	if err != nil {
		return nil, err
	}
	marks := make([]mark, 0, len(notes))
	for _, a := range notes {
		at := a.At.In(q.ask.Now.Location())
		n.Notes = append(n.Notes, note{at.Format("2 Jan 15:04"), at.Format(time.RFC3339), a.Sentence()})
		marks = append(marks, mark{at.Unix(), a.Sentence()})
	}
	if r.Series != nil {
		n.Chart = draw(r, marks)
	}
	n.linkRows(r, q)
	n.panels(r, q)
	n.classRows(r, q)
	if v.owner() {
		alerts, err := d.news.List(ctx, v.ID, 0, 3)
		if err != nil {
			return nil, err
		}
		for _, a := range alerts {
			if at := a.At.In(q.ask.Now.Location()); q.ask.Now.Sub(at) < 7*24*time.Hour {
				n.News = append(n.News, note{at.Format("2 Jan 15:04"), at.Format(time.RFC3339), a.Text})
			}
		}
	}
	if v.mode != "guest" {
		if err := n.feed(ctx, d.Reader, r, q); err != nil {
			d.Log.Warn("the latest visits cannot be listed", "error", err)
		}
	}
	return n, nil
}

func (n *numbers) choices(q request) {
	labels := map[insight.Period]string{insight.Last24Hours: "24 hours", insight.Last7Days: "7 days", insight.Last30Days: "30 days", insight.Last90Days: "90 days", insight.AllTime: "All"}
	for _, p := range insight.Periods() {
		n.Periods = append(n.Periods, choice{labels[p], q.with(n.base, func(v url.Values) { v.Set("range", string(p)); v.Del("from"); v.Del("to") }), p == q.period})
	}
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
			label := valueName(f.Dimension, value)
			if f.Dimension == insight.ByLink {
				label = "Link " + value
			}
			n.Filters = append(n.Filters, choice{Label: label, Href: q.with(n.base, func(v url.Values) {
				v["filter"] = slices.DeleteFunc(v["filter"], func(have string) bool { return have == string(f.Dimension)+":"+value })
			})})
		}
	}
}

func throughText(through, now time.Time) string {
	through = through.In(now.Location())
	if through.Format(time.DateOnly) != now.Format(time.DateOnly) {
		return through.Format("2 January 15:04:05")
	}
	return through.Format("15:04:05")
}

func gapText(g insight.Gap, zone *time.Location) string {
	when := "Since " + g.From.In(zone).Format("2 January 15:04")
	if !g.To.IsZero() {
		when = g.From.In(zone).Format("2 January 15:04") + " to " + g.To.In(zone).Format("15:04")
	}
	many := ""
	if g.Events > 0 {
		many = " " + count(int64(g.Events), "visit", "visits") + " of all pages together."
	}
	switch {
	case g.Cause == "dropped":
		return when + ": visits could not be recorded, there was no room." + many
	case g.Lost:
		return when + ": records of visits were damaged." + many
	case g.Cause == "silent":
		return when + ": a recorder fell silent; what it still holds is not here yet." + many
	}
	return when + ": visits are still on their way." + many
}

func (n *numbers) cards(r *insight.Report, q request) {
	var now, before insight.Counts
	if r.Totals != nil {
		now = r.Totals.Of(q.classes)
	}
	if r.Previous != nil {
		before = r.Previous.Of(q.classes)
	}
	life := r.Lifetime.Counted
	definitions := insight.Definitions()
	add := func(id, label, value, inRange string, growth *float64, how ...string) {
		c := card{ID: id, Label: label, Value: value, InRange: inRange, How: how}
		if r.Totals == nil {
			c.InRange = "not available"
		}
		if growth != nil && r.Totals != nil && r.Previous != nil {
			c.Direction = "same"
			if *growth > 0.0005 {
				c.Direction = "up"
			} else if *growth < -0.0005 {
				c.Direction = "down"
			}
			c.Change = strconv.FormatFloat(max(*growth, -*growth)*100, 'f', 0, 64) + "\u202f%"
		}
		n.Cards = append(n.Cards, c)
	}
	left := func(by map[insight.Class]insight.Counts, of func(insight.Counts) int64) string {
		var parts []string
		for _, c := range insight.Classes() {
			if k := of(by[c]); k > 0 && !slices.Contains(q.classes, c) {
				parts = append(parts, strings.ToLower(className(c))+" "+number(k))
			}
		}
		if len(parts) == 0 {
			return "Nothing was left out."
		}
		return "Left out, since the page was made: " + strings.Join(parts, ", ") + "."
	}
	growth := func(a, b int64) *float64 { return insight.Growth(float64(a), float64(b)) }
	add("views", "Views", number(life.Views), number(now.Views), growth(now.Views, before.Views), definitions["views"],
		left(r.Lifetime.ByClass, func(c insight.Counts) int64 { return c.Views }))
	add("clicks", "Clicks", number(life.Clicks), number(now.Clicks), growth(now.Clicks, before.Clicks), definitions["clicks"],
		left(r.Lifetime.ByClass, func(c insight.Counts) int64 { return c.Clicks }))
	rate, past := insight.Rate(now.Clicks, now.Views), insight.Rate(before.Clicks, before.Views)
	var turned *float64
	if rate != nil && past != nil {
		turned = insight.Growth(*rate, *past)
	}
	onPage := definitions["page_ctr"]
	if p := insight.Rate(life.PageClicks, life.Views); p != nil {
		onPage = "On the page alone, without clicks from elsewhere: " + percent(p) + "."
	}
	add("ctr", "Click-through rate", percent(insight.Rate(life.Clicks, life.Views)), percent(rate), turned, definitions["ctr"], onPage)
	unique := growth(now.UniqueVisitors, before.UniqueVisitors)
	shown := number(now.UniqueVisitors)
	if r.Totals != nil && !r.Totals.KnowsUnique {
		shown, unique = "not known", nil
	}
	if r.Previous != nil && !r.Previous.KnowsUnique {
		unique = nil
	}
	add("unique", "Unique visitors", number(life.UniqueVisitors), shown, unique, definitions["unique_visitors"],
		"Visitors are told apart by a code that changes every day, without cookies; no address is kept.")
}

// mark is an annotation on the chart.
type mark struct {
	At   int64  `json:"at"`
	Text string `json:"text"`
}

func draw(r *insight.Report, marks []mark) *chart {
	type gap struct {
		From int64 `json:"from"`
		To   int64 `json:"to"`
	}
	data := struct {
		Times    []int64  `json:"times"`
		Views    []*int64 `json:"views"`
		Clicks   []*int64 `json:"clicks"`
		Zone     string   `json:"zone"`
		Interval string   `json:"interval"`
		Marks    []mark   `json:"marks"`
		Gaps     []gap    `json:"gaps"`
	}{Zone: r.From.Location().String(), Interval: string(r.Interval), Marks: marks, Gaps: []gap{}}
	c := &chart{}
	var views, clicks, most int64
	var peak time.Time
	for _, v := range r.Series {
		if v.Start.After(r.Now) {
			break // what is to come is no zero
		}
		one := row{Time: bucketName(v.Start, r.Interval), Views: number(v.Views), Clicks: number(v.Clicks), Complete: v.Complete}
		data.Times = append(data.Times, v.Start.Unix())
		if v.Gap {
			data.Views, data.Clicks = append(data.Views, nil), append(data.Clicks, nil)
			one.Views, one.Clicks = "unknown", "unknown"
		} else {
			data.Views, data.Clicks = append(data.Views, &v.Views), append(data.Clicks, &v.Clicks)
		}
		c.Rows = append(c.Rows, one)
		views, clicks = views+v.Views, clicks+v.Clicks
		if v.Views+v.Clicks > most {
			most, peak = v.Views+v.Clicks, v.Start
		}
	}
	for _, g := range r.Gaps {
		to := g.To
		if to.IsZero() {
			to = r.Now
		}
		data.Gaps = append(data.Gaps, gap{g.From.Unix(), to.Unix()})
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil
	}
	c.Data = string(encoded)
	c.Summary = fmt.Sprintf("%s and %s from %s.", count(views, "view", "views"), count(clicks, "click", "clicks"), span(r.From, r.To))
	if most > 0 {
		c.Summary += " Most at " + bucketName(peak, r.Interval) + "."
	}
	return c
}

func (n *numbers) linkRows(r *insight.Report, q request) {
	var views, most int64
	if r.Totals != nil {
		views = r.Totals.Of(q.classes).Views
	}
	type counted struct {
		insight.LinkClicks
		now int64
	}
	var all []counted
	for _, l := range r.Lifetime.Links {
		_, clicks := r.Links[l.ID].Of(q.classes)
		all = append(all, counted{l, clicks})
		most = max(most, clicks)
	}
	slices.SortStableFunc(all, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.now, a.now), cmp.Compare(b.Clicks, a.Clicks))
	})
	for _, l := range all {
		title := l.Title
		if title == "" {
			title = "Link " + strconv.FormatInt(l.ID, 10)
		}
		id := strconv.FormatInt(l.ID, 10)
		n.Links = append(n.Links, linkRow{Title: title, URL: l.URL, Clicks: number(l.now), Lifetime: number(l.Clicks), Rate: percent(insight.Rate(l.now, views)),
			Share: int(l.now * 100 / max(most, 1)), Hidden: l.Hidden, Deleted: l.Deleted, Href: q.filter(n.base, "link:"+id)})
	}
}

// filter returns the address of the page narrowed to a filter.
func (q request) filter(base, filter string) string {
	return q.with(base, func(v url.Values) {
		if !slices.Contains(v["filter"], filter) {
			v.Add("filter", filter)
		}
	})
}

func (n *numbers) panels(r *insight.Report, q request) {
	for i, b := range r.Breakdowns {
		p := breakdown{Name: dimensionNames()[i].Name}
		var most int64
		for _, one := range b.Items {
			views, clicks := one.Of(q.classes)
			most = max(most, views+clicks)
		}
		for _, one := range b.Items {
			views, clicks := one.Of(q.classes)
			if views+clicks == 0 {
				continue
			}
			p.Items = append(p.Items, item{Label: valueName(b.Dimension, one.Value), Href: q.filter(n.base, string(b.Dimension)+":"+one.Value),
				Views: number(views), Clicks: number(clicks), Share: int((views + clicks) * 100 / max(most, 1))})
		}
		if views, clicks := b.Other.Of(q.classes); views+clicks > 0 {
			p.Items = append(p.Items, item{Label: count(int64(b.Others), "other", "others"), Views: number(views), Clicks: number(clicks),
				Other: true})
		}
		// Panels of which nothing is known say nothing: they are left out, the first six not.
		if known := len(p.Items) > 1 || len(p.Items) == 1 && b.Items[0].Value != ""; i < 6 || known {
			n.Panels = append(n.Panels, p)
		}
	}
}

func (n *numbers) classRows(r *insight.Report, q request) {
	if r.Totals == nil {
		return
	}
	var counted []string
	for _, c := range insight.Classes() {
		has := slices.Contains(q.classes, c)
		if has {
			counted = append(counted, strings.ToLower(className(c)))
		}
		t := r.Totals.ByClass[c]
		if t.Views+t.Clicks == 0 && !has {
			continue
		}
		one := classRow{Name: className(c), Views: number(t.Views), Clicks: number(t.Clicks), Counted: has}
		if c != insight.Person {
			one.Action = "Count them too"
			if has {
				one.Action = "Leave them out"
			}
			one.Href = q.with(n.base, func(v url.Values) {
				if has {
					v["count"] = slices.DeleteFunc(v["count"], func(have string) bool { return have == string(c) })
				} else {
					v.Add("count", string(c))
				}
			})
		}
		n.Classes = append(n.Classes, one)
	}
	n.Counted = strings.Join(counted, ", ")
}

func (n *numbers) feed(ctx context.Context, reader *insight.Reader, r *insight.Report, q request) error {
	events, err := reader.List(ctx, insight.Question{Profile: n.ID, From: q.ask.Now.Add(-48 * time.Hour), To: q.ask.Now.Add(time.Minute), Filters: q.ask.Filters}, q.classes, nil, 8)
	if err != nil {
		return err
	}
	titles := map[int64]string{}
	for _, l := range r.Lifetime.Links {
		titles[l.ID] = l.Title
	}
	for _, e := range events {
		at := e.Time.In(q.ask.Now.Location())
		one := visit{Kind: "View", Text: "of the page", Time: at.Format("15:04:05"), ISO: at.Format(time.RFC3339)}
		if e.Kind == "click" {
			one.Kind, one.Text = "Click", "on "+cmp.Or(titles[e.Link], "a link")
		}
		var from []string
		if e.Country != "" {
			from = append(from, valueName("country", e.Country))
		}
		if e.Device != "" {
			from = append(from, strings.ToLower(e.Device))
		}
		if e.Referrer != "" {
			from = append(from, "from "+e.Referrer)
		} else if e.Surface == "qr" {
			from = append(from, "QR code")
		}
		if len(from) > 0 {
			one.Text += ", " + strings.Join(from, ", ")
		}
		n.Feed = append(n.Feed, one)
	}
	return nil
}

// HeldBackCount is HeldBack as templates count.
func (n *numbers) HeldBackCount() int64 { return int64(n.HeldBack) }
