// Command screenshots draws the pages for docs/screenshots: the visitors' page and the dashboard, light and dark, on a phone and on a
// desktop. It runs bin/spillway in a directory of its own, on ports of its own, and takes everything away again.
//
//	go run ./browsertest/screenshots -out ../docs/screenshots
package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chromedp/chromedp"

	"spillway.dev/profileapi/browsertest/stage"
	"spillway.dev/service/spillwaytest"
)

func main() {
	log := flag.String("log", "../bench/replay/testdata/apache_logs", "a web server's access log, whose visitors are the page's")
	out := flag.String("out", "../docs/screenshots", "directory of the pictures")
	flag.Parse()
	if err := run(*log, *out); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

func run(log, out string) error {
	dir, err := os.MkdirTemp("", "spillway-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// A mail server that is not there: nothing is sent to it here.
	s, err := stage.Start("SPILLWAY_SMTP_URL=smtp://127.0.0.1:1")
	if err != nil {
		return err
	}
	defer s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	browser, leave, err := stage.Browser(ctx, filepath.Join(dir, "browser"), "")
	if err != nil {
		return err
	}
	defer leave()
	if err := prepare(browser, s, log); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, shot := range []struct {
		name, url     string
		width, height int64
		dark          bool
		scroll        string
	}{
		{"page-phone-light", s.Visitors + "/ada", 360, 800, false, ""},
		{"page-phone-dark", s.Visitors + "/ada", 360, 800, true, ""},
		{"page-desktop-light", s.Visitors + "/ada", 1440, 900, false, ""},
		{"page-desktop-dark", s.Visitors + "/ada", 1440, 900, true, ""},
		{"dashboard-phone-light", s.API + "/pages/ada", 360, 800, false, ""},
		{"dashboard-phone-dark", s.API + "/pages/ada", 360, 800, true, ""},
		{"dashboard-desktop-light", s.API + "/pages/ada", 1440, 900, false, ""},
		{"dashboard-desktop-dark", s.API + "/pages/ada?range=30d", 1440, 900, true, ""},
		{"breakdowns-desktop-light", s.API + "/pages/ada", 1440, 900, false, "#breakdowns"},
		{"links-desktop-light", s.API + "/pages/ada", 1440, 900, false, "#links"},
		{"links-phone-dark", s.API + "/pages/ada", 360, 800, true, "#links"},
		{"left-out-desktop-light", s.API + "/pages/ada/left-out", 1440, 900, false, ""},
		{"left-out-phone-dark", s.API + "/pages/ada/left-out", 360, 800, true, ""},
		{"told-desktop-light", s.API + "/pages/ada", 1440, 900, false, "#told"},
		{"told-phone-light", s.API + "/pages/ada", 360, 800, false, "#told"},
		{"sign-up-phone-light", s.API + "/sign-up", 360, 800, false, ""},
	} {
		steps := chromedp.Steps(stage.Device(shot.width, shot.height, shot.dark), chromedp.Navigate(shot.url), chromedp.Sleep(1500*time.Millisecond))
		if err := chromedp.Do(browser, steps); err != nil {
			return fmt.Errorf("open %s: %w", shot.url, err)
		}
		if shot.scroll != "" {
			script := fmt.Sprintf("document.querySelector(%q).scrollIntoView({block:'start'}); window.scrollBy(0,-16); true", shot.scroll)
			if _, err := chromedp.Run(browser, chromedp.Evaluate[bool](script)); err != nil {
				return err
			}
			if err := chromedp.Do(browser, chromedp.Sleep(1500*time.Millisecond)); err != nil {
				return err
			}
		}
		picture, err := chromedp.Run(browser, chromedp.CaptureScreenshot())
		if err != nil {
			return fmt.Errorf("draw %s: %w", shot.name, err)
		}
		if picture, err = smaller(picture); err != nil {
			return fmt.Errorf("pack %s: %w", shot.name, err)
		}
		if err := os.WriteFile(filepath.Join(out, shot.name+".png"), picture, 0o644); err != nil {
			return err
		}
		fmt.Printf("%-26s %4d kB\n", shot.name, len(picture)>>10)
	}
	return nil
}

// prepare makes an account and a page as a creator does, gives it a past, and lets people visit it.
func prepare(browser context.Context, s *stage.Stage, log string) error {
	err := chromedp.Do(browser, stage.Device(1440, 900, false), chromedp.Navigate(s.API+"/sign-up"),
		chromedp.SendKeys(chromedp.CSS("input[name=email]"), "ada@example.org"),
		chromedp.SendKeys(chromedp.CSS("input[name=password]"), "analytical engines"),
		chromedp.Click(chromedp.CSS("main form button")), chromedp.WaitVisible(chromedp.CSS("input[name=title]")),
		chromedp.SendKeys(chromedp.CSS("input[name=title]"), "Ada Lovelace"), chromedp.SendKeys(chromedp.CSS("input[name=handle]"), "ada"),
		chromedp.Click(chromedp.CSS("main form button")), chromedp.WaitVisible(chromedp.CSS("#settings")))
	if err != nil {
		return fmt.Errorf("sign up: %w", err)
	}
	const script = `(async () => {
		const post = (path, fields) => fetch(path, {method: "POST", body: new URLSearchParams(fields), headers: {"X-Part": "manage"}}).then((a) => a.text());
		const add = (title, url) => post("/pages/ada/links", {title, url});
		await post("/pages/ada", {bio: "Poetical science. Notes on the Analytical Engine, and where to find me."});
		await add("Notes on the Analytical Engine", "https://example.org/notes");
		await add("My newsletter: letters from 1843", "https://example.org/letters");
		await add("Shop: prints and punched cards", "https://example.org/shop");
		await add("Podcast with Charles", "https://example.org/podcast");
		await add("Talks", "https://example.org/talks");
		await post("/pages/ada/webhooks", {url: "https://example.org/hook"});
		const html = await fetch("/pages/ada").then((a) => a.text());
		const page = new DOMParser().parseFromString(html, "text/html");
		return [page.querySelector(".code img").getAttribute("src").split("/")[3], ...[...page.querySelectorAll("[data-link]")].map((e) => e.dataset.link)];
	})()`
	ids, err := chromedp.Run(browser, chromedp.Evaluate[[]string](script, chromedp.EvalAwaitPromise))
	if err != nil {
		return fmt.Errorf("make the page: %w", err)
	}
	replayed, err := s.Replay(log)
	if err != nil {
		return err
	}
	// A partition has a term once somebody has taken it.
	if err := spillwaytest.Eventually(func() error { return s.Past(ids[0], ids[1:], replayed, 45) }); err != nil {
		return fmt.Errorf("make a past: %w", err)
	}
	for i := range 60 {
		agent, referrer := agents()[i%len(agents())], []string{"https://www.instagram.com/", "https://www.tiktok.com/", ""}[i%3]
		if err := s.Visit("/ada", agent, referrer, fmt.Sprintf("80.110.%d.%d", i/4, i)); err != nil {
			return err
		}
	}
	time.Sleep(6 * time.Second) // the numbers of the past are swept up, too
	return nil
}

func agents() []string {
	return []string{
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
	}
}

// smaller writes a picture with 256 colours, which pages have few of, when that is smaller.
func smaller(picture []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	count := map[color.Color]int{}
	bounds := full.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[full.At(x, y)]++
		}
	}
	palette := mostUsed(count, 256)
	packed := image.NewPaletted(bounds, palette)
	nearest := make(map[color.Color]uint8, len(count))
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := full.At(x, y)
			index, known := nearest[c]
			if !known {
				index = uint8(palette.Index(c))
				nearest[c] = index
			}
			packed.SetColorIndex(x, y, index)
		}
	}
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&b, packed); err != nil {
		return nil, err
	}
	if b.Len() < len(picture) {
		return b.Bytes(), nil
	}
	return picture, nil
}

func mostUsed(count map[color.Color]int, most int) color.Palette {
	palette := make(color.Palette, 0, len(count))
	for c := range count {
		palette = append(palette, c)
	}
	slices.SortFunc(palette, func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	return palette[:min(most, len(palette))]
}
