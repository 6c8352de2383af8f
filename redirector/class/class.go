// Package class tells from a request alone who made it: a person, or a browser or program on its own account; first by what the
// request says of itself, then by the operator's rules. Ingest refines by the user agent what no rule decided and is a person here,
// where it costs the visitor nothing.
package class

import (
	"bytes"

	"spillway.dev/schemas/event"
	"spillway.dev/schemas/rules"
)

// RulesVersion is the version of the rules in this package, written into every event, together with that of the operator's file
// (rules.Set.Version). Raise it with every change of them.
const RulesVersion = 2

// Reasons, as they stand in the event.
const (
	ReasonHead       = "method: HEAD"
	ReasonSecPurpose = "header: Sec-Purpose"
	ReasonPurpose    = "header: Purpose"
	ReasonXPurpose   = "header: X-Purpose"
	ReasonXMoz       = "header: X-Moz"
	ReasonOwner      = "cookie: owner"
	// ReasonCanary is given where the request is not looked at but what it asks for: a link that no person can see.
	ReasonCanary = "scanner: canary"
)

// Request is what the rules look at.
type Request struct {
	Head       bool
	SecPurpose []byte // "prefetch", "prefetch;prerender" … (Fetch Standard, "Sec-Purpose")
	Purpose    []byte // Chromium and Safari before it: "prefetch", "preview"
	XPurpose   []byte // older Safari: "preview"
	XMoz       []byte // older Firefox: "prefetch"
	Owner      bool   // the browser proved to be the profile's owner's
}

// Of returns the class of a request and why, empty for a person. The first rule that matches decides.
func Of(r Request) (event.Class, string) {
	if r.Head {
		return event.Class_CLASS_HEAD, ReasonHead
	}
	if ahead(r.SecPurpose) {
		return event.Class_CLASS_PREFETCH, ReasonSecPurpose
	}
	if ahead(r.Purpose) {
		return event.Class_CLASS_PREFETCH, ReasonPurpose
	}
	if ahead(r.XPurpose) {
		return event.Class_CLASS_PREFETCH, ReasonXPurpose
	}
	if ahead(r.XMoz) {
		return event.Class_CLASS_PREFETCH, ReasonXMoz
	}
	if r.Owner {
		return event.Class_CLASS_OWNER, ReasonOwner
	}
	return event.Class_CLASS_PERSON, ""
}

// ByRules is Of with the operator's rules: they decide about whoever is a person by what the request says of itself. Nil or empty
// rules cost nothing; nothing is allocated.
func ByRules(set *rules.Set, r Request, v rules.Visit) (event.Class, string) {
	class, reason := Of(r)
	if class != event.Class_CLASS_PERSON || set == nil {
		return class, reason
	}
	if rule := set.Match(v); rule != nil {
		return rule.Class, rule.Reason()
	}
	return class, reason
}

// ahead tells whether a purpose says that nobody has asked for the page yet.
func ahead(purpose []byte) bool {
	if len(purpose) == 0 {
		return false
	}
	for _, word := range [...]string{"prefetch", "prerender", "preview"} {
		if containsFold(purpose, word) {
			return true
		}
	}
	return false
}

// containsFold tells whether b contains word, which is lower-case ASCII, in any case.
func containsFold(b []byte, word string) bool {
	for ; len(b) >= len(word); b = b[1:] {
		if bytes.EqualFold(b[:len(word)], []byte(word)) {
			return true
		}
	}
	return false
}
