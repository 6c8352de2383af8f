package dashboard

import (
	"encoding/json"
	"fmt"
	"time"

	"spillway.dev/profileapi/insight"
)

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
