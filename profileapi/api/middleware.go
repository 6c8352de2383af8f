package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/annotation"
	"spillway.dev/profileapi/insight"
	"spillway.dev/profileapi/live"
	"spillway.dev/profileapi/profile"
	"spillway.dev/profileapi/share"
)

const (
	// maxBody is the largest request body, in bytes: 500 ids, or the longest link many times over.
	maxBody = 64 << 10
	// requestTime is how long an operation may take before it is given up.
	requestTime = 15 * time.Second
)

// measure counts and times each operation.
func (a *API) measure(ctx huma.Context, next func(huma.Context)) {
	began := time.Now()
	next(ctx)
	operation := ctx.Operation().OperationID
	a.duration.WithLabelValues(operation).Observe(time.Since(began).Seconds())
	a.requests.WithLabelValues(operation, statusClass(ctx.Status())).Inc()
}

// bound limits how long an operation takes and says that its answer is for one reader only.
func (a *API) bound(ctx huma.Context, next func(huma.Context)) {
	ctx.SetHeader("Cache-Control", "private, no-cache")
	if ctx.Operation().OperationID == watchOperation {
		next(ctx)
		return
	}
	limited, cancel := context.WithTimeout(ctx.Context(), requestTime)
	defer cancel()
	next(huma.WithContext(ctx, limited))
}

type identityKey struct{}

// who returns the identity that authenticate found.
func who(ctx context.Context) account.Identity {
	identity, ok := ctx.Value(identityKey{}).(account.Identity)
	if !ok {
		panic("BUG: an operation without authentication asked who is asking")
	}
	return identity
}

// needs is an operation's security: a token with the scope.
func needs(scope account.Scope) []map[string][]string {
	return []map[string][]string{{"token": {string(scope)}}}
}

// authenticate lets a request pass that has a token with the scope that its operation needs.
func (a *API) authenticate(ctx huma.Context, next func(huma.Context)) {
	security := ctx.Operation().Security
	if len(security) == 0 {
		panic("BUG: operation " + ctx.Operation().OperationID + " does not say who may use it")
	}
	refuse := func(status int, challenge, detail string) {
		ctx.SetHeader("WWW-Authenticate", `Bearer realm="spillway"`+challenge)
		huma.WriteErr(a.huma, ctx, status, detail)
	}
	var identity account.Identity
	var err error
	if scheme, secret, _ := strings.Cut(ctx.Header("Authorization"), " "); strings.EqualFold(scheme, "bearer") && secret != "" {
		identity, err = a.accounts.Authenticate(ctx.Context(), strings.TrimSpace(secret))
	} else if session := a.session(ctx); session != "" && scheme == "" {
		identity, err = a.accounts.Session(ctx.Context(), session)
	} else {
		refuse(http.StatusUnauthorized, "", "send a token: 'Authorization: Bearer sw_...'")
		return
	}
	switch {
	case errors.Is(err, account.ErrUnknownToken):
		refuse(http.StatusUnauthorized, `, error="invalid_token"`, "this token is unknown, expired or revoked")
		return
	case err != nil:
		failure := a.translate(ctx.Operation().OperationID, err)
		if headers, ok := failure.(huma.HeadersError); ok {
			for name, values := range headers.GetHeaders() {
				ctx.SetHeader(name, values[0])
			}
		}
		var status huma.StatusError
		errors.As(failure, &status)
		huma.WriteErr(a.huma, ctx, status.GetStatus(), status.Error())
		return
	}
	for _, scope := range security[0]["token"] {
		if !identity.May(account.Scope(scope)) {
			refuse(http.StatusForbidden, `, error="insufficient_scope", scope="`+scope+`"`, "this needs a token with scope "+scope)
			return
		}
	}
	next(huma.WithValue(ctx, identityKey{}, identity))
}

// session returns the session cookie of a request, or "".
func (a *API) session(ctx huma.Context) string {
	if a.cookie == "" {
		return ""
	}
	cookies, err := http.ParseCookie(ctx.Header("Cookie"))
	if err != nil {
		return ""
	}
	for _, c := range cookies {
		if c.Name == a.cookie {
			return c.Value
		}
	}
	return ""
}

// limit lets a request pass while its token has some of its quota left, and tells how much.
func (a *API) limit(ctx huma.Context, next func(huma.Context)) {
	if a.limiter == nil {
		next(ctx)
		return
	}
	d := a.limiter.Take(who(ctx.Context()).Key())
	d.Write(ctx.SetHeader)
	if !d.Allowed {
		huma.WriteErr(a.huma, ctx, http.StatusTooManyRequests, "this token has used its quota; Retry-After says when to try again")
		return
	}
	next(ctx)
}

// register adds an operation whose errors are translated.
func register[I, O any](a *API, operation huma.Operation, handler func(context.Context, *I) (*O, error)) {
	operation.MaxBodyBytes = maxBody
	operation.Errors = append(operation.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusServiceUnavailable)
	if operation.Method == http.MethodPost || operation.Method == http.MethodPatch || operation.Method == http.MethodPut {
		operation.Errors = append(operation.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	huma.Register(a.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, a.translate(operation.OperationID, err)
		}
		return out, nil
	})
}

