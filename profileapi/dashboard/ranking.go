package dashboard

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"spillway.dev/profileapi/insight"
)

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
			p.Items = append(p.Items, item{Label: insight.ValueName(b.Dimension, one.Value), Href: q.filter(n.base, string(b.Dimension)+":"+one.Value),
				Views: number(views), Clicks: number(clicks), Share: int((views + clicks) * 100 / max(most, 1))})
		}
		if views, clicks := b.Other.Of(q.classes); views+clicks > 0 {
			label := count(int64(b.Others), "other", "others")
			if b.Folded {
				label = "All others"
			}
			p.Items = append(p.Items, item{Label: label, Views: number(views), Clicks: number(clicks),
				Other: true})
		}
		// Panels of which nothing is known say nothing: they are left out, the first six not.
		if known := len(p.Items) > 1 || len(p.Items) == 1 && (b.Folded || b.Items[0].Value != ""); i < 6 || known {
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
