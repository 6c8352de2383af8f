package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/weekly"
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
	State    int64  // names what is shown, for the event stream
	Query    string // of the page, to ask for the same again
	Missing  []string
	LeftOut  string // address of the page of what was left out; empty: the reader may not see single visits
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

type note struct {
	Time, ISO, Text string
	Href            string // empty: it leads nowhere
}

// numbers reads what the page shows.
func (d *Dashboard) numbers(ctx context.Context, v viewer, query url.Values) (*numbers, error) {
	q := v.read(query, time.Now())
	key := fmt.Sprint(v.mode, " ", v.base, " ", v.ID, " ", v.UpdatedAt.UnixMicro(), " ", q.values.Encode())
	return d.reports.get(key, func() (*numbers, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.Patience+4*time.Second)
		defer cancel()
		return d.readNumbers(ctx, v, q)
	})
}

// mostGaps is how many gaps are told of above the numbers.
const mostGaps = 3

// report leaves time for the rest of the page when the store of timelines hangs.
func (d *Dashboard) report(ctx context.Context, q request) (*insight.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Patience)
	defer cancel()
	return d.Reader.Report(ctx, q.ask, d.Log)
}

func (d *Dashboard) readNumbers(ctx context.Context, v viewer, q request) (*numbers, error) {
	r, err := d.report(ctx, q)
	if err != nil {
		return nil, err
	}
	n := &numbers{viewer: v, State: r.Lifetime.State, Span: span(r.From, r.To), Zone: v.Timezone, Query: q.values.Encode(), HeldBack: len(r.Lifetime.Completeness.HeldBack)}
	n.Empty = len(r.Lifetime.ByClass) == 0
	n.choices(q)
	if through := r.Lifetime.Completeness.Through; through != nil {
		n.Through = throughText(*through, q.ask.Now)
	}
	n.cards(r, q)
	for i, g := range r.Gaps {
		if i == mostGaps && len(r.Gaps) > i+1 {
			n.Gaps = append(n.Gaps, "And "+count(int64(len(r.Gaps)-i), "other time", "other times")+" of which visits are missing: see what happened meanwhile, below the timeline.")
			break
		}
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
		one := note{Time: at.Format("2 Jan 15:04"), ISO: at.Format(time.RFC3339), Text: a.Sentence()}
		if a.Until != nil {
			one.Time += " to " + a.Until.In(q.ask.Now.Location()).Format("2 Jan 15:04")
		}
		n.Notes = append(n.Notes, one)
		if a.Kind != annotation.Gap { // those are drawn as times
			marks = append(marks, mark{at.Unix(), a.Sentence()})
		}
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
			at := a.At.In(q.ask.Now.Location())
			if q.ask.Now.Sub(at) >= 7*24*time.Hour {
				continue
			}
			one := note{Time: at.Format("2 Jan 15:04"), ISO: at.Format(time.RFC3339), Text: a.Text}
			if a.Kind == alert.Weekly {
				var week weekly.Report
				if err := json.Unmarshal(a.Details, &week); err != nil {
					return nil, fmt.Errorf("read report of alert %d: %w", a.ID, err)
				}
				one.Href = v.base + "?" + week.Days().Encode()
			}
			n.News = append(n.News, one)
		}
	}
	if v.mode != "guest" {
		n.LeftOut = q.with(v.base+"/left-out", func(values url.Values) { values.Del("filter"); values.Del("count") })
		if err := n.feed(ctx, d.Reader, r, q); err != nil {
			d.Log.Warn("the latest visits cannot be listed", "error", err)
		}
	}
	return n, nil
}

func throughText(through, now time.Time) string {
	through = through.In(now.Location())
	if through.Format(time.DateOnly) != now.Format(time.DateOnly) {
		return through.Format("2 January 15:04:05")
	}
	return through.Format("15:04:05")
}

func gapText(g insight.Gap, zone *time.Location) string {
	from := g.From.In(zone)
	if g.To.IsZero() {
		return "Since " + from.Format("2 January 15:04") + ": " + g.Sentence()
	}
	to := g.To.In(zone)
	end := to.Format("15:04")
	if from.Format(time.DateOnly) != to.Format(time.DateOnly) {
		end = to.Format("2 January 15:04")
	}
	return from.Format("2 January 15:04") + " to " + end + ": " + g.Sentence()
}

// HeldBackCount is HeldBack as templates count.
func (n *numbers) HeldBackCount() int64 { return int64(n.HeldBack) }
