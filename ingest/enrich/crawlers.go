package enrich

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

//go:embed crawlers.json
var crawlersJSON []byte

// ordinary is what ordinary browsers say: a pattern is looked for where it has three bytes that are rare here.
const ordinary = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 " +
	"Safari/604.1 (Windows NT 10.0; Win64; x64) Chrome/125.0.0.0 (Linux; Android 14; Pixel 8 Build/AP1A; wv) (Macintosh; Intel Mac OS X 10_15_7) " +
	"Gecko/20100101 Firefox/126.0 Edg/125.0 SamsungBrowser/25.0 Instagram FBAN/FBIOS;FBAV;FBLC/en_US BytedanceWebview musical_ly Snapchat (compatible; http://www."

// notCrawlers are patterns of the list that also match what people use.
var notCrawlers = map[string]bool{
	"MetaIAB Facebook":  true, // the in-app browser of Facebook on Android
	`Bluesky\/`:         true, // apps whose in-app browsers name themselves
	`Tumblr\/`:          true,
	`Notion\/`:          true,
	"Viber":             true,
	"Goodreads":         true,
	`Valve\/Steam`:      true,
	`^Silk\/`:           true,
	`AP3A\.240617\.008`: true, // the build of Android 15 on phones of many makers
	"Sogou":             true, // its browser and its app; its crawlers call themselves spiders
	"Sonic":             true, // names of phones, tablets and sites' own browsers
	"Butterfly":         true,
	"Fever":             true,
	"Fluid":             true,
	"Expanse":           true,
	`008\/`:             true,
}

type crawler struct {
	name    string // the pattern, readable
	text    string // must be in the agent
	start   bool   // at its very beginning
	regexp  *regexp.Regexp
	preview bool
}

// crawlers finds which pattern of the list an agent matches. Each pattern has a text that must be there; three bytes of that text
// lead to it, so an agent is walked over once and no pattern is tried that cannot match.
type crawlers struct {
	seen   [1 << 16 / 64]uint64 // which trigrams (by hash) lead anywhere
	byGram map[[3]byte][]candidate
	rest   []crawler // without any such text
}

type candidate struct {
	crawler
	at int // of the trigram in text
}

func gramBit(a, b, c byte) (word, bit uint32) {
	h := (uint32(a)<<16 | uint32(b)<<8 | uint32(c)) * 0x9E3779B1 >> 16
	return h / 64, h % 64
}

func readCrawlers(list []byte) (crawlers, error) {
	var entries []struct {
		Pattern string `json:"pattern"`
		Preview bool   `json:"preview"`
	}
	if err := json.Unmarshal(list, &entries); err != nil {
		return crawlers{}, fmt.Errorf("list of crawlers: %w", err)
	}
	all := make([]crawler, 0, len(entries))
	common := map[[3]byte]int{}
	count := func(s string, weight int) {
		for i := 0; i+3 <= len(s); i++ {
			common[[3]byte{s[i], s[i+1], s[i+2]}] += weight
		}
	}
	count(ordinary, 1000)
	for _, e := range entries {
		if notCrawlers[e.Pattern] {
			continue
		}
		c, err := compile(e.Pattern)
		if err != nil {
			return crawlers{}, fmt.Errorf("list of crawlers: %w", err)
		}
		c.preview = e.Preview
		all = append(all, c)
		count(c.text, 1)
	}
	found := crawlers{byGram: map[[3]byte][]candidate{}}
	for _, c := range all {
		if len(c.text) < 3 {
			found.rest = append(found.rest, c)
			continue
		}
		at, rarest := 0, int(^uint(0)>>1)
		for i := 0; i+3 <= len(c.text); i++ {
			if n := common[[3]byte{c.text[i], c.text[i+1], c.text[i+2]}]; n < rarest {
				at, rarest = i, n
			}
		}
		g := [3]byte{c.text[at], c.text[at+1], c.text[at+2]}
		found.byGram[g] = append(found.byGram[g], candidate{c, at})
		word, bit := gramBit(g[0], g[1], g[2])
		found.seen[word] |= 1 << bit
	}
	return found, nil
}

// compile keeps the regular expression only where the pattern is more than a text.
func compile(pattern string) (crawler, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return crawler{}, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	tree = tree.Simplify()
	c := crawler{name: readable(pattern)}
	parts := []*syntax.Regexp{tree}
	if tree.Op == syntax.OpConcat {
		parts = tree.Sub
	}
	if len(parts) > 1 && parts[0].Op == syntax.OpBeginText {
		c.start, parts = true, parts[1:]
	}
	if len(parts) == 1 && literal(parts[0]) {
		c.text = string(parts[0].Rune)
		return c, nil
	}
	c.start = false // the regular expression says so itself
	for _, p := range parts {
		if literal(p) && len(string(p.Rune)) > len(c.text) {
			c.text = string(p.Rune)
		}
	}
	if c.regexp, err = regexp.Compile(pattern); err != nil {
		return crawler{}, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return c, nil
}

func literal(r *syntax.Regexp) bool {
	return r.Op == syntax.OpLiteral && r.Flags&syntax.FoldCase == 0
}

func readable(pattern string) string {
	return strings.NewReplacer(`\`, "", "^", "", "$", "", "([-]|)", "").Replace(pattern)
}

// find returns the first crawler, by its place in the agent, that an agent matches.
func (c *crawlers) find(agent string) *crawler {
	for i := 0; i+3 <= len(agent); i++ {
		word, bit := gramBit(agent[i], agent[i+1], agent[i+2])
		if c.seen[word]>>bit&1 == 0 {
			continue
		}
		of := c.byGram[[3]byte{agent[i], agent[i+1], agent[i+2]}]
		for k := range of {
			x := &of[k]
			from := i - x.at
			if from < 0 || x.start && from != 0 || !strings.HasPrefix(agent[from:], x.text) {
				continue
			}
			if x.regexp == nil || x.regexp.MatchString(agent) {
				return &x.crawler
			}
		}
	}
	for k := range c.rest {
		if x := &c.rest[k]; x.regexp != nil && x.regexp.MatchString(agent) || x.regexp == nil && strings.Contains(agent, x.text) {
			return x
		}
	}
	return nil
}
