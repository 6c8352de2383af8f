package dashboard

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"spillway.dev/profileapi/insight"
)

func (d *Dashboard) functions() template.FuncMap {
	return template.FuncMap{
		"number": number, "percent": percent, "count": count, "asset": func(name string) string {
			return "/assets/" + name + "?" + d.files["/assets/"+name].etag
		},
		"dict": func(pairs ...any) (map[string]any, error) {
			if len(pairs)%2 != 0 {
				return nil, fmt.Errorf("dict needs pairs")
			}
			m := map[string]any{}
			for i := 0; i < len(pairs); i += 2 {
				m[fmt.Sprint(pairs[i])] = pairs[i+1]
			}
			return m, nil
		},
	}
}

func number(n int64) string { return insight.Number(n) }

func percent(rate *float64) string {
	if rate == nil {
		return "–"
	}
	return strconv.FormatFloat(*rate*100, 'f', 1, 64) + "\u202f%"
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// sentence makes a message a sentence.
func sentence(s string) string {
	if s == "" {
		return s
	}
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + strings.TrimRight(s[size:], ".") + "."
}

// dimensionNames are what breakdowns are called, in the order in which they are shown.
func dimensionNames() []struct {
	Dimension insight.Dimension
	Name      string
} {
	return []struct {
		Dimension insight.Dimension
		Name      string
	}{
		{"channel", "Channels"}, {"referrer_host", "Referring sites"}, {"country", "Countries"}, {"device", "Devices"}, {"browser", "Browsers"}, {"os", "Systems"},
		{"surface", "Where it happened"}, {"place", "Places"}, {"language", "Languages"}, {"utm_source", "UTM source"}, {"utm_medium", "UTM medium"}, {"utm_campaign", "UTM campaign"},
	}
}

// className says what a class is.
func className(c insight.Class) string {
	switch c {
	case insight.Person:
		return "People"
	case "bot":
		return "Bots"
	case "preview":
		return "Link previews"
	case "prefetch":
		return "Prefetches"
	case "head":
		return "HEAD requests"
	case "scanner":
		return "Scanners"
	case "owner":
		return "You"
	case "test":
		return "Tests"
	}
	return "Unknown"
}

// span writes a range of time; both ends are in the same zone, and the second is excluded.
func span(from, to time.Time) string {
	last := to.Add(-time.Second)
	if from.Format(time.DateOnly) == last.Format(time.DateOnly) {
		return from.Format("2 January 2006")
	}
	if from.Year() == last.Year() {
		return from.Format("2 January") + " to " + last.Format("2 January 2006")
	}
	return from.Format("2 January 2006") + " to " + last.Format("2 January 2006")
}

// bucketName says which bucket begins at t.
func bucketName(t time.Time, interval insight.Interval) string {
	switch interval {
	case insight.QuarterHour, insight.Hour:
		return t.Format("Mon 2 Jan, 15:04")
	case insight.Week:
		return "Week of " + t.Format("2 Jan 2006")
	case insight.Month:
		return t.Format("January 2006")
	}
	return t.Format("Mon 2 Jan 2006")
}

// zones are the time zones that the form proposes; any other IANA name can be written.
func zones() []string {
	return []string{"UTC", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "America/Argentina/Buenos_Aires", "America/Bogota", "America/Chicago", "America/Denver",
		"America/Los_Angeles", "America/Mexico_City", "America/New_York", "America/Sao_Paulo", "America/St_Johns", "America/Toronto", "Asia/Bangkok", "Asia/Dubai",
		"Asia/Hong_Kong", "Asia/Jakarta", "Asia/Karachi", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Manila", "Asia/Seoul", "Asia/Shanghai", "Asia/Singapore", "Asia/Tokyo",
		"Australia/Adelaide", "Australia/Sydney", "Europe/Amsterdam", "Europe/Berlin", "Europe/Istanbul", "Europe/Lisbon", "Europe/London", "Europe/Madrid", "Europe/Paris",
		"Europe/Rome", "Europe/Stockholm", "Europe/Vienna", "Europe/Warsaw", "Europe/Zurich", "Pacific/Auckland", "Pacific/Honolulu"}
}
