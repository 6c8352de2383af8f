package insight

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
	"unique"
)

// span says from which to which quarter hour a closed day has events of a profile: the starts of both, in seconds.
type span struct{ first, last int64 }

// closedDay is what a closed day has of a profile in all. It is not changed once it was read.
type closedDay struct {
	// span is zero where the day was closed before its rows told it: then only its series says when its events were.
	span     span
	events   []sum // by surface, link, kind and class
	visitors []sum // by kind and class, kind 0 those who viewed or clicked
}

// sum is a row of a closed day. Its words are a few that repeat, in memory that all rows share.
type sum struct {
	surface unique.Handle[string]
	class   unique.Handle[Class]
	link    uint64
	n       uint64
	kind    int8
}

// empty says that the profile had no events on the day.
func (c *closedDay) empty() bool { return len(c.events) == 0 }

// readClosed reads closed days, all of them at once, because each day is a part of its own and what takes time is to open it.
func (r *Reader) readClosed(ctx context.Context, profile int64, list []day) (map[day]*closedDay, error) {
	read := make(map[day]*closedDay, len(list))
	for _, date := range list {
		read[date] = &closedDay{}
	}
	var date, first, last int64
	var dimension, value, class string
	var s sum
	var events, visitors uint64
	err := r.each(ctx, fmt.Sprintf(`SELECT toInt64(toUInt16(date)) AS d, toString(dimension) AS m, value AS v, if(dimension = 'link', 0, link_id) AS l, toInt8(kind) AS k, toString(class) AS c,
			sum(events), sum(visitors), toInt64(min(toUInt32(bucket))), toInt64(max(toUInt32(bucket)))
		FROM %s WHERE profile_id = %d AND dimension IN ('link', 'surface', 'visitors') AND date IN (%s) GROUP BY d, m, v, l, k, c%s`, r.layout.All("days"), profile, dates(list), atOnce),
		[]any{&date, &dimension, &value, &s.link, &s.kind, &class, &events, &visitors, &first, &last}, func() error {
			of := read[day(date)]
			s.surface, s.class = unique.Make(value), unique.Make(Class(class))
			switch dimension {
			case "link":
				if of.span.first == 0 || first < of.span.first {
					of.span.first = first
				}
			case "surface":
				of.span.last = max(of.span.last, last)
				s.n = events
				of.events = append(of.events, s)
			default:
				s.n = visitors
				of.visitors = append(of.visitors, s)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read closed days: %w", err)
	}
	for _, of := range read {
		if of.span.first == 0 || of.span.last < of.span.first {
			of.span = span{}
		}
		of.events, of.visitors = slices.Clip(of.events), slices.Clip(of.visitors)
	}
	return read, nil
}

// cells adds to a panel of the series what a whole closed day has of it.
func (c *closedDay) cells(cells []cell, p panel, f Filters) []cell {
	links, surfaces := f.values(ByLink), f.values(BySurface)
	key := ""
	if p.starts != nil {
		key = strconv.FormatInt(p.starts[bucketOf(p.starts, c.span.first)].Unix(), 10)
	}
	for _, s := range c.events {
		link := strconv.FormatUint(s.link, 10)
		surface := s.surface.Value()
		if s.kind == 0 || links != nil && !slices.Contains(links, link) || surfaces != nil && !slices.Contains(surfaces, surface) {
			continue
		}
		switch p.dimension {
		case ByLink:
			key = link
		case BySurface:
			key = surface
		}
		cells = append(cells, cell{dimension: string(p.dimension), key: key, kind: s.kind, class: s.class.Value(), page: surface == "page", events: s.n})
	}
	return cells
}

// bucketOf returns the index of the bucket that a moment is in.
func bucketOf(starts []time.Time, seconds int64) int {
	i, found := slices.BinarySearchFunc(starts, seconds, func(start time.Time, s int64) int { return int(start.Unix() - s) })
	if found {
		return i
	}
	return i - 1
}

// closing names one closing of a day: ClickHouse's clock then, in milliseconds.
type closing int64

// maxRemembered bounds what is remembered of closed days, in rows of 40 bytes.
const maxRemembered = 500_000

// memory remembers closed days of the profiles that were asked for last. A day that is closed again has another closing, so what is found
// is never out of date.
type memory struct {
	mu sync.Mutex // guards what follows
	// What is not asked for while half of the bound is filled anew is forgotten.
	young, old map[int64]remembered
	size       int // of young
}

// remembered are closed days of a profile.
type remembered map[day]struct {
	closing closing
	*closedDay
}

// size is at least the number of rows, and one a day without any.
func (c *closedDay) size() int { return 1 + len(c.events) + len(c.visitors) }

// find returns those of the days that are remembered as they were closed last.
func (m *memory) find(profile int64, want map[day]closing) map[day]*closedDay {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := make(map[day]*closedDay, len(want))
	for _, generation := range []map[int64]remembered{m.young, m.old} {
		of := generation[profile]
		for date, closing := range want {
			if have, ok := of[date]; ok && have.closing == closing {
				found[date] = have.closedDay
			}
		}
	}
	return found
}

// keep remembers days that were read or found.
func (m *memory) keep(profile int64, days map[day]*closedDay, closings map[day]closing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.young[profile]
	for date, c := range days {
		have, ok := of[date]
		if ok && have.closedDay == c {
			continue
		}
		if ok {
			m.size -= have.size()
		}
		if of == nil {
			of = remembered{}
			if m.young == nil {
				m.young = map[int64]remembered{}
			}
			m.young[profile] = of
		}
		have.closing, have.closedDay = closings[date], c
		of[date] = have
		m.size += c.size()
	}
	if m.size > maxRemembered/2 {
		m.young, m.old, m.size = nil, m.young, 0
	}
}
