package enrich

import "bytes"

// Channels that a visit can come through.
const (
	Direct    = "direct"    // no referrer: typed, a bookmark, an app that tells nothing
	Internal  = "internal"  // from the creator's own page
	Social    = "social"    // social networks, in their apps too
	Search    = "search"    // search engines
	Email     = "email"     // mail, by the site or by utm_medium
	Messenger = "messenger" // chats
	Paid      = "paid"      // advertisements, by utm_medium or the ad network's click id
	Other     = "other"     // any other site
)

// sites names the channel of a domain and of all below it.
var sites = map[string]string{
	"instagram.com": Social, "threads.net": Social, "threads.com": Social, "facebook.com": Social, "fb.com": Social, "fb.me": Social, "tiktok.com": Social,
	"twitter.com": Social, "x.com": Social, "t.co": Social, "youtube.com": Social, "youtu.be": Social, "linkedin.com": Social, "lnkd.in": Social,
	"pinterest.com": Social, "pin.it": Social, "reddit.com": Social, "redd.it": Social, "snapchat.com": Social, "tumblr.com": Social, "bsky.app": Social,
	"mastodon.social": Social, "mastodon.online": Social, "mstdn.social": Social, "twitch.tv": Social, "vk.com": Social, "ok.ru": Social,
	"weibo.com": Social, "weibo.cn": Social, "zhihu.com": Social, "xiaohongshu.com": Social, "douyin.com": Social, "quora.com": Social, "xing.com": Social,
	"medium.com": Social, "substack.com": Social, "patreon.com": Social, "onlyfans.com": Social, "soundcloud.com": Social, "flickr.com": Social,
	"vimeo.com": Social, "dailymotion.com": Social, "bilibili.com": Social, "nicovideo.jp": Social, "hatena.ne.jp": Social, "news.ycombinator.com": Social,
	"stackoverflow.com": Social, "stackexchange.com": Social, "goodreads.com": Social, "truthsocial.com": Social, "lemmy.world": Social, "behance.net": Social,
	"dribbble.com": Social, "deviantart.com": Social, "meetup.com": Social, "nextdoor.com": Social, "bereal.com": Social, "kick.com": Social,

	"bing.com": Search, "duckduckgo.com": Search, "baidu.com": Search, "yandex.ru": Search, "yandex.com": Search, "ya.ru": Search, "ecosia.org": Search,
	"qwant.com": Search, "startpage.com": Search, "search.brave.com": Search, "kagi.com": Search, "sogou.com": Search, "so.com": Search, "sm.cn": Search,
	"naver.com": Search, "daum.net": Search, "seznam.cz": Search, "ask.com": Search, "search.aol.com": Search, "mojeek.com": Search, "swisscows.com": Search,
	"perplexity.ai": Search, "chatgpt.com": Search, "chat.openai.com": Search, "gemini.google.com": Search, "copilot.microsoft.com": Search, "claude.ai": Search,
	"coccoc.com": Search, "goo.ne.jp": Search, "metager.org": Search, "presearch.com": Search, "you.com": Search,

	"mail.google.com": Email, "outlook.live.com": Email, "outlook.office.com": Email, "outlook.office365.com": Email, "mail.yahoo.com": Email, "mail.proton.me": Email,
	"mail.aol.com": Email, "mail.ru": Email, "e.mail.ru": Email, "mail.yandex.ru": Email, "mail.yandex.com": Email, "gmx.net": Email, "web.de": Email,
	"app.fastmail.com": Email, "mail.zoho.com": Email, "icloud.com": Email, "mail.163.com": Email, "mail.qq.com": Email, "navigator.gmx.net": Email,
	"com.google.android.gm": Email, "com.microsoft.office.outlook": Email, "com.yahoo.mobile.client.android.mail": Email,

	"web.whatsapp.com": Messenger, "whatsapp.com": Messenger, "wa.me": Messenger, "l.wl.co": Messenger, "web.telegram.org": Messenger, "telegram.org": Messenger,
	"t.me": Messenger, "messenger.com": Messenger, "m.me": Messenger, "discord.com": Messenger, "discordapp.com": Messenger, "slack.com": Messenger,
	"teams.microsoft.com": Messenger, "line.me": Messenger, "signal.org": Messenger, "wechat.com": Messenger, "weixin.qq.com": Messenger, "viber.com": Messenger,
	"skype.com": Messenger, "chat.google.com": Messenger, "kakao.com": Messenger,

	// android-app:// referrers name the package.
	"com.google.android.googlequicksearchbox": Search, "com.instagram.android": Social, "com.facebook.katana": Social, "com.facebook.lite": Social,
	"com.zhiliaoapp.musically": Social, "com.snapchat.android": Social, "com.twitter.android": Social, "com.pinterest": Social, "com.reddit.frontpage": Social,
	"com.linkedin.android": Social, "com.google.android.youtube": Social, "com.whatsapp": Messenger, "org.telegram.messenger": Messenger,
	"com.facebook.orca": Messenger, "com.discord": Messenger, "com.slack": Messenger, "jp.naver.line.android": Messenger, "com.google.android.apps.messaging": Messenger,

	"doubleclick.net": Paid, "googleadservices.com": Paid, "googlesyndication.com": Paid, "adnxs.com": Paid, "taboola.com": Paid, "outbrain.com": Paid,
}

