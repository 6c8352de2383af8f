package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"spillway.dev/profileapi/profile"
)

func (d *Dashboard) addLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	title, address := r.PostForm.Get("title"), strings.TrimSpace(r.PostForm.Get("url"))
	if address != "" && !strings.Contains(address, ":") {
		address = "https://" + address // as people write it
	}
	draft := profile.LinkChange{Title: &title, URL: &address}
	_, err := d.Profiles.CreateLink(r.Context(), v.account, v.ID, draft)
	if err == nil {
		draft = profile.LinkChange{}
	}
	return d.answer(w, r, v, "links", "Added "+title, draft, err)
}

func (d *Dashboard) changeLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	id, err := strconv.ParseInt(r.PathValue("link"), 10, 64)
	if err != nil {
		return errNoPage
	}
	field := "link-" + strconv.FormatInt(id, 10)
	ctx := r.Context()
	done := ""
	switch action := r.PostForm.Get("action"); action {
	case "save":
		title, address := r.PostForm.Get("title"), strings.TrimSpace(r.PostForm.Get("url"))
		_, err = d.Profiles.UpdateLink(ctx, v.account, v.ID, id, profile.LinkChange{Title: &title, URL: &address}, nil)
		done = "Saved " + title
	case "hide", "show":
		hidden := action == "hide"
		var l profile.Link
		l, err = d.Profiles.UpdateLink(ctx, v.account, v.ID, id, profile.LinkChange{Hidden: &hidden}, nil)
		done = map[bool]string{true: "Hidden: ", false: "Shown: "}[hidden] + l.Title
	case "delete":
		err = d.Profiles.DeleteLink(ctx, v.account, v.ID, id, nil)
		done = "Removed. Its numbers are kept."
	case "up", "down":
		done, err = d.move(ctx, v, id, action == "up")
	default:
		return &refusal{http.StatusBadRequest, "This form cannot be read", "Go back, reload the page and try again."}
	}
	return d.answer(w, r, v, field, done, profile.LinkChange{}, err)
}

// move puts a link one place up or down.
func (d *Dashboard) move(ctx context.Context, v viewer, id int64, up bool) (string, error) {
	links, err := d.Profiles.Links(ctx, v.account, v.ID)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(links, func(l profile.Link) bool { return l.ID == id })
	if at < 0 {
		return "", profile.ErrNotFound
	}
	to := at + 1
	if up {
		to = at - 1
	}
	if to < 0 || to >= len(links) {
		return links[at].Title + " is at the end already", nil
	}
	links[at], links[to] = links[to], links[at]
	order := make([]int64, len(links))
	for i, l := range links {
		order[i] = l.ID
	}
	_, err = d.Profiles.Reorder(ctx, v.account, v.ID, order)
	return fmt.Sprintf("%s is number %d of %d now", links[to].Title, to+1, len(links)), err
}

func (d *Dashboard) orderLinks(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := parse(w, r); err != nil {
		return err
	}
	var order []int64
	for _, s := range r.PostForm["link"] {
		id, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errNoPage
		}
		order = append(order, id)
	}
	_, err := d.Profiles.Reorder(r.Context(), v.account, v.ID, order)
	var invalid *profile.Invalid
	if errors.As(err, &invalid) {
		err = &profile.Invalid{Field: "links", Message: "the links were changed elsewhere meanwhile; this is how they are now"}
	}
	return d.answer(w, r, v, "links", "The order is saved", profile.LinkChange{}, err)
}
