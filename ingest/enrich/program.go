package enrich

import (
	"regexp"
	"strings"

	"spillway.dev/schemas/event"
)

// telltale are words by which programs that are in no list give themselves away, in lower case. The vocabulary is that of the package
// isbot (Unlicense), without what people's browsers and phones say too.
var telltale = []string{
	// what they do
	"crawl", "spider", "scrap", "monitor", "checker", "validator", "verifier", "inspect", "analyz", "audit", "detector", "classifier", "-scan",
	"parser", "fetch", "archiv", "downloader", "transcoder", "lookup", "finder", "extractor", "retriev", "research", "measurement", "capture",
	"optimiz", "synthetic", "thumb", "screenshot", "screenie", "mshots", "websnap", "snapsearch", "sitemap", "webcopier", "linkcheck", "advisor", "observatory", "diagnostic", "speed insight",
	"pagespeed", "prospect", "favicon", "keyword suggestion", "domainscanner", "securityscanner", "quiterss", "reederfor", "feedable",
	// what they are made with
	"headless", "phantomjs", "selenium", "puppeteer", "playwright", "cypress/", "httrack", "nutch", "libwww-perl", "httpclient", "http client", "fasthttp", "urllib", "okhttp",
	"lighthouse", "nmap", "zgrab", "masscan", "wkhtmlto", "webkit2png", "web services client",
	// whom they fetch for
	"google-", "google search console", "google page", "googlemessages", "googleadsense", "duplexweb", "cloudflare", "feedparser", "claude-",
	"ms-office", "microsoft outlook", "microsoft office", // Office opens a link itself before the browser does
	// names that the list lacks
	"gomezagent", "neustar wpm", "ptst", "iplabel", "dejaclick", "pageburst", "sparkler", "whatcms", "mixnode", "infrawatch", "convertify", "debugbear", "burpcollaborator", "firefox mutant",
	"wappalyzer", "watchtowr", "webglance", "xtate", "collapsify", "hardenize", "datanyze", "dareboost", "statuscake", "functionize", "assetnote", "site24x7",
	// where to complain
	"http://", "https://", "+www", "(www.", " www.",
}

// structure are shapes that no browser's agent has.
var structure = []struct {
	name   string
	regexp *regexp.Regexp
	old    bool // browsers of long ago had it, too
}{
	// An address to write to; what stands behind the @ of "Ecosia android@143.0" is a version.
	{"gives an address of mail", regexp.MustCompile(`[\w.+-](?:@|\[at\]| at )[a-z][\w-]*(?:\.|\[dot\]| dot )[a-z]`), false},
	{"says scanner", regexp.MustCompile(`(?:^|[^m])scanner`), false}, // CamScanner is people's
	{"names a site", regexp.MustCompile(`[a-z-]\.(?:com|org|net|io)(?:[^\w.-]|$)`), true},
	{"another agent in front", regexp.MustCompile(`^[\w. /|]+[,|] ?mozilla/`), false},
	{"no version of Android", regexp.MustCompile(`; android 0;`), false},
	// Chrome, Edge and Safari have "(KHTML, like Gecko)", and nothing more in those parentheses.
	{"more than a browser's engine", regexp.MustCompile(`like gecko(?:; ?[a-z]|, google)`), true},
	// Only Internet Explorer and Konqueror called themselves compatible, long ago.
	{"compatible with browsers", regexp.MustCompile(`\(compatible(?:; |\))`), true},
	{"compatible with browsers", regexp.MustCompile(`(?:applewebkit|gecko/).*[;(] ?compatible[;)]`), true},
}

