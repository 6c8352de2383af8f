package visit

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/directory"
	"spillway.dev/redirector/page"
)

// retryAfter is when a visitor may come again for what cannot be looked up just now, in seconds.
const retryAfter = 2

// notices are the answers that are always the same.
type notices struct {
	landing, noLink, noProfile, away, broken, robots, favicon *notice
	pixel                                                     []byte
}

// notice is an answer made once.
type notice struct {
	status int
	cache  string
	kind   string     // Content-Type; empty: page
	body   []byte     // if kind is set
	page   *page.Page // if kind is empty
}

func newNotices(pages *page.Renderer) (*notices, error) {
	n := &notices{
		robots:  &notice{status: fasthttp.StatusOK, cache: "public, max-age=3600", kind: "text/plain; charset=utf-8", body: []byte("User-agent: *\nDisallow: /l/\nDisallow: /q/\nDisallow: /b/\n")},
		favicon: &notice{status: fasthttp.StatusOK, cache: "public, max-age=86400", kind: "image/svg+xml", body: page.Favicon()},
		// The smallest transparent GIF.
		pixel: []byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"),
	}
	for _, made := range []struct {
		into   **notice
		status int
		cache  string
		said   page.Notice
	}{
		{&n.landing, fasthttp.StatusOK, "public, max-age=300", page.Notice{Sign: "S", Title: "Spillway", Text: "Pages and links of creators live here. Follow one to get anywhere."}},
		{&n.noLink, fasthttp.StatusNotFound, "private, no-store", page.Notice{Sign: "?", Title: "This link leads nowhere", Text: "It may have been mistyped, or its owner took it away."}},
		{&n.noProfile, fasthttp.StatusNotFound, "private, no-store", page.Notice{Sign: "?", Title: "Nobody here by that name", Text: "The address may have been mistyped, or its owner moved on."}},
		{&n.away, fasthttp.StatusServiceUnavailable, "private, no-store", page.Notice{Sign: "…", Title: "One moment, please", Text: "This page cannot be looked up just now. Try again in a few seconds."}},
		{&n.broken, fasthttp.StatusInternalServerError, "private, no-store", page.Notice{Sign: "!", Title: "Something went wrong", Text: "That was our fault. Try again in a while."}},
	} {
		p, err := pages.Notice(made.said)
		if err != nil {
			return nil, err
		}
		*made.into = &notice{status: made.status, cache: made.cache, page: p}
	}
	return n, nil
}

// missing answers for a name that was not found: unknown if PostgreSQL said so, and otherwise to come again, because nobody knows.
func (n *notices) missing(ctx *fasthttp.RequestCtx, err error, unknown *notice) {
	switch {
	case errors.Is(err, directory.ErrUnknown):
		unknown.write(ctx)
	case errors.Is(err, directory.ErrAway):
		ctx.Response.Header.Set("Retry-After", strconv.Itoa(retryAfter))
		n.away.write(ctx)
	default:
		n.broken.write(ctx)
	}
}

func (n *notice) write(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set("Cache-Control", n.cache)
	if n.kind == "" {
		writePage(ctx, n.page, n.status)
		return
	}
	ctx.Response.SetStatusCode(n.status)
	ctx.Response.Header.Set("Content-Type", n.kind)
	ctx.Response.Header.Set("X-Content-Type-Options", "nosniff")
	ctx.Response.SetBodyRaw(n.body)
}

// writePage answers with a page, or says that the visitor's copy is still the newest.
func writePage(ctx *fasthttp.RequestCtx, p *page.Page, status int) {
	r := &ctx.Response
	body, etag := p.HTML, p.ETag
	packed := acceptsGzip(ctx.Request.Header.Peek("Accept-Encoding"))
	if packed {
		body, etag = p.Gzip, p.GzipETag
	}
	r.Header.Set("Vary", "Accept-Encoding")
	r.Header.Set("Content-Security-Policy", p.Policy)
	r.Header.Set("X-Content-Type-Options", "nosniff")
	if status == fasthttp.StatusOK {
		r.Header.Set("ETag", etag)
		if holds(ctx.Request.Header.Peek("If-None-Match"), etag) {
			r.SetStatusCode(fasthttp.StatusNotModified)
			return
		}
	}
	r.SetStatusCode(status)
	r.Header.Set("Content-Type", "text/html; charset=utf-8")
	if packed {
		r.Header.Set("Content-Encoding", "gzip")
	}
	r.SetBodyRaw(body)
}

// notAllowed answers a method that means nothing here.
func (h *Handler) notAllowed(ctx *fasthttp.RequestCtx, beacon bool) {
	allow := "GET, HEAD"
	if beacon {
		allow = "GET, POST"
	}
	r := &ctx.Response
	r.SetStatusCode(fasthttp.StatusMethodNotAllowed)
	r.SetConnectionClose() // what follows may be a body that we read otherwise than a proxy before us
	r.Header.Set("Allow", allow)
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	r.SetBodyString("Only " + allow + " here.\n")
}

// holds tells whether an If-None-Match header has the tag; weak tags compare like strong ones there (RFC 9110, 13.1.2).
func holds(header []byte, etag string) bool {
	for len(header) > 0 {
		var tag []byte
		tag, header, _ = bytes.Cut(header, []byte{','})
		tag = bytes.TrimPrefix(bytes.TrimSpace(tag), []byte("W/"))
		if string(tag) == etag || string(tag) == "*" {
			return true
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding: gzip is welcome if it is named without a weight of zero.
func acceptsGzip(header []byte) bool {
	for len(header) > 0 {
		var coding []byte
		coding, header, _ = bytes.Cut(header, []byte{','})
		name, weight, _ := bytes.Cut(coding, []byte{';'})
		if !bytes.EqualFold(bytes.TrimSpace(name), []byte("gzip")) {
			continue
		}
		weight = bytes.TrimPrefix(bytes.TrimSpace(weight), []byte("q="))
		return len(weight) == 0 || len(bytes.Trim(weight, "0.")) > 0
	}
	return false
}
