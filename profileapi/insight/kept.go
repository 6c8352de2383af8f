package insight

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// keptDimension is the panel of closed days that tells apart neither values nor quarter hours, only links.
const keptDimension = "link"

// keys returns what a panel's cells are told apart by, of the rows of closed days: by a value of the dimension that is read, by link, or by
// nothing.
func (p panel) keys() string {
	switch p.dimension {
	case "":
		return "''"
	case ByLink:
		return "toString(link_id)"
	}
	return "value"
}

// unset is the value that d has in an event that says nothing of it.
func (d Dimension) unset() string {
	switch d {
	case BySurface:
		return "unknown"
	case "layout":
		return "0"
	}
	return ""
}

// keptRow is a row of what kept asks for.
type keptRow struct {
	part          int8 // one of those below
	dimension     string
	key           string
	day           int64
	kind          int8
	class         string
	events, views uint64
}

const (
	ofPanel int8 = iota // cells of panels
	hasRows             // a dimension has rows on a day
	ofLinks             // cells of the panel of links, by day
)

// kept reads panels from whole closed days. A day on which a dimension is unset in all events of the profile has no rows of it: what they would
// be stands in the panel of links (rollup/day). All is one question, so that what it reads of a day that is swapped meanwhile agrees, where a
// question has one snapshot (ClickHouse 26; before, enable_shared_storage_snapshot_in_query is off).
func (r *Reader) kept(ctx context.Context, q Question, list []day, panels []panel) ([]cell, error) {
	from := fmt.Sprintf("FROM %s WHERE profile_id = %d AND date IN (%s)", r.layout.All("days"), q.Profile, dates(list))
	links := q.Filters.only(ByLink).condition()
	values := ""
	saysNothing := true // what is unset passes the filters
	for _, f := range q.Filters.without(ByLink) {
		words := make([]string, len(f.Values))
		for i, v := range f.Values {
			words[i] = literal(v)
		}
		values += " AND value IN (" + strings.Join(words, ",") + ")"
		saysNothing = saysNothing && slices.Contains(f.Values, f.Dimension.unset())
	}
	const sums = "toInt8(kind) AS i, toString(class) AS c, sum(events) AS n, sum(visitors) AS u"
	const seen = "kind IN ('view', 'click')"
	var parts []string
	read := map[Dimension]bool{}
	byKeys := map[string][]panel{} // all of the same keys at once: each part opens every day's rows anew
	for _, p := range panels {
		read[whole(p, q.Filters)] = true
		byKeys[p.keys()] = append(byKeys[p.keys()], p)
	}
	for keys, of := range byKeys {
		name, wanted := "toString(dimension)", make([]string, len(of))
		for i, p := range of {
			wanted[i] = literal(string(whole(p, q.Filters)))
		}
		if keys != "value" {
			name = literal(string(of[0].dimension)) // there is one, of the dimension that is filtered by
		}
		parts = append(parts, fmt.Sprintf("SELECT toInt8(%d) AS part, %s AS d, %s AS k, toInt64(0) AS t, %s %s AND dimension IN (%s) AND %s%s%s GROUP BY d, k, i, c",
			ofPanel, name, keys, sums, from, strings.Join(wanted, ","), seen, links, values))
	}
	if saysNothing {
		var wanted []string
		for d := range read {
			wanted = append(wanted, literal(string(d)))
		}
		link := panel{}.keys()
		if byLink := (panel{dimension: ByLink}).keys(); byKeys[byLink] != nil {
			link = byLink
		}
		parts = append(parts,
			fmt.Sprintf("SELECT DISTINCT toInt8(%d) AS part, toString(dimension) AS d, '' AS k, toInt64(toUInt16(date)) AS t, toInt8(0) AS i, '' AS c, toUInt64(0) AS n, toUInt64(0) AS u %s AND dimension IN (%s)",
				hasRows, from, strings.Join(wanted, ",")),
			fmt.Sprintf("SELECT toInt8(%d) AS part, '' AS d, %s AS k, toInt64(toUInt16(date)) AS t, %s %s AND dimension = '%s' AND %s%s GROUP BY k, t, i, c",
				ofLinks, link, sums, from, keptDimension, seen, links))
	}

	var cells []cell
	add := func(p panel, key string, row keptRow) {
		c := cell{dimension: string(p.dimension), key: key, kind: row.kind, class: Class(row.class), events: row.events}
		cells = append(cells, c)
		if p.viewers && !p.inSeries() && c.kind == kindView {
			c.kind, c.events = kindViewers, row.views
			cells = append(cells, c)
		}
	}
	has := map[Dimension]map[int64]bool{}
	var ofUnset []keptRow
	var row keptRow
	err := r.each(ctx, strings.Join(parts, " UNION ALL "), []any{&row.part, &row.dimension, &row.key, &row.day, &row.kind, &row.class, &row.events, &row.views}, func() error {
		switch d := Dimension(row.dimension); row.part {
		case ofPanel:
			add(panel{dimension: d, viewers: panels[0].viewers}, row.key, row)
		case hasRows:
			if has[d] == nil {
				has[d] = map[int64]bool{}
			}
			has[d][row.day] = true
		default:
			ofUnset = append(ofUnset, row)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read closed days: %w", err)
	}
	for _, row := range ofUnset {
		for _, p := range panels {
			of := whole(p, q.Filters)
			if has[of][row.day] {
				continue
			}
			switch p.dimension {
			case "":
				add(p, "", row)
			case ByLink:
				add(p, row.key, row)
			default:
				add(p, of.unset(), row)
			}
		}
	}
	return cells, nil
}
