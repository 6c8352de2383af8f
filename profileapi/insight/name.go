package insight

import (
	"strconv"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/language/display"
)

// Number writes n for people: with narrow spaces, which no line ends at, between thousands.
func Number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// ValueName is how a dimension's value is called in English.
func ValueName(d Dimension, value string) string {
	if value == "" {
		switch d {
		case "referrer_host":
			return "No referrer"
		case "place":
			return "No place"
		case "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content":
			return "None"
		}
		return "Unknown"
	}
	switch d {
	case "country":
		if region, err := language.ParseRegion(value); err == nil {
			if name := display.English.Regions().Name(region); name != "" {
				return name
			}
		}
	case "language":
		if tag, err := language.Parse(value); err == nil {
			if name := display.English.Tags().Name(tag); name != "" {
				return name
			}
		}
	case BySurface:
		switch value {
		case "page":
			return "On the page"
		case "direct":
			return "Elsewhere, directly"
		case "qr":
			return "QR code"
		}
	case "device", "channel":
		return strings.ToUpper(value[:1]) + value[1:]
	}
	return value
}
