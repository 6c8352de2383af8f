package enrich

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/event"
)

func rules(t testing.TB) *Rules {
	t.Helper()
	r, err := NewRules()
	require.NoError(t, err)
	return r
}

func TestEveryCrawlersOwnExampleIsNoPerson(t *testing.T) {
	r := rules(t)
	list, err := os.ReadFile("testdata/crawlers.json")
	require.NoError(t, err)
	var examples []string
	require.NoError(t, json.Unmarshal(list, &examples))
	require.Greater(t, len(examples), 1000)
	var people []string
	for _, agent := range examples {
		if r.Agent(agent).Class == event.Class_CLASS_PERSON {
			people = append(people, agent)
		}
	}
	// Left are the examples of those whom this package takes for people's apps.
	require.LessOrEqual(t, len(people), len(notCrawlers), people)
}

// agents reads a list of testdata: one agent a line, its sources in lines that begin with "#".
func agents(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var list []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "# ") {
			list = append(list, line)
		}
	}
	return list
}

// Of programs at least 99 % are found, of people at most 0.1 % are lost.
func TestProgramsAreFoundAndPeopleAreKept(t *testing.T) {
	r := rules(t)
	wrong := func(list []string, person bool) (found []string) {
		for _, agent := range list {
			if a := r.Agent(agent); (a.Class == event.Class_CLASS_PERSON) != person {
				found = append(found, a.Reason+": "+agent)
			}
		}
		return found
	}
	programs, people := agents(t, "testdata/programs.txt"), agents(t, "testdata/people.txt")
	require.Greater(t, len(programs), 1500)
	require.Greater(t, len(people), 1300)
	missed, lost := wrong(programs, false), wrong(people, true)
	t.Logf("found %.2f %% of %d programs, lost %.2f %% of %d people", 100-100*float64(len(missed))/float64(len(programs)), len(programs), 100*float64(len(lost))/float64(len(people)), len(people))
	require.LessOrEqual(t, len(missed), len(programs)/100, missed)
	require.LessOrEqual(t, len(lost), len(people)/1000, lost)
}