// national are the names of sites that have a domain in each country.
var national = map[string]string{"google": Search, "yahoo": Search, "yandex": Search, "pinterest": Social, "amazon": Other}

// media names the channel that a campaign declares by utm_medium.
var media = map[string]string{
	"email": Email, "e-mail": Email, "newsletter": Email, "mail": Email,
	"social": Social, "social-media": Social, "social_media": Social, "sm": Social, "organic_social": Social, "bio": Social, "story": Social,
	"cpc": Paid, "ppc": Paid, "paid": Paid, "paidsocial": Paid, "paid_social": Paid, "paid-social": Paid, "paidsearch": Paid, "display": Paid, "banner": Paid,
	"cpm": Paid, "cpv": Paid, "ads": Paid, "ad": Paid, "retargeting": Paid,
	"organic": Search, "sms": Messenger, "whatsapp": Messenger, "chat": Messenger, "messenger": Messenger,
}

// Host returns the host of a referrer, in lower case and without "www." and port; the package's name of an android-app. It uses
// scratch for what it has to write, and returns nothing for what is no address.
func Host(referrer, scratch []byte) []byte {
	i := bytes.Index(referrer, []byte("://"))
	if i < 0 {
		return nil
	}
	host := referrer[i+3:]
	if end := bytes.IndexAny(host, "/?#\\"); end >= 0 {
		host = host[:end]
	}
	if at := bytes.LastIndexByte(host, '@'); at >= 0 {
		host = host[at+1:]
	}
	if colon := bytes.LastIndexByte(host, ':'); colon >= 0 && bytes.IndexByte(host[colon:], ']') < 0 {
		host = host[:colon]
	}
	for k, c := range host {
		if c >= 'A' && c <= 'Z' { // seldom: browsers send lower case
			scratch = append(scratch[:0], host...)
			for ; k < len(scratch); k++ {
				if c := scratch[k]; c >= 'A' && c <= 'Z' {
					scratch[k] = c + 'a' - 'A'
				}
			}
			host = scratch
			break
		}
	}
	if len(host) > 4 && string(host[:4]) == "www." {
		host = host[4:]
	}
	return host
}

// Channel says through which channel a visit came. host is the referrer's, own the host that was asked, a the user agent, campaign
// what the query names.
func Channel(host, own []byte, a *Agent, campaign *Campaign) string {
	if len(host) > 0 && bytes.Equal(host, trimWWW(own)) {
		return Internal
	}
	if campaign.clickID {
		return Paid
	}
	if len(campaign.Medium) > 0 && len(campaign.Medium) <= 32 {
		var lower [32]byte
		n := copy(lower[:], campaign.Medium)
		for i, c := range lower[:n] {
			if c >= 'A' && c <= 'Z' {
				lower[i] = c + 'a' - 'A'
			}
		}
		if channel, ok := media[string(lower[:n])]; ok {
			return channel
		}
	}
	if len(host) == 0 {
		if a.App != "" {
			return a.App
		}
		return Direct
	}
	for rest := host; ; {
		if channel, ok := sites[string(rest)]; ok {
			return channel
		}
		dot := bytes.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		if channel, ok := national[string(rest[:dot])]; ok && len(rest)-dot <= len(".com.xx") {
			return channel
		}
		rest = rest[dot+1:]
	}
	return Other
}

func trimWWW(host []byte) []byte { return bytes.TrimPrefix(host, []byte("www.")) }
