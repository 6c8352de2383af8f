package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/profile"
)

// watchOperation is the one operation that does not end by itself.
const watchOperation = "watch-insights"

// LiveNumbers is what an event stream says whenever the numbers change. They are absolute: whoever missed one has missed nothing.
type LiveNumbers struct {
	Lifetime        Numbers            `json:"lifetime"`
	ByClass         map[string]Numbers `json:"by_class"`
	Links           []LiveLink         `json:"links" nullable:"false"`
	CompleteThrough *time.Time         `json:"complete_through"`
}

// LiveLink is a link's lifetime clicks.
type LiveLink struct {
	ID     string `json:"id"`
	Clicks int64  `json:"clicks"`
}

// heartbeat keeps connections through proxies open and finds out who has left.
const heartbeat = 15 * time.Second

func (a *API) registerLive() {
	type input struct {
		IDPath
		Classes     []string `query:"classes" enum:"unknown,person,bot,preview,prefetch,head,scanner,owner,test" doc:"What to count. Default: person."`
		LastEventID string   `header:"Last-Event-ID" maxLength:"40" doc:"Sent by browsers when they come back: what they have seen is not sent again."`
	}
	schema := a.huma.OpenAPI().Components.Schemas
	_ = schema.Schema(typeOf[LiveNumbers](), true, "LiveNumbers")
	registerSeen(a, huma.Operation{
		OperationID: watchOperation, Method: http.MethodGet, Path: "/v1/profiles/{id}/live",
		Summary: "Watch a profile's numbers",
		Description: "Server-sent events. 'numbers' carries LiveNumbers and an id, at once and within two seconds of each change; 'through' a new complete_through; " +
			"'visits' the latest events (token scope read), newest first, each with its name: show each name once.",
		Tags: []string{"insights"}, Security: needs(account.Insights), Errors: []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {Description: "An event stream", Content: map[string]*huma.MediaType{
			"text/event-stream": {}}}}, // OpenAPI 3.1 has no words for what an event holds; the description has
	}, func(ctx context.Context, p profile.Profile, in *input) (*huma.StreamResponse, error) {
		classes := []insight.Class{insight.Person}
		if len(in.Classes) > 0 {
			classes = nil
			for _, c := range in.Classes {
				if class := insight.Class(c); !slices.Contains(classes, class) {
					classes = append(classes, class)
				}
			}
		}
		states, stop, err := a.hub.Watch(p.ID)
		if err != nil {
			return nil, err
		}
		single := who(ctx).May(account.Read)
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			defer stop()
			r, w := humago.Unwrap(ctx)
			ctx.SetHeader("Content-Type", "text/event-stream")
			ctx.SetHeader("Cache-Control", "no-store")
			ctx.SetHeader("X-Accel-Buffering", "no")
			ctx.SetStatus(http.StatusOK)
			s := stream{w: w, control: http.NewResponseController(w), last: in.LastEventID, classes: classes, single: single}
			s.run(r.Context(), states, a.stopping)
		}}, nil
	})
}

// stream writes one reader's events.
type stream struct {
	w       io.Writer
	control *http.ResponseController
	last    string // id of the last numbers that the reader has
	classes []insight.Class
	single  bool
	through time.Time
	newest  string // name of the newest event that the reader has
}

func (s *stream) run(ctx context.Context, states <-chan *live.State, stopping <-chan struct{}) {
	if s.send("retry: 1000\n\n") != nil {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case state := <-states:
			err = s.tell(state)
		case <-beat.C:
			err = s.send(": still here\n\n")
		case <-ctx.Done():
			return
		case <-stopping:
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) tell(state *live.State) error {
	if id := strconv.FormatInt(state.ID, 10); id != s.last {
		var counted insight.Counts
		n := LiveNumbers{ByClass: map[string]Numbers{}, Links: []LiveLink{}, CompleteThrough: state.Through}
		for class, c := range state.ByClass {
			n.ByClass[string(class)] = showNumbers(c)
			if slices.Contains(s.classes, class) {
				counted.Add(c)
			}
		}
		n.Lifetime = showNumbers(counted)
		for link, by := range state.Clicks {
			var clicks int64
			for class, c := range by {
				if slices.Contains(s.classes, class) {
					clicks += c
				}
			}
			n.Links = append(n.Links, LiveLink{formatted(link), clicks})
		}
		slices.SortFunc(n.Links, func(x, y LiveLink) int { return int(y.Clicks - x.Clicks) })
		if err := s.event("numbers", id, n); err != nil {
			return err
		}
		s.last = id
	}
	if t := state.Through; t != nil && !t.Equal(s.through) {
		s.through = *t
		if err := s.event("through", "", map[string]time.Time{"complete_through": *t}); err != nil {
			return err
		}
	}
	if s.single && len(state.Events) > 0 && state.Events[0].Name() != s.newest {
		s.newest = state.Events[0].Name()
		shown := make([]Event, len(state.Events))
		for i, e := range state.Events {
			shown[i] = showEvent(e)
		}
		return s.event("visits", "", shown)
	}
	return nil
}

func (s *stream) event(name, id string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("write event %s: %w", name, err)
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return s.send("event: " + name + "\n" + id + "data: " + string(b) + "\n\n")
}

// send writes and flushes. A reader that takes nothing must not hold its place for ever.
func (s *stream) send(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(s.w, text); err != nil {
		return err
	}
	return s.control.Flush()
}
