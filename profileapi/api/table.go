package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
)

// file is an answer that is not JSON.
type file struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}

type tableInput struct {
	IDPath
	RangeQuery
	Panel     string `query:"panel" enum:"numbers,series,links,breakdown" default:"series" doc:"Which table."`
	Dimension string `query:"dimension" enum:"link,surface,place,channel,referrer_host,country,language,device,browser,os,utm_source,utm_medium,utm_campaign,utm_term,utm_content,variant,layout,host,reason" default:"country" doc:"Of the panel breakdown."`
}

// cell is text as a spreadsheet shows it without computing it: what would begin a formula is made text by an apostrophe (OWASP, CSV
// injection).
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// Table writes rows as CSV (RFC 4180).
func table(rows [][]string) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true
	if err := w.WriteAll(rows); err != nil {
		return nil, fmt.Errorf("write CSV: %w", err)
	}
	return b.Bytes(), nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func fraction(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

func optional(n *int64) string {
	if n == nil {
		return ""
	}
	return decimal(*n)
}

func (a *API) registerTables() {
	registerSeen(a, huma.Operation{
		OperationID: "get-insights-csv", Method: http.MethodGet, Path: "/v1/profiles/{id}/insights.csv",
		Summary: "Read a profile's numbers as CSV", Description: "The same numbers as in the JSON and on the dashboard, row by row. A bucket whose events were all lost has empty cells. A breakdown ends with (other) where closed days keep rare values as one.",
		Tags: []string{"insights"}, Security: needs(account.Insights), Errors: []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {Description: "CSV (RFC 4180)", Content: map[string]*huma.MediaType{
			"text/csv; charset=utf-8": {Schema: &huma.Schema{Type: huma.TypeString}}}}},
	}, func(ctx context.Context, p profile.Profile, in *tableInput) (*file, error) {
		ask, _, err := in.ask(p, a.now())
		if err != nil {
			return nil, err
		}
		part := map[string]insight.Part{"numbers": insight.PartTotals, "series": insight.PartSeries, "links": insight.PartLinks, "breakdown": insight.PartBreakdowns}[in.Panel]
		ask.Only = []insight.Part{part}
		if in.Panel == "breakdown" {
			ask.Dimensions = []insight.Dimension{insight.Dimension(in.Dimension)}
		}
		r, err := a.report(ctx, ask)
		if err != nil {
			return nil, err
		}
		if detail, missing := r.Unavailable[part]; missing {
			return nil, huma.ErrorWithHeaders(huma.Error503ServiceUnavailable(detail), http.Header{"Retry-After": {"2"}})
		}
		body, err := table(rows(r, in.Panel))
		if err != nil {
			return nil, err
		}
		return &file{"text/csv; charset=utf-8", fmt.Sprintf(`attachment; filename="%s-%s.csv"`, p.Handle, in.Panel), body}, nil
	})
}

func rows(r *insight.Report, panel string) [][]string {
	switch panel {
	case "numbers":
		n := showRange(r.From, r.To, r.Totals, r.Classes)
		life := showNumbers(r.Lifetime.Counted)
		return [][]string{
			{"number", "range", "lifetime"},
			{"from", r.From.Format(time.RFC3339), ""},
			{"to", r.To.Format(time.RFC3339), ""},
			{"views", decimal(n.Views), decimal(life.Views)},
			{"clicks", decimal(n.Clicks), decimal(life.Clicks)},
			{"ctr", fraction(n.CTR), fraction(life.CTR)},
			{"page_clicks", optional(n.PageClicks), decimal(life.PageClicks)},
			{"page_ctr", fraction(n.PageCTR), fraction(life.PageCTR)},
			{"unique_visitors", optional(n.UniqueVisitors), decimal(life.UniqueVisitors)},
			{"unique_viewers", optional(n.UniqueViewers), decimal(life.UniqueViewers)},
			{"unique_clickers", optional(n.UniqueClickers), decimal(life.UniqueClickers)},
			{"unique_ctr", fraction(n.UniqueCTR), fraction(life.UniqueCTR)},
		}
	case "series":
		out := [][]string{{"time", "views", "clicks", "complete"}}
		for _, v := range r.Series {
			views, clicks := decimal(v.Views), decimal(v.Clicks)
			if v.Gap {
				views, clicks = "", ""
			}
			out = append(out, []string{v.Start.Format(time.RFC3339), views, clicks, strconv.FormatBool(v.Complete)})
		}
		return out
	case "links":
		out := [][]string{{"id", "title", "code", "url", "clicks", "clicks_in_range"}}
		for _, l := range r.Lifetime.Links {
			_, clicks := r.Links[l.ID].Of(r.Classes)
			out = append(out, []string{formatted(l.ID), cell(l.Title), l.Code, cell(l.URL), decimal(l.Clicks), decimal(clicks)})
		}
		return out
	}
	out := [][]string{{string(r.Breakdowns[0].Dimension), "views", "clicks"}}
	for _, item := range r.Breakdowns[0].Items {
		views, clicks := item.Of(r.Classes)
		out = append(out, []string{cell(item.Value), decimal(views), decimal(clicks)})
	}
	if views, clicks := r.Breakdowns[0].Other.Of(r.Classes); views+clicks > 0 {
		out = append(out, []string{insight.Rest, decimal(views), decimal(clicks)})
	}
	return out
}
