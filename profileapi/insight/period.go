package insight

import "time"

// Period is a usual range of time that ends now.
type Period string

// The periods.
const (
	Last24Hours Period = "24h"
	Last7Days   Period = "7d"
	Last30Days  Period = "30d"
	Last90Days  Period = "90d"
	AllTime     Period = "all"
)

// Periods are all of them, the shortest first.
func Periods() []Period { return []Period{Last24Hours, Last7Days, Last30Days, Last90Days, AllTime} }

// Range returns the period's time, whole buckets, in the zone of now. created is when the profile was made, where all time begins.
func (p Period) Range(now, created time.Time) (from, to time.Time, interval Interval) {
	switch p {
	case Last24Hours:
		return Hour.Back(now, 24), Hour.next(Hour.start(now)), Hour
	case Last7Days:
		return Day.Back(now, 7), Day.next(Day.start(now)), Hour
	case Last30Days:
		return Day.Back(now, 30), Day.next(Day.start(now)), Day
	case Last90Days:
		return Day.Back(now, 90), Day.next(Day.start(now)), Day
	}
	from, to = Day.start(created.In(now.Location())), Day.next(Day.start(now))
	return from, to, Fitting(from, to)
}

// Fitting returns the shortest interval that shows a range in a number of buckets that a chart can show.
func Fitting(from, to time.Time) Interval {
	switch length := to.Sub(from); {
	case length <= 12*time.Hour:
		return QuarterHour
	case length <= 8*24*time.Hour:
		return Hour
	case length <= 400*24*time.Hour:
		return Day
	case length <= 4*366*24*time.Hour:
		return Week
	}
	return Month
}

// Previous returns the period that a range is compared with: as many buckets as it has, just before it, and as much of it as has passed
// of the range by now.
func (i Interval) Previous(from, to, now time.Time) (time.Time, time.Time) {
	count := 0
	for at := from; at.Before(to) && count < MaxBuckets; at = i.next(at) {
		count++
	}
	start := from
	for range count {
		start = i.start(start.Add(-time.Nanosecond))
	}
	if passed := now.Sub(from); now.Before(to) && passed > 0 {
		if end := QuarterHour.start(start.Add(passed).In(from.Location())); end.After(start) && end.Before(from) {
			return start, end
		}
	}
	return start, from
}
