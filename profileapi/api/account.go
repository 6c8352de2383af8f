package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
)

// Token as the API shows it.
type Token struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Scopes    []account.Scope `json:"scopes" nullable:"false"`
	CreatedAt time.Time       `json:"created_at"`
	ExpiresAt *time.Time      `json:"expires_at,omitempty"`
}

// NewToken is a token at the one moment at which its secret is known.
type NewToken struct {
	Token
	Secret string `json:"token" doc:"The bearer token. It is shown only now."`
}

// NewTokenRequest is what a token is made from.
type NewTokenRequest struct {
	Name   string          `json:"name" minLength:"1" maxLength:"100" doc:"What it is for."`
	Scopes []account.Scope `json:"scopes" minItems:"1" maxItems:"4" nullable:"false" enum:"insights,read,write,admin"`
	// ExpiresAt is the time from which on it is refused.
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"From when on it is refused. Absent: never."`
}

// NewAccountRequest is what an account is made from.
type NewAccountRequest struct {
	Email string `json:"email" format:"email" maxLength:"254"`
}

// NewAccount is an account with its first token.
type NewAccount struct {
	ID     string `json:"id"`
	Email  string `json:"email"`
	Secret string `json:"token" doc:"A first bearer token, of scope admin. It is shown only now."`
}

// body is the input or output of an operation that has only a body.
type body[T any] struct{ Body T }

// IDPath is embedded in the input of what is about one thing.
type IDPath struct {
	ID string `path:"id" maxLength:"20" doc:"Decimal id."`
}

func (p IDPath) profileID() string { return p.ID }

// after reads where a list goes on; empty: at its beginning.
func after(next string) (int64, error) {
	if next == "" {
		return 0, nil
	}
	id, err := number(next)
	if err != nil {
		return 0, huma.Error422UnprocessableEntity("validation failed",
			&huma.ErrorDetail{Location: "query.after", Message: "use the next of the page before", Value: next})
	}
	return id, nil
}

// number reads a decimal id; what is none belongs to nothing, so the answer is 404.
func number(id string) (int64, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return 0, huma.Error404NotFound("your account has no such thing")
	}
	return n, nil
}

func formatted(id int64) string { return strconv.FormatInt(id, 10) }

func showToken(t account.Token) Token {
	return Token{ID: formatted(t.ID), Name: t.Name, Scopes: t.Scopes, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: t.ExpiresAt}
}

func (a *API) registerAccounts() {
	register(a, huma.Operation{
		OperationID: "create-account", Method: http.MethodPost, Path: "/v1/accounts", DefaultStatus: http.StatusCreated,
		Summary: "Make an account", Description: "Only for the operator's tokens of scope admin.",
		Tags: []string{"accounts"}, Security: needs(account.Admin), Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *body[NewAccountRequest]) (*body[NewAccount], error) {
		if !who(ctx).Operator {
			return nil, huma.Error403Forbidden("only the operator may make accounts")
		}
		id, secret, err := a.accounts.CreateAccount(ctx, in.Body.Email)
		if err != nil {
			return nil, err
		}
		return &body[NewAccount]{NewAccount{ID: formatted(id), Email: in.Body.Email, Secret: secret}}, nil
	})

	register(a, huma.Operation{
		OperationID: "create-token", Method: http.MethodPost, Path: "/v1/tokens", DefaultStatus: http.StatusCreated,
		Summary: "Make a token", Tags: []string{"tokens"}, Security: needs(account.Admin),
	}, func(ctx context.Context, in *body[NewTokenRequest]) (*body[NewToken], error) {
		if e := in.Body.ExpiresAt; e != nil && !e.After(a.now()) {
			return nil, huma.Error422UnprocessableEntity("validation failed",
				&huma.ErrorDetail{Location: "body.expires_at", Message: "use a time that is still to come", Value: e})
		}
		t, secret, err := a.accounts.Create(ctx, who(ctx).AccountID, in.Body.Name, in.Body.Scopes, in.Body.ExpiresAt)
		if err != nil {
			return nil, err
		}
		return &body[NewToken]{NewToken{Token: showToken(t), Secret: secret}}, nil
	})

	type tokens struct {
		Items []Token `json:"items" nullable:"false"`
	}
	register(a, huma.Operation{
		OperationID: "list-tokens", Method: http.MethodGet, Path: "/v1/tokens",
		Summary: "List the account's tokens", Tags: []string{"tokens"}, Security: needs(account.Admin),
	}, func(ctx context.Context, _ *struct{}) (*body[tokens], error) {
		list, err := a.accounts.List(ctx, who(ctx).AccountID)
		if err != nil {
			return nil, err
		}
		out := body[tokens]{tokens{Items: make([]Token, len(list))}}
		for i, t := range list {
			out.Body.Items[i] = showToken(t)
		}
		return &out, nil
	})

	register(a, huma.Operation{
		OperationID: "revoke-token", Method: http.MethodDelete, Path: "/v1/tokens/{id}", DefaultStatus: http.StatusNoContent,
		Summary: "Revoke a token", Tags: []string{"tokens"}, Security: needs(account.Admin), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *IDPath) (*struct{}, error) {
		id, err := number(in.ID)
		if err != nil {
			return nil, err
		}
		return nil, a.accounts.Revoke(ctx, who(ctx).AccountID, id)
	})
}
