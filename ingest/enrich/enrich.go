// Package enrich tells what an event's strings mean: what the user agent is, where the referrer belongs, which campaign the
// query names. It costs the visitor nothing (it runs in ingest) and next to nothing an event: a user agent is parsed once and
// remembered, everything else is read where it stands.
//
// What is known of crawlers and of those who fetch link previews comes from a maintained list, crawlers.json, which the script
// "update" writes again; what programs say and browsers do not is in program.go, and what is known of browsers, devices and sites in
// this package's tables. In-app browsers (Instagram, TikTok, Facebook …) are people.
package enrich

import "spillway.dev/schemas/event"

// Version of the rules here. It stands in every row whose class these rules decided, together with that of the operator's file
// (rules.Rebase): raise it with every change of a rule or of crawlers.json, so that it can be told which rows an older rule judged.
const Version = 2

// Agent is what a user agent says.
type Agent struct {
	// Class is CLASS_PERSON, CLASS_BOT or CLASS_PREVIEW.
	Class event.Class
	// Reason is the rule that made it a bot or a preview; empty for a person.
	Reason string
	// Device is desktop, phone, tablet, tv, console, watch, or empty where it is not known.
	Device string
	// Browser is its family without version; the app's name for an in-app browser.
	Browser string
	// System is the operating system's family without version.
	System string
	// App says that the browser is part of an app of that channel ("social", "messenger"): such an app often sends no referrer.
	App string
}

// Rules are all the rules, ready to use by any number of goroutines.
type Rules struct {
	crawlers crawlers
}

// NewRules reads the list of crawlers that is built in. An error says that the list is broken.
func NewRules() (*Rules, error) {
	c, err := readCrawlers(crawlersJSON)
	if err != nil {
		return nil, err
	}
	return &Rules{crawlers: c}, nil
}

// Cache remembers what user agents said. It is not safe for use by several goroutines.
//
// Two generations: what is looked up moves to the young one, and when that has grown to half of the bound it becomes the old one,
// whose content is forgotten. That keeps what is in use, bounds the memory under any number of distinct agents, and costs no
// bookkeeping on a hit, which is one lookup without a lock and without an allocation.
type Cache struct {
	rules      *Rules
	half       int // bytes of a generation
	young, old map[string]*Agent
	size       int // bytes of young
	hits, miss uint64
}

// entryBytes is roughly what a remembered agent takes beside its text.
const entryBytes = 200

// NewCache returns a cache of at most about the given bytes.
func NewCache(rules *Rules, bytes int) *Cache {
	return &Cache{rules: rules, half: max(bytes/2, 1), young: map[string]*Agent{}, old: map[string]*Agent{}}
}

// Agent returns what a user agent says. The result is shared: it must not be changed.
func (c *Cache) Agent(userAgent []byte) *Agent {
	if a := c.young[string(userAgent)]; a != nil {
		c.hits++
		return a
	}
	text := string(userAgent)
	a := c.old[text]
	if a != nil {
		c.hits++
	} else {
		c.miss++
		found := c.rules.Agent(text)
		a = &found
	}
	if c.size += len(text) + entryBytes; c.size > c.half {
		c.young, c.old, c.size = map[string]*Agent{}, c.young, len(text)+entryBytes
	}
	c.young[text] = a
	return a
}

// Lookups returns how often Agent knew the answer and how often it did not, and begins to count anew.
func (c *Cache) Lookups() (hits, misses uint64) {
	hits, misses = c.hits, c.miss
	c.hits, c.miss = 0, 0
	return hits, misses
}
