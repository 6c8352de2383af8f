// Package creator is a creator at the API, as far as measuring needs one: makes a profile and its links, and asks for their numbers.
package creator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Classes are all that an event can have, in the order in which they are printed; schemas/event names them.
func Classes() []string {
	return []string{"person", "bot", "preview", "prefetch", "head", "scanner", "owner", "test", "unknown"}
}

// API is the creators' side of Spillway. It is safe for concurrent use.
type API struct {
	base, token string
	http        *http.Client
}

// New checks the API's address, http://HOST:PORT, and keeps the bearer token for every call.
func New(base, token string) (*API, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("the API's address %q is not http://HOST:PORT", base)
	}
	return &API{base: strings.TrimRight(base, "/"), token: token, http: &http.Client{Timeout: 30 * time.Second}}, nil
}

// Token returns the bearer token that the standalone keeps in its data directory.
func Token(data string) (string, error) {
	path := filepath.Join(data, "admin-token")
	token, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("no --token, and none in %s: start 'spillway run' first, or say --token or --data (%w)", path, err)
	}
	return strings.TrimSpace(string(token)), nil
}

// Problem is an answer that says no, as RFC 9457 writes it.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string {
	text := strings.TrimSpace(p.Detail)
	if text == "" {
		text = p.Title
	}
	return fmt.Sprintf("%d %s", p.Status, text)
}

func (a *API) call(ctx context.Context, method, path string, body, into any) error {
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
		p := &Problem{}
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

// Profile returns the id of the profile with that handle, which it makes if there is none.
func (a *API) Profile(ctx context.Context, handle, title string) (string, error) {
	var made profileBody
	err := a.call(ctx, http.MethodPost, "/v1/profiles", profileBody{Handle: handle, Title: title}, &made)
	var p *Problem
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

// Link is a link of a profile.
type Link struct{ ID, Code string }

// MaxLinks is the most links that the API allows a profile.
const MaxLinks = 500

// Links returns the profile's links by their targets.
func (a *API) Links(ctx context.Context, profile string) (map[string]Link, error) {
	all := map[string]Link{}
	err := pages(ctx, a, "/v1/profiles/"+profile+"/links", func(l linkBody) { all[l.URL] = Link{ID: l.ID, Code: l.Code} })
	return all, err
}

// Numbered finds or makes the profile with that handle and n links of it, which lead to addresses that differ by a number.
func (a *API) Numbered(ctx context.Context, handle string, n int) (profile string, links []Link, err error) {
	if n < 0 || n > MaxLinks {
		return "", nil, fmt.Errorf("a profile has at most %d links, not %d", MaxLinks, n)
	}
	if profile, err = a.Profile(ctx, handle, "Load"); err != nil {
		return "", nil, err
	}
	have, err := a.Links(ctx, profile)
	if err != nil {
		return "", nil, err
	}
	for i := range n {
		target := fmt.Sprintf("https://example.com/%s/%d", handle, i)
		l, ok := have[target]
		if !ok {
			if l, err = a.AddLink(ctx, profile, fmt.Sprintf("Link %d", i), target); err != nil {
				return "", nil, err
			}
		}
		links = append(links, l)
	}
	return profile, links, nil
}

// AddLink makes a link that is not shown on the page: a page of hundreds of links is nobody's.
func (a *API) AddLink(ctx context.Context, profile, title, target string) (Link, error) {
	if len(title) > 80 {
		title = title[:80]
	}
	var made linkBody
	err := a.call(ctx, http.MethodPost, "/v1/profiles/"+profile+"/links", linkBody{Title: title, URL: target, Hidden: true}, &made)
	return Link{ID: made.ID, Code: made.Code}, err
}

// Counts are a profile's lifetime numbers by class.
type Counts struct {
	Views, Clicks map[string]int
	Links         map[string]int // clicks by link id, all classes
}

func newCounts() Counts {
	return Counts{Views: map[string]int{}, Clicks: map[string]int{}, Links: map[string]int{}}
}

// Total is the number of events of all classes.
func (c Counts) Total() int {
	n := 0
	for _, class := range Classes() {
		n += c.Views[class] + c.Clicks[class]
	}
	return n
}

// Minus returns what came since before.
func (c Counts) Minus(before Counts) Counts {
	d := newCounts()
	for _, m := range []struct{ to, now, then map[string]int }{
		{d.Views, c.Views, before.Views}, {d.Clicks, c.Clicks, before.Clicks}, {d.Links, c.Links, before.Links},
	} {
		for key, n := range m.now {
			m.to[key] = n - m.then[key]
		}
	}
	return d
}

// Counts asks for the profile's lifetime numbers.
func (a *API) Counts(ctx context.Context, profile string) (Counts, error) {
	var insights struct {
		ByClass map[string]struct {
			Views  int `json:"views"`
			Clicks int `json:"clicks"`
		} `json:"by_class"`
		Links []struct {
			ID     string `json:"id"`
			Clicks int    `json:"clicks"`
		} `json:"links"`
	}
	path := "/v1/profiles/" + profile + "/insights?classes=" + url.QueryEscape(strings.Join(Classes(), ","))
	if err := a.call(ctx, http.MethodGet, path, nil, &insights); err != nil {
		return Counts{}, err
	}
	c := newCounts()
	for class, n := range insights.ByClass {
		c.Views[class], c.Clicks[class] = n.Views, n.Clicks
	}
	for _, l := range insights.Links {
		c.Links[l.ID] += l.Clicks
	}
	return c, nil
}

// pages calls yield with every item of a list that comes in pages.
func pages[T any](ctx context.Context, a *API, path string, yield func(T)) error {
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
