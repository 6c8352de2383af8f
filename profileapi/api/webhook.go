package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"spillway.dev/profileapi/account"
	"spillway.dev/profileapi/alert"
	"spillway.dev/profileapi/profile"
)

// Webhook is where a profile's alerts are sent.
type Webhook struct {
	ID        string    `json:"id"`
	URL       string    `json:"url"`
	CreatedAt time.Time `json:"created_at"`
}

// NewWebhook is a webhook at the one moment at which its secret is known.
type NewWebhook struct {
	Webhook
	Secret string `json:"secret" doc:"Signs what is sent: header Spillway-Signature is t=SECONDS,v1=HEX, the HMAC-SHA256 with this secret of SECONDS, a dot and the body. Shown only now."`
}

// NewWebhookRequest is what a webhook is made from.
type NewWebhookRequest struct {
	URL string `json:"url" minLength:"1" maxLength:"2048" doc:"https, on the internet. Each message is a POST of JSON; any 2xx is an answer, all else is tried again for some hours." example:"https://example.org/hook"`
}

// Delivery is one alert on its way to a webhook.
type Delivery struct {
	ID          string     `json:"id"`
	AlertID     string     `json:"alert_id"`
	Kind        string     `json:"kind" enum:"milestone,spike,drop,weekly_report,test"`
	Attempts    int32      `json:"attempts"`
	NextAt      *time.Time `json:"next_at" doc:"When it is tried next. Null: delivered, or given up."`
	DeliveredAt *time.Time `json:"delivered_at"`
	Status      *int32     `json:"status" doc:"Of the last answer. Null: none came."`
	Error       string     `json:"error"`
}

// WebhookPath is embedded in the input of what is about one webhook.
type WebhookPath struct {
	IDPath
	Webhook string `path:"webhook" maxLength:"20" doc:"Decimal id of the webhook."`
}

func showDelivery(d alert.Delivery) Delivery {
	return Delivery{formatted(d.ID), formatted(d.AlertID), d.Kind, d.Attempts, utc(d.NextAt), utc(d.DeliveredAt), d.Status, d.Error}
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

func (a *API) registerWebhooks() {
	tags := []string{"alerts"}
	type createInput struct {
		IDPath
		Body NewWebhookRequest
	}
	registerSeen(a, huma.Operation{
		OperationID: "create-webhook", Method: http.MethodPost, Path: "/v1/profiles/{id}/webhooks", DefaultStatus: http.StatusCreated,
		Summary: "Have alerts sent to an address", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, p profile.Profile, in *createInput) (*body[NewWebhook], error) {
		if err := alert.CheckURL(in.Body.URL, a.private); err != nil {
			return nil, huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "body.url", Message: err.Error(), Value: in.Body.URL})
		}
		w, secret, err := a.alerts.AddWebhook(ctx, p.ID, in.Body.URL)
		if err != nil {
			return nil, err
		}
		return &body[NewWebhook]{NewWebhook{Webhook{formatted(w.ID), w.URL, w.CreatedAt.UTC()}, secret}}, nil
	})

	type webhookList struct {
		Items []Webhook `json:"items" nullable:"false"`
	}
	registerSeen(a, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: "/v1/profiles/{id}/webhooks",
		Summary: "List where alerts are sent", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, _ *IDPath) (*body[webhookList], error) {
		hooks, err := a.alerts.Webhooks(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		out := body[webhookList]{webhookList{Items: []Webhook{}}}
		for _, w := range hooks {
			out.Body.Items = append(out.Body.Items, Webhook{formatted(w.ID), w.URL, w.CreatedAt.UTC()})
		}
		return &out, nil
	})

	registerSeen(a, huma.Operation{
		OperationID: "delete-webhook", Method: http.MethodDelete, Path: "/v1/profiles/{id}/webhooks/{webhook}", DefaultStatus: http.StatusNoContent,
		Summary: "Stop sending alerts to an address", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *WebhookPath) (*struct{}, error) {
		id, err := number(in.Webhook)
		if err != nil {
			return nil, err
		}
		return nil, a.alerts.RemoveWebhook(ctx, p.ID, id)
	})

	type deliveryList struct {
		Items []Delivery `json:"items" nullable:"false" doc:"The latest 100, the latest first."`
	}
	registerSeen(a, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: "/v1/profiles/{id}/webhooks/{webhook}/deliveries",
		Summary: "List what was sent to an address", Description: "Messages that were sent to try it are listed too.", Tags: tags, Security: needs(account.Read), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *WebhookPath) (*body[deliveryList], error) {
		id, err := number(in.Webhook)
		if err != nil {
			return nil, err
		}
		deliveries, err := a.alerts.Deliveries(ctx, p.ID, id, 100)
		if err != nil {
			return nil, err
		}
		out := body[deliveryList]{deliveryList{Items: []Delivery{}}}
		for _, d := range deliveries {
			out.Body.Items = append(out.Body.Items, showDelivery(d))
		}
		return &out, nil
	})

	type replayInput struct {
		IDPath
		Delivery string `path:"delivery" maxLength:"20" doc:"Decimal id of the delivery."`
	}
	registerSeen(a, huma.Operation{
		OperationID: "replay-delivery", Method: http.MethodPost, Path: "/v1/profiles/{id}/deliveries/{delivery}/replay", DefaultStatus: http.StatusNoContent,
		Summary: "Send an alert again", Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *replayInput) (*struct{}, error) {
		id, err := number(in.Delivery)
		if err != nil {
			return nil, err
		}
		return nil, a.alerts.Replay(ctx, p.ID, id)
	})
	registerSeen(a, huma.Operation{
		OperationID: "try-webhook", Method: http.MethodPost, Path: "/v1/profiles/{id}/webhooks/{webhook}/test", DefaultStatus: http.StatusAccepted,
		Summary: "Send a message of kind test", Description: "It is on its way when this answers; what became of it is among the deliveries a moment later.",
		Tags: tags, Security: needs(account.Write), Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, p profile.Profile, in *WebhookPath) (*body[Delivery], error) {
		id, err := number(in.Webhook)
		if err != nil {
			return nil, err
		}
		d, err := a.alerts.Try(ctx, p.ID, id)
		if err != nil {
			return nil, err
		}
		return &body[Delivery]{showDelivery(d)}, nil
	})
}
