package day

import (
	"context"
	"fmt"
	"strings"

	"spillway.dev/rollup/table"
)

// Fault is what is wrong with a closed day.
type Fault struct {
	Date   table.Date `json:"-"`
	Day    string     `json:"date"`
	Reason string     `json:"reason"`
	Events uint64     `json:"events"` // in the table of events
	Closed uint64     `json:"closed"` // as many it was closed with
	Summed uint64     `json:"summed"` // as many its rows add up to
}

// maxCompared is about how many events are compared in one query, which bounds its memory.
const maxCompared = 20_000_000

// Faults holds closed days against their events, those of dates or, if it is nil, all: their numbers, what their panels add up to, and the
// series row by row. Of single events it only reads which columns are set. Days whose events have expired are held against what they were
// closed with.
func Faults(ctx context.Context, t *table.Tables, expired Expired, dates []table.Date) ([]Fault, error) {
	states, err := Compare(ctx, t, expired, dates)
	if err != nil {
		return nil, err
	}
	var faults []Fault
	add := func(s State, reason string) {
		faults = append(faults, Fault{Date: s.Date, Day: s.Date.String(), Reason: reason, Events: s.Events, Closed: s.Closed, Summed: s.Summed})
	}
	var same []State // those that look alike so far
	for _, s := range states {
		switch {
		case !s.Listed:
		case s.Due:
			add(s, "it is to be closed again, because its events were judged anew")
		case s.Summed != s.Closed:
			add(s, "its rows do not add up to what it was closed with")
		case s.Expired:
		case s.Events < s.Closed:
			add(s, "it has fewer events than it was closed with")
		case s.Events > s.Closed:
			add(s, "it has events that came after it was closed")
		default:
			same = append(same, s)
		}
	}
	for len(same) > 0 {
		n, sum := 0, uint64(0)
		for n < len(same) && (n == 0 || sum+same[n].Events <= maxCompared) {
			sum += same[n].Events
			n++
		}
		if err := compareRows(ctx, t, same[:n], add); err != nil {
			return nil, err
		}
		same = same[n:]
	}
	return faults, nil
}

// compareRows compares sums of hashes, which are the same for the same rows in any order.
func compareRows(ctx context.Context, t *table.Tables, states []State, add func(State, string)) error {
	list := make([]table.Date, len(states))
	for i, s := range states {
		list[i] = s.Date
	}
	in := " WHERE date IN (" + table.Dates(list) + ")"
	const hash = "cityHash64(profile_id, toInt8(kind), toInt8(class), link_id, toInt8(surface), toUInt32(b))"
	var date uint16
	var n uint64
	read := func(query string) (map[table.Date]uint64, error) {
		sums := map[table.Date]uint64{}
		err := t.Each(ctx, query, []any{&date, &n}, func() error { sums[table.Date(date)] = n; return nil })
		if err != nil {
			return nil, fmt.Errorf("compare closed days with their events: %w", err)
		}
		return sums, nil
	}
	kept, err := read("SELECT toUInt16(date) AS d, sum(" + hash + " * events) FROM (SELECT *, bucket AS b FROM " + t.All("days") + in + " AND dimension = '') GROUP BY d")
	if err != nil {
		return err
	}
	raw, err := read("SELECT toUInt16(date) AS d, sum(" + hash + ` * n) FROM (SELECT date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time) AS b, count() AS n
		FROM ` + t.All("events") + in + " GROUP BY date, profile_id, kind, link_id, class, surface, b) GROUP BY d")
	if err != nil {
		return err
	}
	odd, err := oddPanels(ctx, t, list)
	if err != nil {
		return fmt.Errorf("add up the panels of closed days: %w", err)
	}
	for _, s := range states {
		switch {
		case kept[s.Date] != raw[s.Date]:
			add(s, "its series is not that of its events")
		case len(odd[s.Date]) > 0:
			add(s, fmt.Sprintf("%d of its breakdowns do not add up to its series", len(odd[s.Date])))
		}
	}
	return nil
}

