package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/profile"
)

// Profile as the API shows it.
type Profile struct {
	ID        string    `json:"id"`
	Handle    string    `json:"handle"`
	Title     string    `json:"title"`
	Bio       string    `json:"bio"`
	Timezone  string    `json:"timezone" doc:"IANA name. Says where the profile's day begins."`
	Theme     string    `json:"theme" enum:"auto,light,dark"`
	Layout    int32     `json:"layout" doc:"Version of the page, raised by each change that a visitor can see."`
	URL       string    `json:"url" doc:"Where visitors see it."`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// NewProfile is what a profile is made from.
type NewProfile struct {
	Handle   string  `json:"handle" minLength:"2" maxLength:"30" pattern:"^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?$" patternDescription:"lower-case letters, digits and _, with - or . between them" doc:"The page's address. Some words are reserved." example:"ada"`
	Title    string  `json:"title" minLength:"1" maxLength:"120" example:"Ada Lovelace"`
	Bio      *string `json:"bio,omitempty" maxLength:"1000"`
	Timezone *string `json:"timezone,omitempty" maxLength:"64" doc:"IANA name. Default UTC." example:"Europe/London"`
	Theme    *string `json:"theme,omitempty" enum:"auto,light,dark" doc:"Default auto."`
}

// ProfileChange is what to change in a profile; what is absent stays.
type ProfileChange struct {
	Handle   *string `json:"handle,omitempty" minLength:"2" maxLength:"30" pattern:"^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?$" patternDescription:"lower-case letters, digits and _, with - or . between them"`
	Title    *string `json:"title,omitempty" minLength:"1" maxLength:"120"`
	Bio      *string `json:"bio,omitempty" maxLength:"1000"`
	Timezone *string `json:"timezone,omitempty" maxLength:"64" doc:"IANA name. Counts from now on; days that are past stay as they were."`
	Theme    *string `json:"theme,omitempty" enum:"auto,light,dark"`
}

// page is an answer with one thing and its version.
type page[T any] struct {
	ETag string `header:"ETag" doc:"Version, for If-Match and If-None-Match."`
	Body T
}

// Match is embedded in the input of what changes something.
type Match struct {
	IfMatch string `header:"If-Match" doc:"Change it only if this is its version still (ETag)."`
}

// versions of an If-Match or If-None-Match header, without their quotes.
func versions(header string) []string {
	if strings.TrimSpace(header) == "" {
		return nil
	}
	var list []string
	for _, v := range strings.Split(header, ",") {
		list = append(list, strings.Trim(strings.TrimPrefix(strings.TrimSpace(v), "W/"), `"`))
	}
	return list
}

// NoneMatch is embedded in the input of what reads one thing.
type NoneMatch struct {
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 if this is its version still (ETag)."`
}

func (h NoneMatch) unchanged(version string) error {
	for _, v := range versions(h.IfNoneMatch) {
		if v == version || v == "*" {
			return huma.ErrorWithHeaders(huma.Status304NotModified(), http.Header{"Etag": {quoted(version)}})
		}
	}
	return nil
}

func quoted(version string) string { return `"` + version + `"` }

func (a *API) showProfile(p profile.Profile) Profile {
	return Profile{ID: formatted(p.ID), Handle: p.Handle, Title: p.Title, Bio: p.Bio, Timezone: p.Timezone, Theme: p.Theme, Layout: p.Layout,
		URL: a.public + "/" + p.Handle, CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC()}
}

func (a *API) profilePage(p profile.Profile) *page[Profile] {
	return &page[Profile]{ETag: quoted(p.Version()), Body: a.showProfile(p)}
}

func (a *API) registerProfiles() {
	tags := []string{"profiles"}
	register(a, huma.Operation{
		OperationID: "create-profile", Method: http.MethodPost, Path: "/v1/profiles", DefaultStatus: http.StatusCreated,
		Summary: "Make a profile", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *body[NewProfile]) (*page[Profile], error) {
		p, err := a.profiles.Create(ctx, who(ctx).AccountID, profile.Change{
			Handle: &in.Body.Handle, Title: &in.Body.Title, Bio: in.Body.Bio, Timezone: in.Body.Timezone, Theme: in.Body.Theme})
		if err != nil {
			return nil, err
		}
		return a.profilePage(p), nil
	})

	type listInput struct {
		Limit int    `query:"limit" minimum:"1" maximum:"100" default:"50"`
		After string `query:"after" maxLength:"20" doc:"The next of the page before; absent: from the beginning."`
	}
	type list struct {
		Items []Profile `json:"items" nullable:"false"`
		Next  *string   `json:"next,omitempty" doc:"Send it as after to get the next page. Absent: this is the last."`
	}
	register(a, huma.Operation{
		OperationID: "list-profiles", Method: http.MethodGet, Path: "/v1/profiles",
		Summary: "List the account's profiles", Tags: tags, Security: needs(account.Read),
	}, func(ctx context.Context, in *listInput) (*body[list], error) {
		after, err := after(in.After)
		if err != nil {
			return nil, err
		}
		profiles, err := a.profiles.List(ctx, who(ctx).AccountID, after, in.Limit+1)
		if err != nil {
			return nil, err
		}
		out := body[list]{list{Items: []Profile{}}}
		profiles, out.Body.Next = cut(profiles, in.Limit, func(p profile.Profile) string { return formatted(p.ID) })
		for _, p := range profiles {
			out.Body.Items = append(out.Body.Items, a.showProfile(p))
		}
		return &out, nil
	})

	type getInput struct {
		IDPath
		NoneMatch
	}
	registerOwn(a, huma.Operation{
		OperationID: "get-profile", Method: http.MethodGet, Path: "/v1/profiles/{id}",
		Summary: "Read a profile", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound, http.StatusNotModified},
	}, func(ctx context.Context, of owned, in *getInput) (*page[Profile], error) {
		p, err := a.profiles.Get(ctx, of.account, of.profile)
		if err != nil {
			return nil, err
		}
		if err := in.unchanged(p.Version()); err != nil {
			return nil, err
		}
		return a.profilePage(p), nil
	})

	type patchInput struct {
		IDPath
		Match
		Body ProfileChange
	}
	registerOwn(a, huma.Operation{
		OperationID: "change-profile", Method: http.MethodPatch, Path: "/v1/profiles/{id}",
		Summary: "Change a profile", Tags: tags, Security: needs(account.Write),
		Errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed},
	}, func(ctx context.Context, of owned, in *patchInput) (*page[Profile], error) {
		p, err := a.profiles.Update(ctx, of.account, of.profile, profile.Change(in.Body), versions(in.IfMatch))
		if err != nil {
			return nil, err
		}
		return a.profilePage(p), nil
	})

	type deleteInput struct {
		IDPath
		Match
	}
	registerOwn(a, huma.Operation{
		OperationID: "delete-profile", Method: http.MethodDelete, Path: "/v1/profiles/{id}", DefaultStatus: http.StatusNoContent,
		Summary: "Delete a profile and its links", Description: "The handle can be had again. The links' codes are never given to anybody else.",
		Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound, http.StatusPreconditionFailed},
	}, func(ctx context.Context, of owned, in *deleteInput) (*struct{}, error) {
		return nil, a.profiles.Delete(ctx, of.account, of.profile, versions(in.IfMatch))
	})
}