func TestAgents(t *testing.T) {
	const ios = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
	const android = "Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/125.0.6422.53 Mobile Safari/537.36 "
	person, bot, preview := event.Class_CLASS_PERSON, event.Class_CLASS_BOT, event.Class_CLASS_PREVIEW
	for _, c := range []struct {
		agent                   string
		class                   event.Class
		device, browser, system string
		app                     string
	}{
		{ios + "Version/17.5 Mobile/15E148 Safari/604.1", person, "phone", "Safari", "iOS", ""},
		{ios + "Mobile/21F90 Instagram 334.0.4.32.98 (iPhone15,2; iOS 17_5_1; en_US; en; scale=3.00; 1179x2556; 609775437)", person, "phone", "Instagram", "iOS", "social"},
		{ios + "Mobile/21E219 [FBAN/FBIOS;FBAV/460.0.0.29.104;FBBV/586186573;FBDV/iPhone13,2;FBMD/iPhone;FBSN/iOS]", person, "phone", "Facebook", "iOS", "social"},
		{ios + "Mobile/15E148 Snapchat/12.90.0.37 (like Safari/8618.2.12.10.9, panda)", person, "phone", "Snapchat", "iOS", "social"},
		{ios + "Mobile/15E148 [Pinterest/iOS]", person, "phone", "Pinterest", "iOS", "social"},
		{android + "musical_ly_2023405030 JsSdk/1.0 NetType/WIFI AppName/musical_ly BytedanceWebview/d8a21c6", person, "phone", "TikTok", "Android", "social"},
		{android + "[FB_IAB/FB4A;FBAV/467.0.0.40.109;] MetaIAB Facebook", person, "phone", "Facebook", "Android", "social"},
		{"Mozilla/5.0 (Linux; Android 13; CUBOT P80) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile Safari/537.36", person, "phone", "Chrome", "Android", ""},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36 Edg/125.0.0.0", person, "desktop", "Edge", "Windows", ""},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:126.0) Gecko/20100101 Firefox/126.0", person, "desktop", "Firefox", "macOS", ""},
		{"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36", person, "desktop", "Chrome", "ChromeOS", ""},
		{"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/125.0 Mobile/15E148 Safari/604.1", person, "tablet", "Chrome", "iPadOS", ""},
		{"Mozilla/5.0 (Linux; Android 12; SM-T870) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Safari/537.36", person, "tablet", "Samsung Internet", "Android", ""},
		{"Opera/9.80 (J2ME/MIDP; Opera Mini/9.80 (S60; SymbOS; Opera Mobi/23.348/191.251; U; en) Presto/2.5.25 Version/10.54", person, "phone", "Opera", "", ""},
		{"Mozilla/5.0 (Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/142.0.7444.142 Mobile Safari/537.36 Instagram 406.0.0.58.159 Android (35/15)", person, "phone", "Instagram", "Android", "social"},
		{"Mozilla/5.0 (Linux; Android 7.0; M bot 54) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/78.0.3904.96 Mobile Safari/537.36", person, "phone", "Chrome", "Android", ""},
		{"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Mobile Safari/537.36 (Ecosia android@150.0.0.0)", person, "phone", "Chrome", "Android", ""},
		{"Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.2; Trident/6.0)", person, "desktop", "Internet Explorer", "Windows", ""},
		{"Mozilla/5.0 (compatible; Unheard/1.0)", bot, "", "", "", ""},
		{"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko; compatible; Unheard) Chrome/98.0.4758.102 Safari/537.36", bot, "desktop", "", "", ""},
		{"Mozilla/5.0 (Linux; Android 13; Pixel 7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Mobile Safari/537.36 who@example.com", bot, "phone", "", "", ""},
		{"Mozilla/5.0 Unheard", bot, "", "", "", ""},
		{"facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", preview, "", "", "", ""},
		{"Twitterbot/1.0", preview, "", "", "", ""},
		{"Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", preview, "", "", "", ""},
		{"WhatsApp/2.23.20.0", preview, "", "", "", ""},
		{"TelegramBot (like TwitterBot)", preview, "", "", "", ""},
		{"Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", preview, "", "", "", ""},
		{"LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)", preview, "", "", "", ""},
		{"http.rb/5.1.1 (Mastodon/4.2.8; +https://mastodon.social/)", preview, "", "", "", ""},
		{"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", bot, "", "", "", ""},
		{"Mozilla/5.0 (compatible; NobodyKnowsThisBot/0.1)", bot, "", "", "", ""},
		{"curl/8.7.1", bot, "", "", "", ""},
		{"Wget/1.21", bot, "", "", "", ""},
		{"python-requests/2.32.0", bot, "", "", "", ""},
		{"Dalvik/2.1.0 (Linux; U; Android 14)", bot, "tablet", "Android Browser", "Android", ""},
		{"", bot, "", "", "", ""},
		{"-", bot, "", "", "", ""},
	} {
		a := rules(t).Agent(c.agent)
		require.Equal(t, c.class, a.Class, "%s: %s", c.agent, a.Reason)
		require.Equal(t, c.class == person, a.Reason == "", c.agent)
		require.Equal(t, c.device, a.Device, c.agent)
		require.Equal(t, c.app, a.App, c.agent)
		if c.class == person {
			require.Equal(t, c.browser, a.Browser, c.agent)
			require.Equal(t, c.system, a.System, c.agent)
		}
	}
}

func TestChannels(t *testing.T) {
	scratch := make([]byte, 0, 512)
	for _, c := range []struct{ referrer, query, agentApp, host, channel string }{
		{"", "", "", "", Direct},
		{"", "", Social, "", Social},
		{"https://l.instagram.com/", "", "", "l.instagram.com", Social},
		{"https://WWW.Google.co.uk/search", "", "", "google.co.uk", Search},
		{"https://www.google.com/", "gclid=abc", "", "google.com", Paid},
		{"https://m.facebook.com/", "fbclid=xyz", "", "m.facebook.com", Social},
		{"https://mail.google.com/mail/u/0", "", "", "mail.google.com", Email},
		{"android-app://com.google.android.gm/", "", "", "com.google.android.gm", Email},
		{"android-app://org.telegram.messenger/", "", "", "org.telegram.messenger", Messenger},
		{"https://me.example:8443/ada", "", "", "me.example", Internal},
		{"https://user:secret@blog.example.org:8080/x", "", "", "blog.example.org", Other},
		{"https://google.evil.example.com/", "", "", "google.evil.example.com", Other},
		{"https://blog.example.org/", "utm_medium=Email&utm_source=a", "", "blog.example.org", Email},
		{"not an address", "", "", "", Direct},
		{"http://[2001:db8::1]:80/x", "", "", "[2001:db8::1]", Other},
	} {
		var campaign Campaign
		campaign.Read([]byte(c.query))
		host := Host([]byte(c.referrer), scratch)
		require.Equal(t, c.host, string(host), c.referrer)
		require.Equal(t, c.channel, Channel(host, []byte("www.me.example"), &Agent{App: c.agentApp}, &campaign), c.referrer)
	}
}

