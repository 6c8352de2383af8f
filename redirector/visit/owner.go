package visit

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/owner"
)

// claim makes the browser the owner's if it brought a good token, and tells whether it did.
func (h *Handler) claim(ctx *fasthttp.RequestCtx, v *visit, profile uint64, now time.Time) bool {
	if len(v.marks.Owner) == 0 {
		return false
	}
	expires, ok := h.Owners.Owns(v.marks.Owner, profile, now)
	if !ok {
		return false
	}
	v.claimed = true
	cookie := fasthttp.AcquireCookie()
	defer fasthttp.ReleaseCookie(cookie)
	cookie.SetKey(owner.CookiePrefix + strconv.FormatUint(profile, 10))
	cookie.SetValueBytes(v.marks.Owner)
	cookie.SetPath("/")
	cookie.SetExpire(expires)
	cookie.SetHTTPOnly(true)
	cookie.SetSecure(h.Pages.Secure())
	cookie.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	ctx.Response.Header.SetCookie(cookie)
	return true
}

// owns tells whether the browser is the profile's owner's. Visitors have no cookie of ours.
func (h *Handler) owns(ctx *fasthttp.RequestCtx, v *visit, profile uint64, now time.Time) bool {
	if v.claimed {
		return true
	}
	if !v.header.cookie {
		return false
	}
	_, ok := h.Owners.Owns(ctx.Request.Header.Cookie(owner.CookiePrefix+strconv.FormatUint(profile, 10)), profile, now)
	return ok
}
