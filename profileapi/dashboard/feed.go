package dashboard

import (
	"cmp"
	"context"
	"strings"
	"time"

	"spillway.dev/profileapi/insight"
)

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
			from = append(from, insight.ValueName("country", e.Country))
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
