package insight

import (
	"fmt"
	"slices"
	"time"
)

// Interval is the width of a series' buckets in the profile's time zone.
type Interval string

// The intervals.
const (
	QuarterHour Interval = "quarter-hour"
	Hour        Interval = "hour"
	Day         Interval = "day"
	Week        Interval = "week" // from Monday
	Month       Interval = "month"
)

// start returns the start of the bucket that t is in.
func (i Interval) start(t time.Time) time.Time {
	switch i {
	case QuarterHour:
		return aligned(t, 15*time.Minute)
	case Hour:
		return aligned(t, time.Hour)
	case Day:
		return startOfDay(t, 0, 0)
	case Week:
		return startOfDay(t, 0, -int(t.Weekday()+6)%7)
	case Month:
		return startOfDay(t, 0, 1-t.Day())
	}
	panic("BUG: interval " + string(i))
}

// next returns the start of the bucket after the one that starts at start.
func (i Interval) next(start time.Time) time.Time {
	switch i {
	case QuarterHour:
		return after(start, 15*time.Minute)
	case Hour:
		return after(start, time.Hour)
	case Day:
		return startOfDay(start, 0, 1)
	case Week:
		return startOfDay(start, 0, 7)
	case Month:
		return startOfDay(start, 1, 0)
	}
	panic("BUG: interval " + string(i))
}

// aligned rounds t down to width on the local clock, but not beyond the moment at which that clock was last moved: where it is moved by
// half an hour, an hour is cut in two there.
func aligned(t time.Time, width time.Duration) time.Time {
	_, offset := t.Zone()
	local := t.Unix() + int64(offset)
	seconds := int64(width / time.Second)
	start := time.Unix(local-mod(local, seconds)-int64(offset), 0).In(t.Location())
	if moved, _ := t.ZoneBounds(); moved.After(start) {
		return moved
	}
	return start
}

func after(start time.Time, width time.Duration) time.Time {
	_, offset := start.Zone()
	local := start.Unix() + int64(offset)
	seconds := int64(width / time.Second)
	next := time.Unix(local-mod(local, seconds)+seconds-int64(offset), 0).In(start.Location())
	if _, moved := start.ZoneBounds(); !moved.IsZero() && moved.Before(next) {
		return moved
	}
	return next
}

func mod(a, b int64) int64 { return ((a % b) + b) % b }

// startOfDay returns the first moment of the local date of t plus months and days. That is not always midnight: in some zones the clock
// is moved forward at midnight, in some it strikes midnight twice.
func startOfDay(t time.Time, months, days int) time.Time {
	year, month, day := t.Date()
	date := time.Date(year, month+time.Month(months), day+days, 0, 0, 0, 0, time.UTC)
	start := time.Date(date.Year(), date.Month(), date.Day(), 0, 0, 0, 0, t.Location())
	moved, end := start.ZoneBounds()
	if start.Day() != date.Day() {
		return end // there is no midnight: the day begins when the clock is moved
	}
	if !moved.IsZero() {
		_, now := start.Zone()
		_, before := moved.Add(-time.Second).Zone()
		if earlier := start.Add(time.Duration(now-before) * time.Second); before > now && earlier.Before(moved) {
			return earlier // the first of two midnights
		}
	}
	return start
}

// MaxBuckets is how many buckets one answer may have: a month of quarter hours, eight years of days.
const MaxBuckets = 3000

// ErrTooManyBuckets is returned for a range that has more than MaxBuckets of its interval.
var ErrTooManyBuckets = fmt.Errorf("the range has more than %d buckets: choose a longer interval or a shorter range", MaxBuckets)

// buckets returns the starts of all buckets that touch [from, to), and at the end the end of the last one.
func (i Interval) buckets(from, to time.Time) ([]time.Time, error) {
	bounds := []time.Time{i.start(from)}
	for {
		last := bounds[len(bounds)-1]
		if !last.Before(to) {
			return slices.Clip(bounds), nil
		}
		if len(bounds) > MaxBuckets {
			return nil, ErrTooManyBuckets
		}
		bounds = append(bounds, i.next(last))
	}
}

// Bounds returns the start of the first and the end of the last bucket that touch [from, to).
func (i Interval) Bounds(from, to time.Time) (first, end time.Time, err error) {
	bounds, err := i.buckets(from, to)
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	return bounds[0], bounds[len(bounds)-1], nil
}

// Back returns the start of the earliest of count buckets of which the last is the one before to, or the one that to is in.
func (i Interval) Back(to time.Time, count int) time.Time {
	start := i.start(to.Add(-time.Nanosecond))
	for range count - 1 {
		start = i.start(start.Add(-time.Nanosecond))
	}
	return start
}