func TestCampaign(t *testing.T) {
	var c Campaign
	c.Read([]byte("a=b&utm_source=news%20letter&utm_medium=e+mail&utm_campaign=100%25&utm_term=%zz&utm_content=&utm_source=second&utm_"))
	require.Equal(t, "news letter", string(c.Source))
	require.Equal(t, "e mail", string(c.Medium))
	require.Equal(t, "100%", string(c.Name))
	require.Equal(t, "%zz", string(c.Term))
	require.Empty(t, c.Content)
	c.Read([]byte("x=1"))
	require.Empty(t, c.Source)
}

func TestCacheForgetsWhatIsNotUsedAndStaysSmall(t *testing.T) {
	c := NewCache(rules(t), 64<<10)
	used := []byte("Mozilla/5.0 (X11; Linux x86_64; rv:26.0) Gecko/20100101 Firefox/26.0")
	c.Agent(used)
	for i := range 10000 {
		c.Agent(fmt.Appendf(nil, "Mozilla/5.0 (X11; Linux x86_64; rv:%d) Gecko/20100101 Firefox/26.0", i))
		c.Agent(used)
	}
	require.LessOrEqual(t, (len(c.young)+len(c.old))*entryBytes, 64<<10)
	hits, misses := c.Lookups()
	require.EqualValues(t, 10000, hits)
	require.EqualValues(t, 10001, misses)
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Agent(used) }))
}

// origins are referrers and queries as most visits have them, and such as have to be written anew.
var origins = []struct{ referrer, query string }{
	{"", ""}, {"https://l.instagram.com/", "fbclid=PAZXh0bgNhZW0CMTEAAa"}, {"https://WWW.Google.com/search?q=x", "utm_source=news%20letter&utm_medium=e-mail&utm_campaign=a+b"}, {"android-app://com.twitter.android", "gclid=x"},
}

// origin reads where each of the visits came from.
func origin(campaign *Campaign, a *Agent, host, scratch []byte, referrers, queries [][]byte) (n int) {
	for i := range referrers {
		campaign.Read(queries[i])
		n += len(Channel(Host(referrers[i], scratch), host, a, campaign))
	}
	return n
}

func bytesOfOrigins() (referrers, queries [][]byte) {
	for _, o := range origins {
		referrers, queries = append(referrers, []byte(o.referrer)), append(queries, []byte(o.query))
	}
	return referrers, queries
}

func TestAnOriginAllocatesNothing(t *testing.T) {
	var campaign Campaign
	referrers, queries := bytesOfOrigins()
	host, scratch := []byte("me.example"), make([]byte, 100)
	read := func() { origin(&campaign, &Agent{}, host, scratch, referrers, queries) }
	read()
	require.Zero(t, testing.AllocsPerRun(100, read))
}

func FuzzAgent(f *testing.F) {
	r := rules(f)
	f.Add("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
	f.Fuzz(func(t *testing.T, agent string) {
		a := r.Agent(agent)
		require.Equal(t, a.Class == event.Class_CLASS_PERSON, a.Reason == "")
	})
}

func FuzzReferrerAndQuery(f *testing.F) {
	f.Add("https://a:b@C:1/x", "utm_source=%2")
	f.Fuzz(func(t *testing.T, referrer, query string) {
		var c Campaign
		c.Read([]byte(query))
		require.NotEmpty(t, Channel(Host([]byte(referrer), nil), nil, &Agent{}, &c))
	})
}

func BenchmarkAgentUnknown(b *testing.B) {
	r := rules(b)
	for b.Loop() {
		r.Agent("Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/125.0.6422.53 Mobile Safari/537.36")
	}
}

func BenchmarkAgentKnown(b *testing.B) {
	c := NewCache(rules(b), 1<<20)
	agent := []byte("Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/125.0.6422.53 Mobile Safari/537.36")
	for b.Loop() {
		c.Agent(agent)
	}
}

// An op is four visits.
func BenchmarkOrigin(b *testing.B) {
	var campaign Campaign
	referrers, queries := bytesOfOrigins()
	host, scratch := []byte("me.example"), make([]byte, 100)
	for b.Loop() {
		origin(&campaign, &Agent{}, host, scratch, referrers, queries)
	}
}
