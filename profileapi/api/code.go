package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/qrcode"
)

// CodeQuery is embedded in the input of what draws a QR code.
type CodeQuery struct {
	Format string `query:"format" enum:"svg,png" default:"svg"`
	Size   int    `query:"size" minimum:"64" maximum:"4096" default:"1024" doc:"Greatest width of the PNG, in pixels."`
}

func (a *API) registerCodes() {
	image := map[string]*huma.Response{"200": {Description: "The code", Content: map[string]*huma.MediaType{
		"image/svg+xml": {Schema: &huma.Schema{Type: huma.TypeString}}, "image/png": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}}
	draw := func(q CodeQuery, text, name string) (*file, error) {
		code, err := qrcode.New(text)
		if err != nil {
			return nil, err
		}
		if q.Format == "png" {
			b, err := code.PNG(q.Size)
			return &file{"image/png", fmt.Sprintf(`inline; filename="%s.png"`, name), b}, err
		}
		return &file{"image/svg+xml", fmt.Sprintf(`inline; filename="%s.svg"`, name), code.SVG()}, nil
	}
	type linkInput struct {
		LinkPath
		CodeQuery
	}
	registerLink(a, huma.Operation{
		OperationID: "get-link-code", Method: http.MethodGet, Path: "/v1/profiles/{id}/links/{link}/qr",
		Summary: "Draw a link's QR code", Description: "Scans count as clicks of surface qr.", Tags: []string{"links"}, Security: needs(account.Read),
		Errors: []int{http.StatusNotFound}, Responses: image,
	}, func(ctx context.Context, of owned, link int64, in *linkInput) (*file, error) {
		l, err := a.profiles.Link(ctx, of.account, of.profile, link)
		if err != nil {
			return nil, err
		}
		return draw(in.CodeQuery, a.public+"/q/"+l.Code, "link-"+l.Code)
	})

	type pageInput struct {
		IDPath
		CodeQuery
	}
	registerSeen(a, huma.Operation{
		OperationID: "get-profile-code", Method: http.MethodGet, Path: "/v1/profiles/{id}/qr",
		Summary: "Draw a profile's QR code", Description: "Scans count as views of surface qr.", Tags: []string{"profiles"}, Security: needs(account.Read),
		Errors: []int{http.StatusNotFound}, Responses: image,
	}, func(_ context.Context, p profile.Profile, in *pageInput) (*file, error) {
		return draw(in.CodeQuery, a.public+"/"+p.Handle+"?sw_qr=1", p.Handle)
	})
}
