package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/profile"
)

// UTM are campaign parameters that the redirect writes into the target; an empty one is not written.
type UTM struct {
	Source   string `json:"source,omitempty" maxLength:"150"`
	Medium   string `json:"medium,omitempty" maxLength:"150"`
	Campaign string `json:"campaign,omitempty" maxLength:"150"`
	Term     string `json:"term,omitempty" maxLength:"150"`
	Content  string `json:"content,omitempty" maxLength:"150"`
}

// Link as the API shows it.
type Link struct {
	ID        string    `json:"id"`
	ProfileID string    `json:"profile_id"`
	Code      string    `json:"code" doc:"What is in the tracked address. Never given away again."`
	Title     string    `json:"title"`
	URL       string    `json:"url" doc:"The target."`
	Tracked   string    `json:"tracked_url" doc:"The address that counts and redirects."`
	Position  int32     `json:"position" doc:"Place on the page, from 0."`
	Hidden    bool      `json:"hidden" doc:"Not on the page; the tracked address still works."`
	QueryMode string    `json:"query_mode" enum:"off,append,override"`
	UTM       UTM       `json:"utm"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// NewLink is what a link is made from.
type NewLink struct {
	Title     string  `json:"title" minLength:"1" maxLength:"120"`
	URL       string  `json:"url" minLength:"1" maxLength:"2048" doc:"The target: http or https." example:"https://example.org/shop"`
	Hidden    *bool   `json:"hidden,omitempty"`
	QueryMode *string `json:"query_mode,omitempty" enum:"off,append,override" doc:"What becomes of the visitor's own query string: dropped, added where the target has no such parameter, or replacing it. Default off."`
	UTM       *UTM    `json:"utm,omitempty"`
}

// LinkChange is what to change in a link; what is absent stays. utm is replaced as a whole.
type LinkChange struct {
	Title     *string `json:"title,omitempty" minLength:"1" maxLength:"120"`
	URL       *string `json:"url,omitempty" minLength:"1" maxLength:"2048"`
	Hidden    *bool   `json:"hidden,omitempty"`
	QueryMode *string `json:"query_mode,omitempty" enum:"off,append,override"`
	UTM       *UTM    `json:"utm,omitempty"`
}

// LinkOrder names all links of a profile in the order of the page.
type LinkOrder struct {
	Links []string `json:"links" maxItems:"500" nullable:"false" doc:"The id of each link of the profile, once."`
}

// Links is all of a profile's links in the order of the page.
type Links struct {
	Items []Link `json:"items" nullable:"false"`
}

// LinkPath is embedded in the input of what is about one link.
type LinkPath struct {
	IDPath
	Link string `path:"link" maxLength:"20" doc:"Decimal id of the link."`
}

func (p LinkPath) linkID() string { return p.Link }

func (a *API) showLink(l profile.Link) Link {
	return Link{ID: formatted(l.ID), ProfileID: formatted(l.ProfileID), Code: l.Code, Title: l.Title, URL: l.URL, Tracked: a.public + "/l/" + l.Code,
		Position: l.Position, Hidden: l.Hidden, QueryMode: l.QueryMode, UTM: UTM(l.UTM), CreatedAt: l.CreatedAt.UTC(), UpdatedAt: l.UpdatedAt.UTC()}
}

func (a *API) linkPage(l profile.Link) *page[Link] {
	return &page[Link]{ETag: quoted(l.Version()), Body: a.showLink(l)}
}

func (a *API) showLinks(links []profile.Link) *body[Links] {
	out := body[Links]{Links{Items: make([]Link, len(links))}}
	for i, l := range links {
		out.Body.Items[i] = a.showLink(l)
	}
	return &out
}

func (a *API) registerLinks() {
	tags := []string{"links"}
	type createInput struct {
		IDPath
		Body NewLink
	}
	registerOwn(a, huma.Operation{
		OperationID: "create-link", Method: http.MethodPost, Path: "/v1/profiles/{id}/links", DefaultStatus: http.StatusCreated,
		Summary: "Add a link at the end of the page", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, of owned, in *createInput) (*page[Link], error) {
		l, err := a.profiles.CreateLink(ctx, of.account, of.profile, profile.LinkChange{
			Title: &in.Body.Title, URL: &in.Body.URL, Hidden: in.Body.Hidden, QueryMode: in.Body.QueryMode, UTM: (*profile.UTM)(in.Body.UTM)})
		if err != nil {
			return nil, err
		}
		return a.linkPage(l), nil
	})

	registerOwn(a, huma.Operation{
		OperationID: "list-links", Method: http.MethodGet, Path: "/v1/profiles/{id}/links",
		Summary: "List a profile's links", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, of owned, in *IDPath) (*body[Links], error) {
		links, err := a.profiles.Links(ctx, of.account, of.profile)
		if err != nil {
			return nil, err
		}
		return a.showLinks(links), nil
	})

	type orderInput struct {
		IDPath
		Body LinkOrder
	}
	registerOwn(a, huma.Operation{
		OperationID: "order-links", Method: http.MethodPut, Path: "/v1/profiles/{id}/links/order",
		Summary: "Put a profile's links in order", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, of owned, in *orderInput) (*body[Links], error) {
		order := make([]int64, len(in.Body.Links))
		for i, l := range in.Body.Links {
			var err error
			if order[i], err = number(l); err != nil {
				return nil, &profile.Invalid{Field: "links", Value: l, Message: "name each link of the profile once"}
			}
		}
		links, err := a.profiles.Reorder(ctx, of.account, of.profile, order)
		if err != nil {
			return nil, err
		}
		return a.showLinks(links), nil
	})

	type getInput struct {
		LinkPath
		NoneMatch
	}
	registerLink(a, huma.Operation{
		OperationID: "get-link", Method: http.MethodGet, Path: "/v1/profiles/{id}/links/{link}",
		Summary: "Read a link", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound, http.StatusNotModified},
	}, func(ctx context.Context, of owned, link int64, in *getInput) (*page[Link], error) {
		l, err := a.profiles.Link(ctx, of.account, of.profile, link)
		if err != nil {
			return nil, err
		}
		if err := in.unchanged(l.Version()); err != nil {
			return nil, err
		}
		return a.linkPage(l), nil
	})

	type patchInput struct {
		LinkPath
		Match
		Body LinkChange
	}
	registerLink(a, huma.Operation{
		OperationID: "change-link", Method: http.MethodPatch, Path: "/v1/profiles/{id}/links/{link}",
		Summary: "Change a link", Description: "The redirect follows within a second.", Tags: tags, Security: needs(account.Write),
		Errors: []int{http.StatusNotFound, http.StatusPreconditionFailed},
	}, func(ctx context.Context, of owned, link int64, in *patchInput) (*page[Link], error) {
		l, err := a.profiles.UpdateLink(ctx, of.account, of.profile, link, profile.LinkChange{
			Title: in.Body.Title, URL: in.Body.URL, Hidden: in.Body.Hidden, QueryMode: in.Body.QueryMode, UTM: (*profile.UTM)(in.Body.UTM)},
			versions(in.IfMatch))
		if err != nil {
			return nil, err
		}
		return a.linkPage(l), nil
	})

	type deleteInput struct {
		LinkPath
		Match
	}
	registerLink(a, huma.Operation{
		OperationID: "delete-link", Method: http.MethodDelete, Path: "/v1/profiles/{id}/links/{link}", DefaultStatus: http.StatusNoContent,
		Summary: "Delete a link", Description: "Its code is never given away again, and its numbers are kept.", Tags: tags, Security: needs(account.Write),
		Errors: []int{http.StatusNotFound, http.StatusPreconditionFailed},
	}, func(ctx context.Context, of owned, link int64, in *deleteInput) (*struct{}, error) {
		return nil, a.profiles.DeleteLink(ctx, of.account, of.profile, link, versions(in.IfMatch))
	})
}