// ofProfile is the input of what is about one profile.
type ofProfile[I any] interface {
	*I
	profileID() string
}

// registerSeen adds an operation about a profile that the caller may see; all others are told that there is none.
func registerSeen[I any, P ofProfile[I], O any](a *API, operation huma.Operation, handler func(context.Context, profile.Profile, P) (*O, error)) {
	register(a, operation, func(ctx context.Context, in *I) (*O, error) {
		p, err := a.seen(ctx, P(in).profileID())
		if err != nil {
			return nil, err
		}
		return handler(ctx, p, in)
	})
}

// owned says whose profile an operation is about.
type owned struct{ account, profile int64 }

// registerOwn adds an operation about a profile of the caller's account; whether there is one, the store says.
func registerOwn[I any, P ofProfile[I], O any](a *API, operation huma.Operation, handler func(context.Context, owned, P) (*O, error)) {
	register(a, operation, func(ctx context.Context, in *I) (*O, error) {
		id, err := number(P(in).profileID())
		if err != nil {
			return nil, err
		}
		return handler(ctx, owned{who(ctx).AccountID, id}, in)
	})
}

// ofLink is the input of what is about one link.
type ofLink[I any] interface {
	ofProfile[I]
	linkID() string
}

// registerLink adds an operation about a link of one of the caller's profiles.
func registerLink[I any, P ofLink[I], O any](a *API, operation huma.Operation, handler func(ctx context.Context, of owned, link int64, in P) (*O, error)) {
	registerOwn(a, operation, func(ctx context.Context, of owned, in P) (*O, error) {
		link, err := number(in.linkID())
		if err != nil {
			return nil, err
		}
		return handler(ctx, of, link, in)
	})
}

// cut shortens a list of which one more was read than the limit, and says where the next page begins; nil: there is none.
func cut[T any](list []T, limit int, cursor func(T) string) ([]T, *string) {
	if len(list) <= limit {
		return list, nil
	}
	next := cursor(list[limit-1])
	return list[:limit], &next
}

// translate turns an error of the rooms below into what the client is told. What the client cannot do anything about is logged and
// not shown.
func (a *API) translate(operation string, err error) error {
	var status huma.StatusError
	var invalid *profile.Invalid
	var expired *insight.Expired
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, profile.ErrNotFound), errors.Is(err, account.ErrNotFound), errors.Is(err, annotation.ErrNotFound), errors.Is(err, share.ErrNotFound),
		errors.Is(err, alert.ErrNotFound):
		return huma.Error404NotFound("your account has no such thing")
	case errors.As(err, &invalid):
		return huma.Error422UnprocessableEntity("validation failed",
			&huma.ErrorDetail{Location: "body." + invalid.Field, Message: invalid.Message, Value: invalid.Value})
	case errors.Is(err, profile.ErrHandleTaken):
		return huma.Error409Conflict("this handle is taken; choose another")
	case errors.Is(err, account.ErrEmailTaken):
		return huma.Error409Conflict("an account with this address exists")
	case errors.Is(err, profile.ErrTooMany):
		return huma.Error409Conflict(fmt.Sprintf("limit reached: an account has at most %d profiles, a profile at most %d links", profile.MaxProfiles, profile.MaxLinks))
	case errors.Is(err, profile.ErrChanged):
		return huma.Error412PreconditionFailed("it was changed since the version in If-Match; read it again")
	case errors.Is(err, share.ErrTooMany):
		return huma.Error409Conflict(fmt.Sprintf("limit reached: a profile has at most %d share links", share.MaxShares))
	case errors.Is(err, alert.ErrTooMany):
		return huma.Error409Conflict(fmt.Sprintf("limit reached: a profile has at most %d webhooks", alert.MaxWebhooks))
	case errors.As(err, &expired):
		return huma.Error422UnprocessableEntity(expired.Error())
	case errors.Is(err, live.ErrFull):
		return huma.ErrorWithHeaders(huma.Error503ServiceUnavailable("too many watch already; try again in a moment"), http.Header{"Retry-After": {"10"}})
	case errors.Is(err, insight.ErrTooManyBuckets):
		return huma.Error422UnprocessableEntity(insight.ErrTooManyBuckets.Error())
	case errors.Is(err, context.Canceled):
		return huma.NewError(499, "the client went away")
	case away(err):
		a.log.Warn("the database is away", "operation", operation, "error", err)
		return huma.ErrorWithHeaders(huma.Error503ServiceUnavailable("the database does not answer; try again in a moment"),
			http.Header{"Retry-After": {"2"}})
	}
	a.log.Error("a request failed", "operation", operation, "error", err)
	return huma.Error500InternalServerError("the server failed to answer; it is logged")
}

// away says whether err means that Postgres cannot be reached, or not now.
func away(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var connect *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) {
		return true
	}
	var e *pgconn.PgError
	// Connection exceptions, insufficient resources, operator intervention (shutdown, starting up),
	// and a table that is not there yet.
	return errors.As(err, &e) && (e.Code == "42P01" || strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "53") || strings.HasPrefix(e.Code, "57P"))
}
