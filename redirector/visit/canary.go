package visit

import (
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"spillway.dev/redirector/directory"
	"spillway.dev/redirector/page"
)

// maxCanaries bounds how many pages' canaries are known, in each of two generations.
const maxCanaries = 32 << 10

// canaries are the codes of the canaries on pages that were answered: who follows one is a scanner. Nothing is asked of PostgreSQL for
// them, so a redirector does not know those of pages that it never answered; other redirectors do, and what the visitor does tells, too.
type canaries struct {
	mu         sync.RWMutex // guards what follows
	young, old map[string]canary
}

type canary struct {
	handle  string
	profile *directory.Profile
}

// shown notes that a page was answered. It allocates nothing when that is known.
func (c *canaries) shown(of *page.Page, handle []byte, profile *directory.Profile) {
	if of.Canary == "" {
		return
	}
	c.mu.RLock()
	known, ok := c.young[of.Canary]
	c.mu.RUnlock()
	if ok && known.profile == profile {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.young == nil || len(c.young) >= maxCanaries {
		c.old, c.young = c.young, map[string]canary{}
	}
	c.young[of.Canary] = canary{string(handle), profile}
}

// find returns the page that a code is the canary of.
func (c *canaries) find(code []byte) (canary, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found, ok := c.young[string(code)]
	if !ok {
		found, ok = c.old[string(code)]
	}
	return found, ok
}

// trapped answers and records who followed a canary: a view of the profile by a scanner, because a click would need a link.
func (h *Handler) trapped(ctx *fasthttp.RequestCtx, v *visit, of canary, head bool, now time.Time) kind {
	v.trapped = true
	h.view(ctx, v, of.profile, of.profile.Layout, head, now)
	r := &ctx.Response
	r.SetStatusCode(fasthttp.StatusFound)
	r.Header.SetContentLength(0)
	r.Header.SetCanonical(headerLocation, []byte("/"+of.handle))
	r.Header.SetCanonical(headerCacheControl, valueNoStore)
	r.Header.SetCanonical(headerRobots, valueNoIndex)
	return kindRedirect
}
