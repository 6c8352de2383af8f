package insight

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// Event is a single view or click, without what would tell its visitor from others.
type Event struct {
	Stream    uint64
	Partition uint32
	Sequence  uint64
	Time      time.Time
	Kind      string
	Class     Class
	Reason    string // why it has that class; empty for a person
	Suspect   bool
	Link      int64
	Surface   string
	Place     string
	Country   string
	Device    string
	Browser   string
	OS        string
	Referrer  string // its host
	Channel   string
	UserAgent string
}

// Name names an event for ever.
func (e Event) Name() string { return fmt.Sprintf("%016x-%d-%d", e.Stream, e.Partition, e.Sequence) }

// cursor says where a list of events goes on.
type cursor struct {
	Time      int64  `json:"t"` // microseconds
	Stream    uint64 `json:"s"`
	Partition uint32 `json:"p"`
	Sequence  uint64 `json:"q"`
}

// Cursor says, in letters that fit into an address, where a list goes on whose last event is e.
func (e Event) Cursor() string {
	b, err := json.Marshal(cursor{e.Time.UnixMicro(), e.Stream, e.Partition, e.Sequence})
	if err != nil {
		panic("BUG: a cursor cannot be written: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what Cursor wrote: an event of which only time and name are known; nil of the empty string.
func ParseCursor(s string) (*Event, error) {
	if s == "" {
		return nil, nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("read cursor %q: %w", s, err)
	}
	return &Event{Time: time.UnixMicro(c.Time).UTC(), Stream: c.Stream, Partition: c.Partition, Sequence: c.Sequence}, nil
}

// List returns up to limit events of the question's time and of the classes, the latest first; only those before the event that
// before names, if it is not nil. What is older than the retention of single events is not there.
func (r *Reader) List(ctx context.Context, q Question, classes []Class, before *Event, limit int) ([]Event, error) {
	cursor := ""
	if before != nil {
		cursor = fmt.Sprintf(" AND (time, stream, partition, sequence) < (%s, %d, %d, %d)",
			micro(before.Time), before.Stream, before.Partition, before.Sequence)
		if before.Time.Before(q.To) {
			q.To = before.Time.Add(time.Microsecond)
		}
	}
	if q.Hide != "" {
		cursor += " AND user_agent != " + literal(q.Hide)
	}
	list := []Event{}
	// Whoever has many events has a list's worth of them within the last hours; so the search goes back in steps that grow.
	step := firstStep
	for to := q.To; to.After(q.From) && len(list) < limit; {
		from := to.Add(-step)
		if from.Before(q.From) {
			from = q.From
		}
		if err := r.listBetween(ctx, q, from, to, fmt.Sprintf(" AND class IN (%s)%s", classList(classes), cursor), limit-len(list), &list); err != nil {
			return nil, fmt.Errorf("list events of profile %d: %w", q.Profile, err)
		}
		to, step = from, min(4*step, longestStep)
	}
	return list, nil
}

// firstStep is the time of which List reads all events at once, at first; longestStep is what it never exceeds.
const (
	firstStep   = 6 * time.Hour
	longestStep = 10 * 366 * 24 * time.Hour
)

// listBetween appends up to limit events of [from, to), the latest first.
func (r *Reader) listBetween(ctx context.Context, q Question, from, to time.Time, condition string, limit int, list *[]Event) error {
	var e Event
	var class string
	var link uint64
	return r.each(ctx, fmt.Sprintf(`SELECT stream AS s, partition AS p, sequence AS q, time AS t, toString(kind), toString(class), reason, suspect, link_id, toString(surface),
			place, country, device, browser, os, referrer_host, channel, user_agent
		FROM %s WHERE profile_id = %d AND date BETWEEN toDate(%d) AND toDate(%d) AND time >= %s AND time < %s%s%s ORDER BY t DESC, s DESC, p DESC, q DESC LIMIT %d`,
		r.layout.All("events"), q.Profile, dayOf(from.UTC().Add(-latest)), dayOf(to.UTC().Add(-earliest)), micro(from), micro(to),
		q.Filters.condition(), condition, limit),
		[]any{&e.Stream, &e.Partition, &e.Sequence, &e.Time, &e.Kind, &class, &e.Reason, &e.Suspect, &link, &e.Surface, &e.Place, &e.Country, &e.Device,
			&e.Browser, &e.OS, &e.Referrer, &e.Channel, &e.UserAgent}, func() error {
			e.Class, e.Link = Class(class), int64(link)
			*list = append(*list, e)
			return nil
		})
}

// micro is t as ClickHouse's DateTime64(6).
func micro(t time.Time) string {
	return fmt.Sprintf("fromUnixTimestamp64Micro(toInt64(%d), 'UTC')", t.UnixMicro())
}

func classList(classes []Class) string {
	list := ""
	for i, c := range classes {
		if i > 0 {
			list += ","
		}
		list += literal(string(c))
	}
	return list
}
