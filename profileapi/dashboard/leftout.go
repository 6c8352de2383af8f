package dashboard

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway.dev/profileapi/insight"
)

// leftOut is the page of what is not in the numbers, and why.
type leftOut struct {
	viewer
	Periods  []choice
	Span     string
	Total    string
	Classes  []leftOutClass
	Examples []example
	Of       string // what the examples are of
	All      string // address without it; empty: they are of everything
	Next     string // address of the next examples
	Failed   string
}

type leftOutClass struct {
	Name, Means   string
	Views, Clicks string
	Reasons       []reason
}

type reason struct {
	Text, Href    string
	Views, Clicks string
	Current       bool
}

type example struct {
	Time, ISO, Kind, What, Class, Reason, Agent, From string
}

const (
	// mostReasons is how many reasons of each class are named.
	mostReasons = 12
	// mostExamples is how many single visits a page shows.
	mostExamples = 25
)

// means says in a sentence why a class is not counted.
func means(c insight.Class) string {
	return map[insight.Class]string{
		"bot":      "Programs that say who they are: search engines, monitors, libraries.",
		"preview":  "Programs of messengers and networks that draw a preview where your link was posted.",
		"prefetch": "Browsers that fetched a page ahead, which nobody has seen yet.",
		"head":     "Requests for the header alone: nothing was shown.",
		"scanner":  "Programs that look like people and open all links at once, or a link that no person sees.",
		"owner":    "Your own browser, and the preview beside your links, which is counted here but not listed below.",
		"test":     "Visits that the operator marked as tests.",
		"unknown":  "Visits recorded by a newer version, of a class that this one does not know.",
	}[c]
}

// showLeftOut shows what was left out, by class and reason, with the latest visits of each.
func (d *Dashboard) showLeftOut(w http.ResponseWriter, r *http.Request, v viewer) error {
	q := v.read(r.URL.Query(), time.Now())
	var left []insight.Class
	for _, c := range insight.Classes() {
		if c != insight.Person {
			left = append(left, c)
		}
	}
	base := v.base + "/left-out"
	page := leftOut{viewer: v, Span: span(q.ask.From, q.ask.To)}
	page.Periods = q.periods(base)
	// What the page beside the form loads would fill the list of the owner's own visits.
	question := insight.Question{Profile: v.ID, From: q.ask.From, To: q.ask.To, Hide: previewAgent}
	asking, cancel := context.WithTimeout(r.Context(), d.Patience)
	defer cancel()
	found, err := d.Reader.Breakdowns(asking, question, []insight.Dimension{"reason"}, insight.Order{Classes: left})
	if err != nil {
		d.Log.Warn("what was left out cannot be listed", "profile", v.ID, "error", err)
		page.Failed = "What was left out cannot be listed right now. The numbers are not affected."
		d.render(w, r, http.StatusServiceUnavailable, "left-out", page)
		return nil
	}
	class, why := insight.Class(r.URL.Query().Get("class")), r.URL.Query().Get("reason")
	if !slices.Contains(left, class) {
		class, why = "", ""
	}
	href := func(c insight.Class, reason string) string {
		return q.with(base, func(values url.Values) {
			values.Set("class", string(c))
			if reason != "" {
				values.Set("reason", reason)
			}
		}) + "#examples"
	}
	var total insight.Tally
	for _, c := range left {
		if one, sum := reasonsOf(c, found[0], href, class, why); sum.Views[c]+sum.Clicks[c] > 0 {
			page.Classes = append(page.Classes, one)
			total.Merge(sum)
		}
	}
	views, clicks := total.Of(left)
	page.Total = count(views, "view", "views") + " and " + count(clicks, "click", "clicks")

	classes := left
	page.Of = "all that was left out"
	if class != "" {
		classes, page.All, page.Of = []insight.Class{class}, q.with(base, func(url.Values) {}), strings.ToLower(className(class))
		if why != "" {
			question.Filters = insight.Filters{{Dimension: "reason", Values: []string{why}}}
			page.Of += ": " + why
		}
	}
	before, _ := insight.ParseCursor(r.URL.Query().Get("after")) // one that cannot be read shows the latest
	events, err := d.Reader.List(asking, question, classes, before, mostExamples+1)
	if err != nil {
		return err
	}
	if len(events) > mostExamples {
		events = events[:mostExamples]
		page.Next = q.with(base, func(values url.Values) {
			if class != "" {
				values.Set("class", string(class))
			}
			if why != "" {
				values.Set("reason", why)
			}
			values.Set("after", events[mostExamples-1].Cursor())
		}) + "#examples"
	}
	titles, err := d.Profiles.Titles(r.Context(), v.ID)
	if err != nil {
		return err
	}
	for _, e := range events {
		at := e.Time.In(v.zone())
		one := example{Time: at.Format("2 Jan 15:04:05"), ISO: at.Format(time.RFC3339), Kind: "View", What: "the page", Class: className(e.Class), Reason: e.Reason, Agent: e.UserAgent}
		if e.Kind == "click" {
			one.Kind, one.What = "Click", cmp.Or(titles[e.Link], "a link")
		}
		if e.Country != "" {
			one.From = insight.ValueName("country", e.Country)
		}
		page.Examples = append(page.Examples, one)
	}
	d.render(w, r, http.StatusOK, "left-out", page)
	return nil
}

// reasonsOf is a class with its reasons, the most frequent first.
func reasonsOf(c insight.Class, b insight.Breakdown, href func(insight.Class, string) string, class insight.Class, why string) (leftOutClass, insight.Tally) {
	one := leftOutClass{Name: className(c), Means: means(c)}
	var sum insight.Tally
	var has []insight.Item
	for _, i := range b.Items {
		if views, clicks := i.Views[c], i.Clicks[c]; views+clicks > 0 {
			has = append(has, i)
			sum.Merge(insight.Tally{Views: map[insight.Class]int64{c: views}, Clicks: map[insight.Class]int64{c: clicks}})
		}
	}
	slices.SortStableFunc(has, func(a, b insight.Item) int { return cmp.Compare(b.Views[c]+b.Clicks[c], a.Views[c]+a.Clicks[c]) })
	views, clicks := b.Other.Views[c], b.Other.Clicks[c] // of those that are not named
	rest := views+clicks > 0
	sum.Merge(insight.Tally{Views: map[insight.Class]int64{c: views}, Clicks: map[insight.Class]int64{c: clicks}})
	for i, item := range has {
		if i >= mostReasons {
			views, clicks = views+item.Views[c], clicks+item.Clicks[c]
			continue
		}
		one.Reasons = append(one.Reasons, reason{Text: cmp.Or(item.Value, "no reason recorded"), Href: href(c, item.Value), Views: number(item.Views[c]), Clicks: number(item.Clicks[c]),
			Current: class == c && (why == item.Value)})
	}
	if rest || len(has) > mostReasons {
		text := "All other reasons"
		if !rest {
			text = count(int64(len(has)-mostReasons), "other reason", "other reasons")
		}
		one.Reasons = append(one.Reasons, reason{Text: text, Href: href(c, ""), Views: number(views), Clicks: number(clicks)})
	}
	one.Views, one.Clicks = number(sum.Views[c]), number(sum.Clicks[c])
	return one, sum
}
