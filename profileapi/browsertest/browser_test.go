//go:build browser

// Package browsertest looks at the pages as people do: in a browser, on a phone and on a desktop, while everything runs for real.
package browsertest

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/browsertest/stage"
	"spillway.dev/service/spillwaytest"
)

// axe is Deque's accessibility checker, from npm (dashboard/uplot/fetch).
//
//go:embed testdata/axe.js
var axe string

// visitor is a browser that somebody sits at.
type visitor struct {
	t   *testing.T
	ctx context.Context
}

func (v visitor) do(steps ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	require.NoError(v.t, chromedp.Do(v.ctx, steps...))
}

func (v visitor) fill(selector, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS(selector), text)
}

func click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

func appears(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

// says evaluates an expression until it is what is wanted.
func (v visitor) says(expression, want string) {
	v.t.Helper()
	got := ""
	err := spillwaytest.Eventually(func() error {
		var err error
		if got, err = chromedp.Run(v.ctx, chromedp.Evaluate[string]("String("+expression+")")); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s is %q", expression, got)
		}
		return nil
	})
	require.NoError(v.t, err, "want %q", want)
}

// accessible fails the test for everything that axe finds on the page.
func (v visitor) accessible(where string) {
	v.t.Helper()
	// The checker is evaluated by the debugger: the page's own policy lets no foreign script in.
	_, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool](axe+"\n;true"))
	require.NoError(v.t, err)
	found, err := chromedp.Run(v.ctx, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"], iframes: false}).then((r) =>
		JSON.stringify(r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.target.join(" ") + " (" + n.failureSummary.replace(/\s+/g, " ") + ")").join("; "))))`, chromedp.EvalAwaitPromise))
	require.NoError(v.t, err)
	var violations []string
	require.NoError(v.t, json.Unmarshal([]byte(found), &violations))
	require.Empty(v.t, violations, where)
	wide, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool]("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
	require.NoError(v.t, err)
	require.False(v.t, wide, "%s: the page is wider than the screen", where)
}

// TestACreatorAndAVisitor is the whole way: somebody signs up on a desktop and makes a page, somebody else visits it on a phone, and
// the first sees the numbers rise without reloading.
func TestACreatorAndAVisitor(t *testing.T) {
	var told atomic.Pointer[http.Request]
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told.Store(r) }))
	t.Cleanup(hook.Close)
	s, err := stage.Start("SPILLWAY_PRIVATE_WEBHOOKS=true", "SPILLWAY_SMTP_URL=smtp://127.0.0.1:1")
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	desktop := `Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36`
	first, leave, err := stage.Browser(ctx, filepath.Join(t.TempDir(), "creator"), desktop)
	require.NoError(t, err)
	t.Cleanup(leave)
	creator := visitor{t, first}

	creator.do(stage.Device(1440, 900, false), chromedp.Navigate(s.API+"/"), appears("h1"))
	creator.says(`document.querySelector("h1").textContent`, "Spillway Demo")
	creator.accessible("the demo's numbers")
	creator.do(chromedp.Navigate(s.API + "/sign-up"))
	creator.accessible("sign-up")
	creator.do(creator.fill("input[name=email]", "ada@example.org"), creator.fill("input[name=password]", "analytical engines"), click("main form button"), appears("input[name=handle]"))
	creator.accessible("a new page")
	creator.do(creator.fill("input[name=title]", "Ada"), creator.fill("input[name=handle]", "ada"), click("main form button"), appears("#settings"))
	creator.accessible("an empty page, desktop, light")

	// Links, added without leaving the page.
	for i, title := range []string{"Shop", "Blog", "Band"} {
		creator.do(creator.fill(".add input[name=title]", title), creator.fill(".add input[name=url]", "example.org/"+title), click(".add button"))
		creator.says(`document.querySelectorAll("[data-link]").length`, fmt.Sprint(i+1))
	}
	order := `[...document.querySelectorAll("[data-link] .what b")].map((e) => e.textContent).join(" ")`
	creator.says(order, "Shop Blog Band")
	creator.do(creator.fill(".add input[name=title]", "Bad"), creator.fill(".add input[name=url]", "javascript:alert(1)"), click(".add button"), appears(".add .problem"))
	creator.says(`document.querySelector(".add input[name=title]").value`, "Bad")

	// The order, by keyboard: focus stays on the button that was pressed.
	creator.press("[data-link]:nth-child(3) button[value=up]")
	creator.says(order, "Shop Band Blog")
	creator.says(`document.activeElement.getAttribute("aria-label")`, "Move Band up")
	// The order, by drag: the last goes to the top.
	creator.settled()
	_, err = chromedp.Run(creator.ctx, chromedp.Evaluate[bool](`document.querySelector(".links").scrollIntoView({block: "center"}), true`))
	require.NoError(t, err)
	to, from := creator.middle("[data-link]:nth-child(1) .grip"), creator.middle("[data-link]:nth-child(3) .grip")
	creator.do(chromedp.DragAndDropXY(from[0], from[1], to[0], to[1]-30, 12))
	creator.says(order, "Blog Shop Band")
	creator.says(`document.getElementById("said").textContent`, "The order is saved")
	creator.settled()
	creator.do(click("[data-link]:nth-child(3) button[value=hide]"))
	creator.says(`document.querySelector("[data-link]:nth-child(3) button[value=show]").textContent`, "Show")

	// Somebody visits, on a phone, with another browser.
	phone := `Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1`
	second, leave, err := stage.Browser(ctx, filepath.Join(t.TempDir(), "visitor"), phone)
	require.NoError(t, err)
	t.Cleanup(leave)
	guest := visitor{t, second}
	guest.do(stage.Device(360, 800, true))
	guest.do(chromedp.Navigate(s.Visitors+"/ada"), appears("li a"))
	guest.says(`[...document.querySelectorAll("li a")].map((e) => e.textContent).join(" ")`, "Blog Shop")
	guest.accessible("the visitors' page, phone, dark")
	began := time.Now()
	guest.click("li:nth-child(2) a")
	number := func(name string) string { return `document.querySelector("[data-number=` + name + `]").textContent` }
	creator.says(number("views"), "1")
	creator.says(number("clicks"), "1")
	creator.says(number("unique"), "1")
	t.Logf("one view and one click were seen after %s", time.Since(began).Round(time.Millisecond))
	creator.says(`document.querySelector(".ranked .name").textContent`, "Shop")
	creator.says(`document.querySelectorAll(".feed li").length`, "2")
	creator.says(`document.querySelector("[data-chart] canvas") != null`, "true")
	creator.accessible("the numbers, desktop, light")

	// The creator's own browser does not count, until it is given back.
	at := `location.href`
	creator.do(chromedp.Navigate(s.API+"/pages/ada/browser/mine"), appears("li a"))
	creator.says(at, s.Visitors+"/ada")
	creator.click("li:nth-child(2) a")
	creator.says(`location.href.startsWith("`+s.Visitors+`")`, "false") // wherever it leads
	creator.do(chromedp.Navigate(s.API+"/pages/ada"), appears("#settings"))
	own := func(column int) string {
		return fmt.Sprintf(`[...document.querySelectorAll("[aria-label='Counted and left out'] tbody tr")].filter((r) => r.cells[0].textContent === "You").map((r) => r.cells[%d].textContent).join()`, column)
	}
	creator.says(own(2), "1")
	creator.says(number("clicks"), "1")
	creator.says(number("views"), "1")
	creator.do(chromedp.Navigate(s.API+"/pages/ada/left-out"), appears("#examples"))
	creator.says(`[...document.querySelectorAll(".reasons a")].map((e) => e.textContent).join()`, "cookie: owner")
	creator.says(`[...document.querySelectorAll(".examples .kind.Click")].length`, "1")
	creator.accessible("what was left out, desktop, light")
	creator.do(stage.Device(360, 800, true))
	creator.accessible("what was left out, phone, dark")
	creator.do(stage.Device(1440, 900, false))
	creator.do(chromedp.Navigate(s.API+"/pages/ada/browser/not-mine"), appears("li a"))
	creator.do(chromedp.Navigate(s.API+"/pages/ada"), appears("#settings"))
	creator.says(number("views"), "2")
	creator.says(own(2), "1")

	// A webhook is added, and a test goes there.
	creator.do(creator.fill("#told input[name=url]", hook.URL+"/told"), click("#told .add-hook button"), appears("#told .secret"))
	creator.accessible("a webhook's secret")
	creator.settled()
	creator.press("#told button[name=test]")
	creator.says(`document.querySelector("#told .sent li")?.textContent.includes("Delivered, answered 200")`, "true")
	require.NotEmpty(t, told.Load().Header.Get("Spillway-Signature"))
	creator.accessible("what was sent")

	for _, d := range []struct {
		width, height int64
		dark          bool
	}{{1440, 900, true}, {360, 800, false}, {360, 800, true}} {
		creator.do(stage.Device(d.width, d.height, d.dark), chromedp.Navigate(s.API+"/pages/ada?range=24h"), appears("#settings"))
		creator.says(`document.querySelector("[data-chart] canvas") != null`, "true")
		creator.accessible(fmt.Sprintf("the numbers at %d pixels, dark: %v", d.width, d.dark))
	}

	// A share shows the numbers to somebody who has no account, and nothing to change them.
	creator.do(creator.fill("#shares input[name=name]", "My label"), click("#shares form:last-of-type button"), appears(".secret"))
	address, err := chromedp.Run(creator.ctx, chromedp.Text(chromedp.CSS(".secret")))
	require.NoError(t, err)
	guest.do(chromedp.Navigate(strings.TrimSpace(address)), appears("[data-number=views]"))
	guest.says(number("views"), "2")
	guest.says(`document.getElementById("manage") == null`, "true")
	guest.accessible("a shared page")
	creator.do(click("#shares button[name=revoke]"))
	creator.says(`document.querySelectorAll("#shares button[name=revoke]").length`, "0")
	guest.do(chromedp.Navigate(strings.TrimSpace(address)), appears("h1"))
	guest.says(`document.querySelector("[data-number=views]") == null`, "true")

	creator.do(click("form[action='/sign-out'] button"), appears(".banner"))
	creator.do(chromedp.Navigate(s.API+"/pages/ada"), appears("input[name=password]"))
}

// settled waits until no change is on its way, whose answer would replace what is on the page.
func (v visitor) settled() {
	v.t.Helper()
	v.says(`document.getElementById("manage").classList.contains("busy")`, "false")
}

// press presses Enter on a button, as somebody at a keyboard does, who waits until it has the focus.
func (v visitor) press(selector string) {
	v.t.Helper()
	v.settled()
	v.do(chromedp.Focus(chromedp.CSS(selector)))
	v.says(fmt.Sprintf("document.activeElement === document.querySelector(%q)", selector), "true")
	v.do(chromedp.KeyEvent("\r"))
}

// middle is where an element is on the screen, which is scrolled if it was outside.
func (v visitor) middle(selector string) []float64 {
	v.t.Helper()
	at, err := chromedp.Run(v.ctx, chromedp.Evaluate[[]float64](fmt.Sprintf(
		`(() => { const e = document.querySelector(%q); e.scrollIntoView({block: "nearest"}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()`, selector)))
	require.NoError(v.t, err)
	return at
}

// click follows a link; that its target cannot be reached from here does not matter.
func (v visitor) click(selector string) {
	v.t.Helper()
	_, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool](fmt.Sprintf("document.querySelector(%q).click(), true", selector)))
	require.NoError(v.t, err)
}
