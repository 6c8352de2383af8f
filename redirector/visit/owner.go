package visit

import (
	"bytes"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/owner"
	"spillway.dev/redirector/target"
)

// claim answers a browser that brought a good token of the dashboard: it becomes, or is no longer, the owner's, and is led on to the
// page's plain address. It tells whether it has answered.
func (h *Handler) claim(ctx *fasthttp.RequestCtx, v *visit, profile uint64, now time.Time) bool {
	if len(v.marks.Owner) == 0 {
		return false
	}
	token, expires, ok := h.Owners.Claim(v.marks.Owner, profile, now)
	if !ok {
		return false
	}
	cookie := fasthttp.AcquireCookie()
	defer fasthttp.ReleaseCookie(cookie)
	cookie.SetKey(owner.CookiePrefix + strconv.FormatUint(profile, 10))
	cookie.SetValue(token)
	cookie.SetPath("/")
	if token == "" {
		expires = fasthttp.CookieExpireDelete
	}
	cookie.SetExpire(expires)
	cookie.SetHTTPOnly(true)
	cookie.SetSecure(h.Pages.Secure())
	cookie.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	ctx.Response.Header.SetCookie(cookie)

	// The path alone: a token that stayed in the address would be handed on with it. One slash begins it, so that it is no host.
	plain := append([]byte{'/'}, bytes.TrimLeft(ctx.URI().PathOriginal(), "/")...)
	if rest := target.AppendForeign(nil, v.query); len(rest) > 0 {
		plain = append(append(plain, '?'), rest...)
	}
	ctx.Response.SetStatusCode(fasthttp.StatusSeeOther)
	ctx.Response.Header.SetContentLength(0)
	ctx.Response.Header.SetBytesKV(headerLocation, plain)
	ctx.Response.Header.SetBytesKV(headerCacheControl, valueNoStore)
	ctx.Response.Header.Set("Referrer-Policy", "no-referrer")
	return true
}

// owns tells whether the browser is the profile's owner's. Visitors have no cookie of ours.
func (h *Handler) owns(ctx *fasthttp.RequestCtx, v *visit, profile uint64, now time.Time) bool {
	if !v.header.cookie {
		return false
	}
	return h.Owners.Owns(ctx.Request.Header.Cookie(owner.CookiePrefix+strconv.FormatUint(profile, 10)), profile, now)
}