// oddPanels returns, by day, the panels that do not have every event once: of all profiles, or, where a column is unset in all events of some,
// of the other profiles. In days that were closed before that was so, every column has all events, and 'link' the clicks only.
func oddPanels(ctx context.Context, t *table.Tables, dates []table.Date) (map[table.Date][]string, error) {
	condition := "date IN (" + table.Dates(dates) + ")"
	in := " WHERE " + condition
	type sum struct{ events, clicks uint64 }
	sums := map[panel]sum{}
	var date uint16
	var dimension string
	var row sum
	if err := t.Each(ctx, "SELECT toUInt16(date) AS d, dimension, sumIf(events, dimension != 'visitors' OR kind = 'unknown'), sumIf(events, kind = 'click') FROM "+t.All("days")+in+" GROUP BY d, dimension",
		[]any{&date, &dimension, &row.events, &row.clicks}, func() error {
			sums[panel{table.Date(date), dimension}] = row
			return nil
		}); err != nil {
		return nil, err
	}
	odd := map[table.Date][]string{}
	var partial []string
	if err := lookAtColumns(ctx, t, condition, func(date table.Date, _, _ uint64, _, of []uint64) {
		all := sums[panel{date, ""}]
		if sums[panel{date, "visitors"}].events != all.events {
			odd[date] = append(odd[date], "visitors")
		}
		if link := sums[panel{date, "link"}]; link.clicks != all.clicks || link.events != all.events && link.events != all.clicks {
			odd[date] = append(odd[date], "link")
		}
		for i, d := range dimensions() {
			switch is := sums[panel{date, d}]; {
			case is.events != of[i] && is.events != all.events, is.events == all.events && is.clicks != all.clicks:
				odd[date] = append(odd[date], d)
			case is.events != 0 && is.events != all.events:
				partial = append(partial, fmt.Sprintf("(%s,'%s')", date.Literal(), d))
			}
		}
	}); err != nil || len(partial) == 0 {
		return odd, err
	}
	err := t.Each(ctx, `SELECT DISTINCT d, dimension FROM (
			SELECT toUInt16(date) AS d, profile_id, dimension, sum(events) AS n, sumIf(events, kind = 'click') AS clicks
			FROM `+t.All("days")+in+` AND (date, dimension) IN (`+strings.Join(partial, ",")+`) GROUP BY d, profile_id, dimension) AS panel
		LEFT JOIN (SELECT toUInt16(date) AS d, profile_id, sum(events) AS total, sumIf(events, kind = 'click') AS all_clicks
			FROM `+t.All("days")+in+` AND dimension = '' GROUP BY d, profile_id) AS day USING (d, profile_id)
		WHERE n != total OR clicks != all_clicks ORDER BY d, dimension`, []any{&date, &dimension}, func() error {
		odd[table.Date(date)] = append(odd[table.Date(date)], dimension)
		return nil
	})
	return odd, err
}

// Verify computes a day again from its events and returns how many of its rows differ. It takes as long as closing the day.
func (c *Closer) Verify(ctx context.Context, date table.Date) (differing uint64, err error) {
	staging, err := c.stage(ctx)
	if err != nil {
		return 0, fmt.Errorf("verify %s: %w", date, err)
	}
	defer func() {
		if dropErr := c.tables.Exec(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS "+staging); dropErr != nil && err == nil {
			err = fmt.Errorf("drop staging table: %w", dropErr)
		}
	}()
	if _, err := c.compute(ctx, staging, []table.Date{date}); err != nil {
		return 0, fmt.Errorf("verify %s: %w", date, err)
	}
	kept := "SELECT * FROM " + c.tables.All("days") + " WHERE date = " + date.Literal()
	computed := "SELECT * FROM " + staging
	if err := c.tables.Row(ctx, fmt.Sprintf("SELECT toUInt64(count()) FROM (SELECT * FROM ((%s) EXCEPT ALL (%s)) UNION ALL SELECT * FROM ((%s) EXCEPT ALL (%s)))",
		kept, computed, computed, kept), &differing); err != nil {
		return 0, fmt.Errorf("verify %s: %w", date, err)
	}
	return differing, nil
}
