package day

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"spillway.dev/rollup/table"
)

// State is what is known of a day.
type State struct {
	Date    table.Date
	Events  uint64 // in the table of events
	Closed  uint64 // as many it was closed with
	Summed  uint64 // as many its closed rows add up to
	Listed  bool   // it is listed as closed
	Expired bool   // its events were dropped, or are about to be
	Due     bool   // it is marked to be closed again; Closed is what its rows add up to
	Former  bool   // it was closed when every column had rows and none said when the day's events were
}

// Shrunk says that there are fewer events than the day was closed with.
func (s State) Shrunk() bool { return s.Listed && s.Events < s.Closed }

// Differs says that the closed day is not what its events are.
func (s State) Differs() bool {
	return !s.Shrunk() && s.Events > 0 && (!s.Listed || s.Due || s.Former || s.Events != s.Closed || s.Events != s.Summed)
}

// Compare tells of the given dates, or of all if dates is nil, what events and closed rows there are. In the order of the dates.
func (c *Closer) Compare(ctx context.Context, dates []table.Date) ([]State, error) {
	expired, err := ReadExpired(ctx, c.pool)
	if err != nil {
		return nil, err
	}
	return Compare(ctx, c.tables, expired, dates)
}

// Compare is Closer.Compare, with the list of expired months given.
func Compare(ctx context.Context, t *table.Tables, expired Expired, dates []table.Date) ([]State, error) {
	where := ""
	if dates != nil {
		where = " WHERE date IN (" + table.Dates(dates) + ")"
	}
	closed, err := ReadClosed(ctx, t)
	if err != nil {
		return nil, err
	}
	states := map[table.Date]*State{}
	state := func(d table.Date) *State {
		if states[d] == nil {
			day, listed := closed.Days[d]
			states[d] = &State{Date: d, Closed: day.Events, Listed: listed, Expired: expired.Has(d)}
		}
		return states[d]
	}
	var date uint16
	var n uint64
	for _, q := range []struct {
		query string
		set   func(*State, uint64)
	}{
		// Closed rows first: what comes meanwhile makes the day look older than it is, never newer.
		{"SELECT toUInt16(date) AS d, sumIf(events, dimension = '') FROM " + t.All("days") + where + " GROUP BY d", func(s *State, n uint64) { s.Summed = n }},
		{"SELECT toUInt16(date) AS d, toUInt64(maxIf(toUInt32(bucket), dimension = 'surface') = 0) FROM " + t.All("days") + where + " GROUP BY d", func(s *State, n uint64) { s.Former = n != 0 }},
		{"SELECT toUInt16(date) AS d, count() FROM " + t.All("events") + where + " GROUP BY d", func(s *State, n uint64) { s.Events = n }},
	} {
		if err := t.Each(ctx, q.query, []any{&date, &n}, func() error {
			q.set(state(table.Date(date)), n)
			return nil
		}); err != nil {
			return nil, fmt.Errorf("compare days with their events: %w", err)
		}
	}
	for _, d := range closed.Dates() {
		if dates == nil || slices.Contains(dates, d) {
			state(d)
		}
	}
	for _, s := range states {
		if s.Listed && s.Closed == 0 {
			s.Due, s.Closed = true, s.Summed
		}
	}
	list := make([]State, 0, len(states))
	for _, d := range slices.Sorted(maps.Keys(states)) {
		list = append(list, *states[d])
	}
	return list, nil
}
