package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/profile"
)

// Alert is something that a creator was told.
type Alert struct {
	ID      string         `json:"id"`
	Kind    string         `json:"kind" enum:"milestone,spike,drop,weekly_report"`
	Text    string         `json:"text"`
	Details map[string]any `json:"details" doc:"Of a weekly report all its numbers: week, from, to, views, clicks, ctr, unique_visitors, the same in before, change, the best links, origins, complete."`
	Time    time.Time      `json:"time"`
}

// Mail is what a profile's owner gets by mail, if the server sends any.
type Mail struct {
	Address   string `json:"address" doc:"The account's. Empty: it has none, and nothing is sent."`
	Confirmed bool   `json:"confirmed" doc:"The owner has answered the letter that asks whether the address is theirs. Until then nothing else is sent there."`
	Alerts    bool   `json:"alerts" doc:"Spikes, drops and milestones."`
	Weekly    bool   `json:"weekly" doc:"How the week was, each Monday."`
}

// MailChange is what to change; what is absent stays.
type MailChange struct {
	Alerts *bool `json:"alerts,omitempty"`
	Weekly *bool `json:"weekly,omitempty"`
}

func (a *API) registerAlerts() {
	tags := []string{"alerts"}
	type alertsInput struct {
		IDPath
		Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
		After string `query:"after" maxLength:"20" doc:"The next of the page before."`
	}
	type alertList struct {
		Items []Alert `json:"items" nullable:"false" doc:"The latest first."`
		Next  *string `json:"next,omitempty"`
	}
	registerSeen(a, huma.Operation{
		OperationID: "list-alerts", Method: http.MethodGet, Path: "/v1/profiles/{id}/alerts",
		Summary: "List spikes, drops, milestones and weekly reports", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *alertsInput) (*body[alertList], error) {
		before, err := after(in.After)
		if err != nil {
			return nil, err
		}
		alerts, err := a.alerts.List(ctx, p.ID, before, in.Limit+1)
		if err != nil {
			return nil, err
		}
		out := body[alertList]{alertList{Items: []Alert{}}}
		alerts, out.Body.Next = cut(alerts, in.Limit, func(a alert.Alert) string { return formatted(a.ID) })
		for _, one := range alerts {
			details := map[string]any{}
			if err := json.Unmarshal(one.Details, &details); err != nil {
				return nil, err
			}
			out.Body.Items = append(out.Body.Items, Alert{formatted(one.ID), one.Kind, one.Text, details, one.At.UTC()})
		}
		return &out, nil
	})

	registerSeen(a, huma.Operation{
		OperationID: "get-mail", Method: http.MethodGet, Path: "/v1/profiles/{id}/mail",
		Summary: "Read what a profile's owner gets by mail", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, _ *IDPath) (*body[Mail], error) { return a.mail(ctx, p) })

	type mailInput struct {
		IDPath
		Body MailChange
	}
	registerSeen(a, huma.Operation{
		OperationID: "change-mail", Method: http.MethodPatch, Path: "/v1/profiles/{id}/mail",
		Summary: "Change what a profile's owner gets by mail", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *mailInput) (*body[Mail], error) {
		if err := a.alerts.SetMail(ctx, p.ID, alert.MailChange(in.Body)); err != nil {
			return nil, err
		}
		wanted := func(b *bool) bool { return b != nil && *b }
		if a.letters && (wanted(in.Body.Alerts) || wanted(in.Body.Weekly)) {
			if err := a.alerts.AskToConfirm(ctx, who(ctx).AccountID); err != nil {
				return nil, err
			}
		}
		return a.mail(ctx, p)
	})

	registerSeen(a, huma.Operation{
		OperationID: "confirm-mail", Method: http.MethodPost, Path: "/v1/profiles/{id}/mail/confirmation", DefaultStatus: http.StatusAccepted,
		Summary: "Ask for the letter that confirms the owner's address once more", Description: "The first goes out by itself. After each it takes longer until another may be asked for: 10 minutes, 20, 40 … a day.",
		Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests},
	}, func(ctx context.Context, p profile.Profile, _ *IDPath) (*body[Mail], error) {
		if !a.letters {
			return nil, huma.Error409Conflict("this server sends no mail")
		}
		var soon *alert.TooSoon
		switch err := a.alerts.AskAgain(ctx, who(ctx).AccountID); {
		case errors.Is(err, alert.ErrConfirmed):
			return nil, huma.Error409Conflict(err.Error())
		case errors.As(err, &soon):
			wait := strconv.Itoa(int(soon.Wait.Seconds()))
			return nil, huma.ErrorWithHeaders(huma.Error429TooManyRequests(err.Error()), http.Header{"Retry-After": {wait}})
		case err != nil:
			return nil, err
		}
		return a.mail(ctx, p)
	})
}

func (a *API) mail(ctx context.Context, p profile.Profile) (*body[Mail], error) {
	m, err := a.alerts.Mail(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	return &body[Mail]{Mail{Address: m.Address, Confirmed: m.Confirmed, Alerts: m.Alerts, Weekly: m.Weekly}}, nil
}
