package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/share"
)

// Share is an address under which anybody may see one profile's numbers.
type Share struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// NewShare is a share at the one moment at which its secret is known.
type NewShare struct {
	Share
	Secret string `json:"token" doc:"A bearer token of scope insights for this profile. It is shown only now."`
	Path   string `json:"path" doc:"Where the dashboard shows the numbers to whoever has this address."`
}

// NewShareRequest is what a share is made from.
type NewShareRequest struct {
	Name      string     `json:"name" minLength:"1" maxLength:"100" doc:"Who it is for."`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"From when on it is refused. Absent: never."`
}

func showShare(s share.Share) Share {
	return Share{ID: formatted(s.ID), Name: s.Name, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt}
}

func (a *API) registerShares() {
	tags := []string{"shares"}
	type createInput struct {
		IDPath
		Body NewShareRequest
	}
	registerSeen(a, huma.Operation{
		OperationID: "create-share", Method: http.MethodPost, Path: "/v1/profiles/{id}/shares", DefaultStatus: http.StatusCreated,
		Summary: "Let others see a profile's numbers", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, p profile.Profile, in *createInput) (*body[NewShare], error) {
		name := strings.TrimSpace(in.Body.Name)
		if name == "" || !plain(name) {
			return nil, huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "body.name", Value: in.Body.Name, Message: "use one line of text"})
		}
		if e := in.Body.ExpiresAt; e != nil && (!e.After(a.now()) || e.Year() > 9999) {
			return nil, huma.Error422UnprocessableEntity("validation failed",
				&huma.ErrorDetail{Location: "body.expires_at", Message: "use a time that is still to come", Value: e})
		}
		made, secret, err := a.shares.Create(ctx, p.ID, name, in.Body.ExpiresAt)
		if err != nil {
			return nil, err
		}
		return &body[NewShare]{NewShare{Share: showShare(made), Secret: secret, Path: "/shared/" + secret}}, nil
	})

	type shareList struct {
		Items []Share `json:"items" nullable:"false"`
	}
	registerSeen(a, huma.Operation{
		OperationID: "list-shares", Method: http.MethodGet, Path: "/v1/profiles/{id}/shares",
		Summary: "List who may see a profile's numbers", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, _ *IDPath) (*body[shareList], error) {
		shares, err := a.shares.List(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		out := body[shareList]{shareList{Items: []Share{}}}
		for _, s := range shares {
			out.Body.Items = append(out.Body.Items, showShare(s))
		}
		return &out, nil
	})

	type deleteInput struct {
		IDPath
		Share string `path:"share" maxLength:"20" doc:"Decimal id of the share."`
	}
	registerSeen(a, huma.Operation{
		OperationID: "revoke-share", Method: http.MethodDelete, Path: "/v1/profiles/{id}/shares/{share}", DefaultStatus: http.StatusNoContent,
		Summary: "Revoke a share", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *deleteInput) (*struct{}, error) {
		id, err := number(in.Share)
		if err != nil {
			return nil, err
		}
		return nil, a.shares.Revoke(ctx, p.ID, id)
	})
}
