package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/graph"
)

// GraphQuery is a GraphQL request (GraphQL over HTTP).
type GraphQuery struct {
	Query     string         `json:"query" minLength:"1" maxLength:"8192" doc:"At most 8 deep, 200 fields, and insights five times."`
	Operation string         `json:"operationName,omitempty" maxLength:"200"`
	Variables map[string]any `json:"variables,omitempty"`
}

func (a *API) registerGraph() error {
	g, err := graph.New(a.profiles, a.reader, a.patience, a.log, a.now)
	if err != nil {
		return err
	}
	type answer struct {
		Status      int
		ContentType string `header:"Content-Type"`
		Body        []byte
	}
	result := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
		"data": {}, "errors": {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject}}}}
	register(a, huma.Operation{
		OperationID: "query-graph", Method: http.MethodPost, Path: "/v1/graphql",
		Summary: "Read what a page needs in one request, by GraphQL", Description: "The schema is in the document's extension x-graphql-schema, and can be asked for by introspection.",
		Tags: []string{"insights"}, Security: needs(account.Insights), Extensions: map[string]any{"x-graphql-schema": g.Schema()},
		Responses: map[string]*huma.Response{
			"200": {Description: "The answer; what could not be had is in errors", Content: map[string]*huma.MediaType{"application/graphql-response+json": {Schema: result}}},
		},
	}, func(ctx context.Context, in *body[GraphQuery]) (*answer, error) {
		status, b, err := g.Answer(ctx, who(ctx), in.Body.Query, in.Body.Operation, in.Body.Variables)
		if err != nil {
			return nil, err
		}
		return &answer{status, "application/graphql-response+json", b}, nil
	})
	// A query that cannot be read is answered as GraphQL says, a body that cannot be read as everywhere else.
	a.huma.OpenAPI().Paths["/v1/graphql"].Post.Responses["400"].Content["application/graphql-response+json"] = &huma.MediaType{Schema: result}
	return nil
}
