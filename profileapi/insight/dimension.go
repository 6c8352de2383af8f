package insight

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Dimension is something that views and clicks are told apart by: a column of events.
type Dimension string

// Dimensions that the series of closed days have too; the others are panels of their own there.
const (
	ByLink    Dimension = "link"
	BySurface Dimension = "surface"
)

// Dimensions are all of them, in the order in which a page would show them.
func Dimensions() []Dimension {
	return []Dimension{ByLink, BySurface, "place", "channel", "referrer_host", "country", "language", "device", "browser", "os",
		"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "variant", "layout", "host", "reason"}
}

// Valid says whether d is a dimension.
func (d Dimension) Valid() bool { return slices.Contains(Dimensions(), d) }

// inSeries says whether the quarter hours of closed and open days can be told apart by d.
func (d Dimension) inSeries() bool { return d == ByLink || d == BySurface }

// Rest is the value that stands, in a closed day, for all values of a dimension but the most frequent ones (rollup/day.Other). It is never an
// item of a breakdown, and cannot be filtered for: the same events have other values before their day is closed.
const Rest = "(other)"

// value is the expression that gives d's value as a string, from the events or from the series of closed days.
func (d Dimension) value() string {
	switch d {
	case ByLink:
		return "toString(link_id)"
	case BySurface, "layout":
		return "toString(" + string(d) + ")"
	}
	return "toString(" + string(d) + ")"
}

// Filter keeps the events of which a dimension has one of some values.
type Filter struct {
	Dimension Dimension
	Values    []string
}

// Filters all have to hold. No two of them are about the same dimension.
type Filters []Filter

// BadFilter says which filter cannot be understood, and why.
type BadFilter struct{ Filter, Message string }

func (e *BadFilter) Error() string { return fmt.Sprintf("filter %q: %s", e.Filter, e.Message) }

// maxFilterValues bounds what one request can make ClickHouse compare.
const maxFilterValues = 50

// ParseFilters reads filters written as dimension:value. Several about the same dimension keep the events that match any of them.
func ParseFilters(list []string) (Filters, error) {
	var all Filters
	if len(list) > maxFilterValues {
		return nil, &BadFilter{fmt.Sprint(len(list)), fmt.Sprintf("use at most %d filters", maxFilterValues)}
	}
	for _, f := range list {
		name, value, ok := strings.Cut(f, ":")
		d := Dimension(name)
		switch {
		case !ok || !d.Valid():
			return nil, &BadFilter{f, "write dimension:value, for example country:DE"}
		case d == ByLink || d == "layout":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				return nil, &BadFilter{f, "write a decimal number after the colon"}
			}
			value = strconv.FormatUint(n, 10)
		case d == BySurface && !slices.Contains([]string{"page", "direct", "qr", "unknown"}, value):
			return nil, &BadFilter{f, "a surface is page, direct, qr or unknown"}
		case value == Rest:
			return nil, &BadFilter{f, "this stands for values that are too many to be kept one by one: filter for one of them"}
		}
		i := slices.IndexFunc(all, func(have Filter) bool { return have.Dimension == d })
		if i < 0 {
			all, i = append(all, Filter{Dimension: d}), len(all)
		}
		if !slices.Contains(all[i].Values, value) {
			all[i].Values = append(all[i].Values, value)
		}
	}
	return all, nil
}

// without returns the filters that are not about d.
func (f Filters) without(d Dimension) Filters {
	return slices.DeleteFunc(slices.Clone(f), func(f Filter) bool { return f.Dimension == d })
}

// inSeries says whether all filters hold of whole rows of the series.
func (f Filters) inSeries() bool {
	return !slices.ContainsFunc(f, func(f Filter) bool { return !f.Dimension.inSeries() })
}

// condition is SQL that holds of the events that pass, on the table of events or, for the dimensions that it has, on the series.
func (f Filters) condition() string {
	var b strings.Builder
	for _, one := range f {
		b.WriteString(" AND ")
		values := make([]string, len(one.Values))
		switch one.Dimension {
		case ByLink:
			copy(values, one.Values)
			b.WriteString("link_id")
		case "layout":
			copy(values, one.Values)
			b.WriteString("layout")
		default:
			for i, v := range one.Values {
				values[i] = literal(v)
			}
			b.WriteString(string(one.Dimension))
		}
		b.WriteString(" IN (" + strings.Join(values, ",") + ")")
	}
	return b.String()
}

// literal is s as a ClickHouse expression, whatever it contains.
func literal(s string) string {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '\'' || c == '\\' || c == '?' || c == '$' || c == '@' || c == '{' {
			return "unhex('" + hex.EncodeToString([]byte(s)) + "')"
		}
	}
	return "'" + s + "'"
}
