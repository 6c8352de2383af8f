package dashboard

import (
	"slices"
	"strconv"
	"strings"

	"spillway.dev/profileapi/insight"
)

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
