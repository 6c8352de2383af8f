package visit

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/class"
	"spillway.dev/redirector/page"
	"spillway.dev/schemas/event"
)

// Whoever follows the link that no person can see is recorded as a scanner of the page, and sees nothing unusual.
func TestWhoFollowsACanaryIsAScanner(t *testing.T) {
	s := serve(t, page.Rendered, Limits{})
	trap := "/l/" + page.Canary("aurora") + "?sw_page=7"
	response, _ := s.do("GET", trap)
	require.Equal(t, http.StatusNotFound, response.StatusCode, "of a page that was never answered")
	require.Empty(t, s.journal.take())

	_, body := s.do("GET", "/Aurora")
	require.Contains(t, string(body), strings.ReplaceAll(trap, "&", "&amp;"))
	_, robots := s.do("GET", "/robots.txt")
	require.Contains(t, string(robots), "Disallow: /l/\n")
	visitor := s.journal.take()[0].Visitor
	for _, c := range []struct {
		method, header string
		class          event.Class
		reason         string
	}{
		{"GET", "Accept: */*", event.Class_CLASS_SCANNER, class.ReasonCanary},
		{"HEAD", "Accept: */*", event.Class_CLASS_HEAD, class.ReasonHead},
		{"GET", "Sec-Purpose: prefetch", event.Class_CLASS_PREFETCH, class.ReasonSecPurpose},
	} {
		response, body = s.do(c.method, trap, c.header)
		require.Equal(t, http.StatusFound, response.StatusCode)
		require.Equal(t, "private, no-store", response.Header.Get("Cache-Control"))
		require.True(t, strings.EqualFold("/aurora", response.Header.Get("Location")))
		require.Empty(t, body)
		events := s.journal.take()
		require.Len(t, events, 1)
		e := events[0]
		require.Equal(t, c.class, e.Class)
		require.Equal(t, c.reason, e.Reason)
		require.Equal(t, event.Kind_KIND_VIEW, e.Kind)
		require.EqualValues(t, 1, e.ProfileId)
		require.Zero(t, e.LinkId)
		require.Equal(t, visitor, e.Visitor, "the one who viewed the page")
	}
	response, _ = s.do("GET", "/l/off")
	require.Equal(t, http.StatusFound, response.StatusCode)
	require.Equal(t, event.Class_CLASS_PERSON, s.journal.take()[0].Class, "what it did then is judged later")
}

func TestKnownCanariesAreBounded(t *testing.T) {
	var c canaries
	for i := range 3 * maxCanaries {
		c.shown(&page.Page{Canary: page.Canary(string(rune(i)) + "x")}, []byte("x"), nil)
		c.shown(&page.Page{Canary: page.Canary("kept")}, []byte("kept"), nil)
	}
	require.LessOrEqual(t, len(c.young)+len(c.old), 2*maxCanaries)
	found, ok := c.find([]byte(page.Canary("kept")))
	require.True(t, ok)
	require.Equal(t, "kept", found.handle)
	_, ok = c.find([]byte(page.Canary("never")))
	require.False(t, ok)
}
