package page

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
)

func renderer(t testing.TB, views Views) *Renderer {
	r, err := NewRenderer("https://spill.example/", views)
	require.NoError(t, err)
	return r
}

func demo(links int) Profile {
	p := Profile{Handle: "aurora", Title: "Aurora Lindqvist", Bio: "Ceramics from a small studio by the sea.\nNew pieces each Friday.", Layout: 7}
	for i := range links {
		p.Links = append(p.Links, Link{Code: fmt.Sprintf("k3Vx%03d", i), Title: fmt.Sprintf("A link with a title of the usual length, no %d", i+1)})
	}
	return p
}

// elements parses a page as a browser does and returns its elements by name.
func elements(t testing.TB, page []byte) map[string][]*html.Node {
	root, err := html.Parse(bytes.NewReader(page))
	require.NoError(t, err)
	found := map[string][]*html.Node{}
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			found[n.Data] = append(found[n.Data], n)
		}
	}
	return found
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func metas(found map[string][]*html.Node) map[string]string {
	m := map[string]string{}
	for _, n := range found["meta"] {
		m[attribute(n, "name")+attribute(n, "property")] = attribute(n, "content")
	}
	return m
}

func TestProfile(t *testing.T) {
	page, err := renderer(t, Rendered).Profile(demo(20))
	require.NoError(t, err)
	require.Less(t, len(page.HTML), 14_000)
	found := elements(t, page.HTML)
	require.Equal(t, "Aurora Lindqvist (@aurora)", found["title"][0].FirstChild.Data)
	require.Equal(t, "en", attribute(found["html"][0], "lang"))
	require.Empty(t, found["script"], "no JavaScript")
	require.Len(t, found["h1"], 1)
	require.Len(t, found["main"], 1)
	require.Len(t, found["a"], 21)
	canary := found["a"][20]
	require.Equal(t, "/l/"+page.Canary+"?sw_page=7", attribute(canary, "href"), "as any other link")
	require.Len(t, page.Canary, len("k3Vx000"))
	for name, value := range map[string]string{"rel": "nofollow", "aria-hidden": "true", "tabindex": "-1"} {
		require.Equal(t, value, attribute(canary, name), name)
	}
	require.True(t, slices.ContainsFunc(canary.Attr, func(a html.Attribute) bool { return a.Key == "hidden" }), "nobody sees it")
	require.Equal(t, "/l/k3Vx000?sw_page=7", attribute(found["a"][0], "href"))
	m := metas(found)
	require.Equal(t, "Ceramics from a small studio by the sea. New pieces each Friday.", m["description"])
	require.Equal(t, m["description"], m["og:description"])
	require.Equal(t, "https://spill.example/aurora", m["og:url"])
	require.Equal(t, "Aurora Lindqvist", m["og:title"])
	require.Equal(t, "profile", m["og:type"])
	require.Equal(t, "width=device-width,initial-scale=1", m["viewport"])
	require.Equal(t, "canonical", attribute(found["link"][0], "rel"))
	require.Equal(t, "https://spill.example/aurora", attribute(found["link"][0], "href"))
	require.Contains(t, page.Policy, source(found["style"][0].FirstChild.Data), "the policy allows the style, byte for byte")

	unpacked, err := gzip.NewReader(bytes.NewReader(page.Gzip))
	require.NoError(t, err)
	body, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Equal(t, page.HTML, body)

	again, err := renderer(t, Rendered).Profile(demo(20))
	require.NoError(t, err)
	require.Equal(t, page.ETag, again.ETag)
	changed := demo(20)
	changed.Layout++
	other, err := renderer(t, Rendered).Profile(changed)
	require.NoError(t, err)
	require.NotEqual(t, page.ETag, other.ETag)
}

func TestAPageThatCountsItself(t *testing.T) {
	page, err := renderer(t, Beacon).Profile(demo(1))
	require.NoError(t, err)
	require.Less(t, len(page.HTML), 14_000)
	found := elements(t, page.HTML)
	require.Equal(t, "/b/aurora?sw_page=7", attribute(found["body"][0], "data-b"))
	require.Len(t, found["script"], 1)
	require.Contains(t, page.Policy, source(found["script"][0].FirstChild.Data))
	require.Contains(t, page.Policy, "connect-src 'self'")
	require.Contains(t, string(page.HTML), `<noscript><img src="/b/aurora?sw_page=7" alt="" width="1" height="1"></noscript>`)
}

