package api

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/profile"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// Annotation is a note beside the numbers.
type Annotation struct {
	ID     string     `json:"id"`
	Time   time.Time  `json:"time"`
	Until  *time.Time `json:"until,omitempty" doc:"Its end, if it lasted and is over."`
	Kind   string     `json:"kind" doc:"note: written by hand. Otherwise what changed the numbers: link-added, link-removed, link-target, link-title, link-hidden, link-shown, timezone, handle, rules (other rules decide what is counted), gap (events are missing)."`
	LinkID string     `json:"link_id,omitempty"`
	Text   string     `json:"text"`
}

// NewAnnotation is what a note is made from.
type NewAnnotation struct {
	Time   *time.Time `json:"time,omitempty" doc:"What it is about. Default: now."`
	LinkID string     `json:"link_id,omitempty" maxLength:"20"`
	Text   string     `json:"text" minLength:"1" maxLength:"500"`
}

func showAnnotation(n annotation.Annotation) Annotation {
	out := Annotation{ID: formatted(n.ID), Time: n.At.UTC(), Until: utc(n.Until), Kind: n.Kind, Text: n.Sentence()}
	if n.Link != nil {
		out.LinkID = formatted(*n.Link)
	}
	return out
}

// plain says whether a text has no control characters.
func plain(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

func (a *API) registerAnnotations() {
	tags := []string{"annotations"}
	type createInput struct {
		IDPath
		Body NewAnnotation
	}
	registerSeen(a, huma.Operation{
		OperationID: "create-annotation", Method: http.MethodPost, Path: "/v1/profiles/{id}/annotations", DefaultStatus: http.StatusCreated,
		Summary: "Write a note beside the numbers", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *createInput) (*body[Annotation], error) {
		at := a.now()
		if in.Body.Time != nil {
			at = *in.Body.Time
		}
		text := strings.TrimSpace(in.Body.Text)
		if text == "" || !plain(text) || !within(at) {
			return nil, huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "body.text", Value: in.Body.Text,
				Message: "use one line of text, and a time between 2000 and 2100"})
		}
		var link *int64
		if in.Body.LinkID != "" {
			id, err := number(in.Body.LinkID)
			if err != nil {
				return nil, err
			}
			link = &id
		}
		n, err := a.annotations.Create(ctx, p.ID, at, link, text)
		if err != nil {
			return nil, err
		}
		return &body[Annotation]{showAnnotation(n)}, nil
	})

	type listInput struct {
		IDPath
		From  time.Time `query:"from" doc:"Default: from the beginning."`
		To    time.Time `query:"to" doc:"Default: no end."`
		Limit int       `query:"limit" minimum:"1" maximum:"200" default:"100"`
		After string    `query:"after" maxLength:"20" doc:"The next of the page before."`
	}
	type annotationList struct {
		Items []Annotation `json:"items" nullable:"false" doc:"The latest first."`
		Next  *string      `json:"next,omitempty" doc:"Send it as after to get the next page. Absent: this is the last."`
	}
	registerSeen(a, huma.Operation{
		OperationID: "list-annotations", Method: http.MethodGet, Path: "/v1/profiles/{id}/annotations",
		Summary: "List notes, written by hand and by changes", Tags: tags, Security: needs(account.Insights), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *listInput) (*body[annotationList], error) {
		to := in.To
		if to.IsZero() {
			to = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if in.From.Year() > 9999 || to.Year() > 9999 || in.From.Year() < 0 || to.Year() < 0 {
			return nil, huma.Error422UnprocessableEntity("use times between the years 0 and 9999")
		}
		before, err := after(in.After)
		if err != nil {
			return nil, err
		}
		notes, err := a.annotations.List(ctx, p.ID, in.From, to, before, in.Limit+1)
		if err != nil {
			return nil, err
		}
		out := body[annotationList]{annotationList{Items: []Annotation{}}}
		notes, out.Body.Next = cut(notes, in.Limit, func(n annotation.Annotation) string { return formatted(n.ID) })
		for _, n := range notes {
			out.Body.Items = append(out.Body.Items, showAnnotation(n))
		}
		return &out, nil
	})

	type deleteInput struct {
		IDPath
		Annotation string `path:"annotation" maxLength:"20" doc:"Decimal id of the note."`
	}
	registerSeen(a, huma.Operation{
		OperationID: "delete-annotation", Method: http.MethodDelete, Path: "/v1/profiles/{id}/annotations/{annotation}", DefaultStatus: http.StatusNoContent,
		Summary: "Delete a note that was written by hand", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *deleteInput) (*struct{}, error) {
		id, err := number(in.Annotation)
		if err != nil {
			return nil, err
		}
		return nil, a.annotations.Delete(ctx, p.ID, id)
	})
}
