package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/profile"
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

func parseCursor(s string) (*insight.Event, error) {
	e, err := insight.ParseCursor(s)
	if err != nil || e != nil && !within(e.Time) {
		return nil, huma.Error422UnprocessableEntity("validation failed",
			&huma.ErrorDetail{Location: "query.after", Message: "use the next of the page before", Value: s})
	}
	return e, nil
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
	registerSeen(a, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/profiles/{id}/events",
		Summary:     "List single views and clicks, with the reason of those that are not counted",
		Description: "Without classes: those that are left out of the numbers. Single events are deleted after a while.",
		Tags:        []string{"insights"}, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *input) (*body[eventList], error) {
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
		before, err := parseCursor(in.After)
		if err != nil {
			return nil, err
		}
		events, err := a.reader.List(ctx, insight.Question{Profile: p.ID, From: ask.From, To: ask.To, Filters: ask.Filters}, ask.Classes, before, in.Limit+1)
		if err != nil {
			return nil, err
		}
		out := body[eventList]{eventList{Items: []Event{}}}
		events, out.Body.Next = cut(events, in.Limit, insight.Event.Cursor)
		for _, e := range events {
			out.Body.Items = append(out.Body.Items, showEvent(e))
		}
		return &out, nil
	})
}