func TestWhatACreatorWritesIsOnlyText(t *testing.T) {
	hostile := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</title></style><script>alert(1)</script>`, `' onmouseover='alert(1)`,
		"\u202eevil", "\x00\xff\xfe", `{{.Style}}`, `javascript:alert(1)`, `</textarea><!--`, `&lt;b&gt;`,
	}
	for _, views := range []Views{Rendered, Beacon} {
		r := renderer(t, views)
		for _, evil := range hostile {
			p := Profile{Handle: evil, Title: evil, Bio: evil, Theme: evil, Links: []Link{{Code: evil, Title: evil}}}
			page, err := r.Profile(p)
			require.NoError(t, err)
			found := elements(t, page.HTML)
			require.Len(t, found["script"], int(views), "%q", evil)
			for name, nodes := range found {
				for _, n := range nodes {
					for _, a := range n.Attr {
						require.False(t, strings.HasPrefix(a.Key, "on"), "%q made attribute %s of %s", evil, a.Key, name)
						if a.Key == "href" || a.Key == "src" {
							require.True(t, strings.HasPrefix(a.Val, "/") || strings.HasPrefix(a.Val, "https://spill.example/"), "%q made %s", evil, a.Val)
						}
					}
				}
			}
			require.Len(t, found["style"], 1)
			require.Len(t, found["a"], 2, "the link and the canary")
			require.Len(t, found["h1"], 1)
			require.Empty(t, found["textarea"])
		}
	}
}

func TestAProfileWithoutAnything(t *testing.T) {
	page, err := renderer(t, Rendered).Profile(Profile{Handle: "x", Title: "—"})
	require.NoError(t, err)
	found := elements(t, page.HTML)
	require.Empty(t, found["ul"])
	require.Equal(t, "All links of — in one place.", metas(found)["description"])
	require.Contains(t, string(page.HTML), "Nothing here yet.")
}

func TestOwnDomainsAndThemes(t *testing.T) {
	p := demo(1)
	p.Links[0].Host = "go.aurora.example"
	p.Theme = "dark"
	page, err := renderer(t, Rendered).Profile(p)
	require.NoError(t, err)
	found := elements(t, page.HTML)
	require.Equal(t, "https://go.aurora.example/l/k3Vx000?sw_page=7", attribute(found["a"][0], "href"))
	require.Equal(t, "dark", attribute(found["html"][0], "class"))
}

func TestLongBioIsCutInTheDescription(t *testing.T) {
	p := demo(0)
	p.Bio = strings.Repeat("ä ", 300)
	page, err := renderer(t, Rendered).Profile(p)
	require.NoError(t, err)
	d := metas(elements(t, page.HTML))["description"]
	require.LessOrEqual(t, len([]rune(d)), 200)
	require.True(t, strings.HasSuffix(d, "…"))
}

func TestNotice(t *testing.T) {
	page, err := renderer(t, Beacon).Notice(Notice{Sign: "?", Title: "Nothing <here>", Text: "Try again."})
	require.NoError(t, err)
	found := elements(t, page.HTML)
	require.Equal(t, "Nothing <here>", found["h1"][0].FirstChild.Data)
	require.Equal(t, "noindex", metas(found)["robots"])
	require.NotContains(t, page.Policy, "script-src")
}

func TestSettingsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "spill.example", "ftp://spill.example", "https://"} {
		_, err := NewRenderer(bad, Rendered)
		require.ErrorContains(t, err, "SPILLWAY_PUBLIC_URL")
	}
	_, err := ParseViews("both")
	require.ErrorContains(t, err, "SPILLWAY_VIEWS")
	for s, want := range map[string]Views{"page": Rendered, "beacon": Beacon} {
		got, err := ParseViews(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func BenchmarkProfile(b *testing.B) {
	r := renderer(b, Rendered)
	p := demo(20)
	for b.Loop() {
		if _, err := r.Profile(p); err != nil {
			b.Fatal(err)
		}
	}
}
