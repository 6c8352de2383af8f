package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
)

// Event is a single view or click. Nothing in it tells its visitor from others.
type Event struct {
	Name      string        `json:"name" doc:"Names the event for ever: stream, partition and sequence."`
	Time      time.Time     `json:"time"`
	Kind      string        `json:"kind" enum:"view,click,unknown"`
	Class     insight.Class `json:"class"`
	Reason    string        `json:"reason" doc:"The rule or header that decided the class; empty for a person."`
	Counted   bool          `json:"counted" doc:"It is in the numbers that are shown unless other classes are asked for."`
	Suspect   bool          `json:"suspect" doc:"One visitor hammered. A mark: it is counted like any other."`
	LinkID    string        `json:"link_id,omitempty"`
	Surface   string        `json:"surface"`
	Place     string        `json:"place"`
	Country   string        `json:"country"`
	Device    string        `json:"device"`
	Browser   string        `json:"browser"`
	OS        string        `json:"os"`
	Referrer  string        `json:"referrer_host"`
	Channel   string        `json:"channel"`
	UserAgent string        `json:"user_agent"`
}

func showEvent(e insight.Event) Event {
	out := Event{Name: e.Name(), Time: e.Time.UTC(), Kind: e.Kind, Class: e.Class, Reason: e.Reason, Counted: e.Class == insight.Person, Suspect: e.Suspect,
		Surface: e.Surface, Place: e.Place, Country: e.Country, Device: e.Device, Browser: e.Browser, OS: e.OS, Referrer: e.Referrer, Channel: e.Channel, UserAgent: e.UserAgent}
	if e.Link != 0 {
		out.LinkID = formatted(e.Link)
	}
	return out
}

// cursor says where a list of events goes on.
type cursor struct {
	Time      int64  `json:"t"` // microseconds
	Stream    uint64 `json:"s"`
	Partition uint32 `json:"p"`
	Sequence  uint64 `json:"q"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("BUG: a cursor cannot be written: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string) (*insight.Event, error) {
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	at := time.UnixMicro(c.Time).UTC()
	if err != nil || !within(at) {
		return nil, huma.Error422UnprocessableEntity("validation failed",
			&huma.ErrorDetail{Location: "query.after", Message: "use the next of the page before", Value: s})
	}
	return &insight.Event{Time: at, Stream: c.Stream, Partition: c.Partition, Sequence: c.Sequence}, nil
}

func (a *API) registerEvents() {
	type input struct {
		IDPath
		RangeQuery
		Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
		After string `query:"after" maxLength:"200" doc:"The next of the page before; absent: from the latest."`
	}
	type eventList struct {
		Items []Event `json:"items" nullable:"false" doc:"The latest first."`
		Next  *string `json:"next,omitempty" doc:"Send it as after to get the next page. Absent: this is the last."`
	}
	register(a, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/profiles/{id}/events",
		Summary:     "List single views and clicks, with the reason of those that are not counted",
		Description: "Without classes: those that are left out of the numbers. Single events are deleted after a while.",
		Tags:        []string{"insights"}, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *input) (*body[eventList], error) {
		p, err := a.seen(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		ask, _, err := in.ask(p, a.now())
		if err != nil {
			return nil, err
		}
		if len(in.Classes) == 0 {
			ask.Classes = nil
			for _, c := range insight.Classes() {
				if c != insight.Person {
					ask.Classes = append(ask.Classes, c)
				}
			}
		}
		var before *insight.Event
		if in.After != "" {
			if before, err = parseCursor(in.After); err != nil {
				return nil, err
			}
		}
		events, err := a.reader.List(ctx, insight.Question{Profile: p.ID, From: ask.From, To: ask.To, Filters: ask.Filters}, ask.Classes, before, in.Limit+1)
		if err != nil {
			return nil, err
		}
		out := body[eventList]{eventList{Items: []Event{}}}
		if len(events) > in.Limit {
			events = events[:in.Limit]
			last := events[in.Limit-1]
			next := cursor{last.Time.UnixMicro(), last.Stream, last.Partition, last.Sequence}.String()
			out.Body.Next = &next
		}
		for _, e := range events {
			out.Body.Items = append(out.Body.Items, showEvent(e))
		}
		return &out, nil
	})
}
