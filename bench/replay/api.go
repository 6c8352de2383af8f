package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// classes are all that an event can have, in the order in which they are printed; schemas/event names them.
func classes() []string {
	return []string{"person", "bot", "preview", "prefetch", "head", "scanner", "owner", "test", "unknown"}
}

// api is the creators' side of Spillway, as far as a replay needs it.
type api struct {
	base, token string
	http        *http.Client
}

func newAPI(base, token string) *api {
	return &api{base: base, token: token, http: &http.Client{Timeout: 30 * time.Second}}
}

// problem is an answer that says no, as RFC 9457 writes it.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string {
	text := strings.TrimSpace(p.Detail)
	if text == "" {
		text = p.Title
	}
	return fmt.Sprintf("%d %s", p.Status, text)
}

func (a *api) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		in = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, in)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := a.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask the API (is 'spillway run' up?): %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	if response.StatusCode >= 300 {
		p := &problem{}
		if json.Unmarshal(answer, p) != nil || p.Title == "" {
			p.Title = http.StatusText(response.StatusCode)
		}
		p.Status = response.StatusCode
		return fmt.Errorf("%s %s: %w", method, path, p)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s: answer is not what the API promises: %w", method, path, err)
	}
	return nil
}

type profileBody struct {
	ID     string `json:"id,omitempty"`
	Handle string `json:"handle"`
	Title  string `json:"title"`
}

type linkBody struct {
	ID     string `json:"id,omitempty"`
	Code   string `json:"code,omitempty"`
	Title  string `json:"title"`
	URL    string `json:"url"`
	Hidden bool   `json:"hidden"`
}

// profile returns the id of the profile with that handle, which it makes if there is none.
func (a *api) profile(ctx context.Context, handle, title string) (string, error) {
	var made profileBody
	err := a.call(ctx, http.MethodPost, "/v1/profiles", profileBody{Handle: handle, Title: title}, &made)
	var p *problem
	if !errors.As(err, &p) || p.Status != http.StatusConflict {
		return made.ID, err
	}
	id := ""
	err = pages(ctx, a, "/v1/profiles", func(found profileBody) {
		if found.Handle == handle {
			id = found.ID
		}
	})
	if err == nil && id == "" {
		err = fmt.Errorf("profile %q belongs to another account: choose another --handle", handle)
	}
	return id, err
}

// links returns the profile's links by their targets.
func (a *api) links(ctx context.Context, profile string) (map[string]link, error) {
	all := map[string]link{}
	err := pages(ctx, a, "/v1/profiles/"+profile+"/links", func(l linkBody) { all[l.URL] = link{id: l.ID, code: l.Code} })
	return all, err
}

// addLink makes a link that is not shown on the page: a page of thousands of links is nobody's.
func (a *api) addLink(ctx context.Context, profile, title, target string) (link, error) {
	if len(title) > 80 {
		title = title[:80]
	}
	var made linkBody
	err := a.call(ctx, http.MethodPost, "/v1/profiles/"+profile+"/links", linkBody{Title: title, URL: target, Hidden: true}, &made)
	return link{id: made.ID, code: made.Code}, err
}

// counts are a profile's lifetime numbers by class.
type counts struct {
	views, clicks map[string]int
	links         map[string]int // clicks by link, all classes
}

func (c counts) total() int {
	n := 0
	for _, class := range classes() {
		n += c.views[class] + c.clicks[class]
	}
	return n
}

// minus returns what came since before.
func (c counts) minus(before counts) counts {
	d := counts{views: map[string]int{}, clicks: map[string]int{}, links: map[string]int{}}
	for _, m := range []struct{ to, now, then map[string]int }{
		{d.views, c.views, before.views}, {d.clicks, c.clicks, before.clicks}, {d.links, c.links, before.links},
	} {
		for key, n := range m.now {
			m.to[key] = n - m.then[key]
		}
	}
	return d
}

func (a *api) counts(ctx context.Context, profile string) (counts, error) {
	c := counts{views: map[string]int{}, clicks: map[string]int{}, links: map[string]int{}}
	for _, class := range classes() {
		var insights struct {
			Lifetime struct {
				Views  int `json:"views"`
				Clicks int `json:"clicks"`
			} `json:"lifetime"`
			Links []struct {
				ID     string `json:"id"`
				Clicks int    `json:"clicks"`
			} `json:"links"`
		}
		path := "/v1/profiles/" + profile + "/insights?classes=" + url.QueryEscape(class)
		if err := a.call(ctx, http.MethodGet, path, nil, &insights); err != nil {
			return counts{}, err
		}
		c.views[class], c.clicks[class] = insights.Lifetime.Views, insights.Lifetime.Clicks
		for _, l := range insights.Links {
			c.links[l.ID] += l.Clicks
		}
	}
	return c, nil
}

// pages calls yield with every item of a list that comes in pages.
func pages[T any](ctx context.Context, a *api, path string, yield func(T)) error {
	next := ""
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		query := "?limit=100"
		if next != "" {
			query += "&after=" + url.QueryEscape(next)
		}
		if err := a.call(ctx, http.MethodGet, path+query, nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			yield(item)
		}
		if page.Next == "" {
			return nil
		}
		next = page.Next
	}
}
