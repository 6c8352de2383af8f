package insight

// Definitions tell what each number means, in the words that a page can show.
func Definitions() map[string]string {
	return map[string]string{
		"views":            "Profile pages shown, of the classes listed in classes. A person's reload is a view again.",
		"clicks":           "Redirects answered to GET requests, of the classes listed in classes, wherever the link was clicked.",
		"ctr":              "Click-through rate: clicks / views. It exceeds 1 when links are clicked elsewhere than on the page. Null without views.",
		"page_clicks":      "Clicks that came from the profile page.",
		"page_ctr":         "Click-through rate on the page: page_clicks / views.",
		"unique_visitors":  "Distinct visitor ids of each day who viewed or clicked, added up by day: a person who comes on two days counts twice. The day is the profile's local date.",
		"unique_viewers":   "As unique_visitors, of those who viewed.",
		"unique_clickers":  "As unique_visitors, of those who clicked.",
		"unique_ctr":       "Unique click-through rate: unique_clickers / unique_viewers.",
		"complete_through": "Every view and click answered up to this time is counted. Later ones may still be on their way.",
		"range":            "The numbers from 'from' to 'to' as whole buckets in the time zone. Unique visitors of a range are the sum of its days.",
		"gap":              "A time of which events are missing, with the cause. Where all of a bucket is lost its numbers are unknown, not zero.",
		"person":           "Neither a known bot, link preview, prefetch, HEAD request, scanner, nor the owner.",
	}
}

// Growth returns how much now is more than before: 0.25 is a quarter more. Nil where there was nothing before.
func Growth(now, before float64) *float64 {
	if before == 0 {
		return nil
	}
	g := now/before - 1
	return &g
}