// engines are what browsers are made of; an agent without any of them is no browser's.
var engines = []string{"applewebkit", "gecko/", "khtml", "trident", "msie ", "presto/", "opera", "goanna", "netfront", "midp", "up.browser", "up.link", "obigo",
	"teleca", "dorado", "wap-browser", "wap browser", "maui", "docomo/", "openwave", "nokia", "blackberry", "sonyericsson", "samsung-", "ucbrowser", "ucweb", "wap2.0", "nintendo",
	"playstation", "antgalio", "netscape", "jasmine", "polaris", "semc-browser", "servo/", "firefox/", "fban/", "webkit/",
	"chrome/", "safari", "browser", "browse/", "opr/", "elinks/", "links (", "lynx/", "dillo/", "mosaic/", "palmos", "amiga", "goggalaxyclient/", "gecko ", "hbbtv/", "maple", "mozilla/5.0 (linux; android", "mozilla/5.0 (linux; u; android", "mozilla/5.0 (ipad", "mozilla/5.0 (iphone"}

// inApps is how the agents begin of apps that say nothing of their engine when they open a link.
var inApps = []string{"Instagram ", "TikTok ", "Reddit/", "Pinterest for ", "Bluesky/", "Tumblr/", "Viber/", "Twitter"}

// class tells people's agents from programs'. The first that holds decides: a name in the list, a word, a shape.
func (r *Rules) class(agent string) (event.Class, string) {
	if strings.TrimSpace(agent) == "" || agent == "-" {
		return event.Class_CLASS_BOT, "no user agent"
	}
	if c := r.crawlers.find(agent); c != nil {
		if c.preview {
			return event.Class_CLASS_PREVIEW, c.name
		}
		return event.Class_CLASS_BOT, c.name
	}
	lower := strings.ToLower(agent)
	said := withoutModel(lower)
	if botWord(said) {
		return event.Class_CLASS_BOT, "calls itself a bot"
	}
	if strings.Contains(said, "preview") || strings.Contains(said, "unfurl") {
		return event.Class_CLASS_PREVIEW, "calls itself a preview"
	}
	for _, t := range telltale {
		if strings.Contains(said, t) {
			return event.Class_CLASS_BOT, "says " + strings.TrimSpace(t)
		}
	}
	for i := range structure {
		if structure[i].regexp.MatchString(lower) && !(structure[i].old && oldCompatible(lower)) {
			return event.Class_CLASS_BOT, structure[i].name
		}
	}
	for _, b := range inApps {
		if strings.HasPrefix(agent, b) {
			return event.Class_CLASS_PERSON, ""
		}
	}
	for _, e := range engines {
		if strings.Contains(lower, e) {
			return event.Class_CLASS_PERSON, ""
		}
	}
	return event.Class_CLASS_BOT, "not a browser"
}

// oldCompatible says whether an agent is that of a browser that really calls itself compatible: those of long ago, and of televisions.
func oldCompatible(lower string) bool {
	for _, browser := range [...]string{"msie ", "konqueror", "opera", "netfront", "galio", "viera", "linux mips", "maple", "polaris", "haiku", "beos", "amiga", "risc os"} {
		if strings.Contains(lower, browser) {
			return true
		}
	}
	return false
}

// withoutModel leaves out the name of an Android phone: there are models named "M bot 54", "XBot Junior", "Spider 8" and "Capture+".
func withoutModel(lower string) string {
	const begin = "mozilla/5.0 (linux; android "
	rest, ok := strings.CutPrefix(lower, begin)
	if !ok {
		return lower
	}
	version, rest, ok := strings.Cut(rest, ";")
	if !ok || strings.Contains(version, ")") {
		return lower
	}
	end := len(rest)
	for _, stop := range [...]string{" build/", ";", ")"} {
		if i := strings.Index(rest, stop); i >= 0 {
			end = min(end, i)
		}
	}
	return rest[end:]
}

// botWord looks for "bot" at a word's end: "examplebot/1.0", "bot;", "bots". "Cubot" makes phones.
func botWord(lower string) bool {
	for from := 0; ; {
		i := strings.Index(lower[from:], "bot")
		if i < 0 {
			return false
		}
		i += from
		end := i + len("bot")
		if end < len(lower) && lower[end] == 's' {
			end++
		}
		letter := end < len(lower) && lower[end] >= 'a' && lower[end] <= 'z'
		if !letter && !strings.HasSuffix(lower[:i], "cu") {
			return true
		}
		from = end
	}
}
