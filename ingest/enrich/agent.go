package enrich

import (
	"strings"

	"spillway.dev/schemas/event"
)

// rule says that an agent which contains text is of that name. The first that matches counts, so the particular stands before the
// general: every browser also calls itself Mozilla, most of them Chrome and Safari too.
type rule struct{ text, name, channel string }

// apps are browsers inside apps: people, whatever else the agent looks like.
var apps = []rule{
	{"Instagram", "Instagram", "social"},
	{"Barcelona ", "Threads", "social"},
	{"FBAN/Messenger", "Messenger", "messenger"},
	{"FB_IAB/Orca", "Messenger", "messenger"},
	{"FBAN/", "Facebook", "social"},
	{"FBAV/", "Facebook", "social"},
	{"FB_IAB/", "Facebook", "social"},
	{"MetaIAB Facebook", "Facebook", "social"},
	{"musical_ly", "TikTok", "social"},
	{"trill_", "TikTok", "social"},
	{"BytedanceWebview", "TikTok", "social"},
	{"TikTok ", "TikTok", "social"},
	{"Snapchat/", "Snapchat", "social"},
	{"[Pinterest/", "Pinterest", "social"},
	{"Pinterest for ", "Pinterest", "social"},
	{"Twitter for ", "X", "social"},
	{"TwitterAndroid", "X", "social"},
	{"LinkedInApp", "LinkedIn", "social"},
	{"Reddit/", "Reddit", "social"},
	{"Bluesky/", "Bluesky", "social"},
	{"Tumblr/", "Tumblr", "social"},
	{"VKAndroidApp", "VK", "social"},
	{"com.vk.", "VK", "social"},
	{"Weibo (", "Weibo", "social"},
	{"__weibo__", "Weibo", "social"},
	{"MicroMessenger/", "WeChat", "messenger"},
	{"KAKAOTALK", "KakaoTalk", "messenger"},
	{" Line/", "LINE", "messenger"},
	{"Viber/", "Viber", "messenger"},
	{"Telegram-Android", "Telegram", "messenger"},
	{"GSA/", "Google app", "search"},
	{"DuckDuckGo/", "DuckDuckGo", ""},
	{"Ddg/", "DuckDuckGo", ""},
}

var browsers = []rule{
	{"Edg/", "Edge", ""}, {"EdgA/", "Edge", ""}, {"EdgiOS/", "Edge", ""}, {"Edge/", "Edge", ""},
	{"OPR/", "Opera", ""}, {"OPT/", "Opera", ""}, {"OPiOS/", "Opera", ""}, {"Opera Mini", "Opera", ""}, {"Opera", "Opera", ""},
	{"SamsungBrowser/", "Samsung Internet", ""},
	{"YaBrowser/", "Yandex", ""},
	{"Vivaldi/", "Vivaldi", ""},
	{"Brave/", "Brave", ""},
	{"MiuiBrowser/", "Mi Browser", ""},
	{"HuaweiBrowser/", "Huawei Browser", ""},
	{"HeyTapBrowser/", "HeyTap", ""},
	{"VivoBrowser/", "Vivo Browser", ""},
	{"UCBrowser/", "UC Browser", ""}, {"UCWEB", "UC Browser", ""},
	{"QQBrowser/", "QQ Browser", ""},
	{"Silk/", "Silk", ""},
	{"Whale/", "Whale", ""},
	{"PaleMoon/", "Pale Moon", ""},
	{"SeaMonkey/", "SeaMonkey", ""},
	{"FxiOS/", "Firefox", ""}, {"Focus/", "Firefox", ""}, {"Firefox/", "Firefox", ""},
	{"CriOS/", "Chrome", ""}, {"Chromium/", "Chromium", ""},
	{"; wv)", "Android WebView", ""},
	{"Chrome/", "Chrome", ""},
	{"Android", "Android Browser", ""},
	{"MSIE ", "Internet Explorer", ""}, {"Trident/", "Internet Explorer", ""},
	{"Version/", "Safari", ""}, {"Safari/", "Safari", ""},
	{"AppleWebKit/", "WebKit", ""},
	{"Gecko/", "Gecko", ""},
}

var systems = []rule{
	{"Windows Phone", "Windows Phone", ""},
	{"Windows", "Windows", ""},
	{"HarmonyOS", "HarmonyOS", ""}, {"OpenHarmony", "HarmonyOS", ""},
	{"KAIOS", "KaiOS", ""},
	{"Tizen", "Tizen", ""}, {"Web0S", "webOS", ""}, {"webOS", "webOS", ""},
	{"PlayStation", "PlayStation", ""}, {"Nintendo", "Nintendo", ""},
	{"Android", "Android", ""},
	{"iPhone", "iOS", ""}, {"iPod", "iOS", ""}, {"iPad", "iPadOS", ""},
	{"CrOS", "ChromeOS", ""},
	{"Macintosh", "macOS", ""}, {"Mac OS X", "macOS", ""},
	{"FreeBSD", "BSD", ""}, {"OpenBSD", "BSD", ""},
	{"Linux", "Linux", ""}, {"X11", "Linux", ""},
	{"BlackBerry", "BlackBerry", ""}, {"BB10", "BlackBerry", ""},
}

var devices = []rule{
	{"SmartTV", "tv", ""}, {"SMART-TV", "tv", ""}, {"Smart TV", "tv", ""}, {"Android TV", "tv", ""}, {"GoogleTV", "tv", ""}, {"AppleTV", "tv", ""},
	{"AFTM", "tv", ""}, {"AFTT", "tv", ""}, {"BRAVIA", "tv", ""}, {"HbbTV", "tv", ""}, {"Web0S", "tv", ""}, {"CrKey", "tv", ""}, {"Roku", "tv", ""},
	{"PlayStation", "console", ""}, {"Xbox", "console", ""}, {"Nintendo", "console", ""},
	{"Watch", "watch", ""},
	{"iPad", "tablet", ""}, {"Tablet", "tablet", ""}, {"Silk/", "tablet", ""}, {"Kindle", "tablet", ""}, {"SM-T", "tablet", ""}, {"SM-X", "tablet", ""},
	{"iPhone", "phone", ""}, {"iPod", "phone", ""}, {"Windows Phone", "phone", ""}, {"Opera Mini", "phone", ""}, {"UCWEB", "phone", ""},
	{"BlackBerry", "phone", ""}, {"BB10", "phone", ""}, {"KAIOS", "phone", ""}, {"Mobile", "phone", ""},
	{"Android", "tablet", ""}, // Android's own rule: a phone says "Mobile"
	{"Windows", "desktop", ""}, {"Macintosh", "desktop", ""}, {"CrOS", "desktop", ""}, {"Linux", "desktop", ""}, {"X11", "desktop", ""}, {"BSD", "desktop", ""},
}

func match(rules []rule, agent string) (name, channel string) {
	for i := range rules {
		if strings.Contains(agent, rules[i].text) {
			return rules[i].name, rules[i].channel
		}
	}
	return "", ""
}

// Agent tells what a user agent says.
func (r *Rules) Agent(agent string) Agent {
	var a Agent
	a.System, _ = match(systems, agent)
	a.Device, _ = match(devices, agent)
	a.Class, a.Reason = r.class(agent)
	if a.Class != event.Class_CLASS_PERSON {
		a.Browser, _ = match(browsers, agent)
		return a
	}
	if a.Browser, a.App = match(apps, agent); a.Browser == "" {
		a.Browser, _ = match(browsers, agent)
	}
	return a
}
