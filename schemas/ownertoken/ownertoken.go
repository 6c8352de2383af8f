// Package ownertoken is how a creator's dashboard and the visitors' pages agree on which browsers are the creator's own, so that
// creators do not count among their own visitors.
//
// The dashboard leads the browser to /{handle}?sw_owner=TOKEN with a Claim, which is good for some minutes. The redirector answers with a
// cookie, the only one there is and only in that browser, that holds a Browser token, and leads on to the page's plain address: a
// claim that stayed in the address bar would be handed on with it, and make other people the owner. Later visits of the profile and
// its links with the cookie are of class owner. A Release takes the cookie away again, in the same way.
//
// A token is "PURPOSE.PROFILE.EXPIRES.MAC": the purpose, the profile's id and a Unix time in seconds, both decimal, and the HMAC-SHA256,
// in base64url without padding, of "spillway owner PURPOSE.PROFILE.EXPIRES", keyed by the secret Secret of the table secrets.
package ownertoken

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"
)

// Purpose says what a token is good for.
type Purpose string

// The purposes.
const (
	// Browser makes every visit that carries it the owner's: what the cookie holds.
	Browser Purpose = "1"
	// Claim makes the browser that is led to it the owner's.
	Claim Purpose = "claim"
	// Release makes the browser that is led to it one like any other.
	Release Purpose = "release"
)

const (
	// Secret is the key's name in the table secrets.
	Secret = "owner"
	// Parameter hands a Claim or a Release to a visitors' page.
	Parameter = "sw_owner"
	// CookiePrefix begins the cookie's name; the profile's id, decimal, follows.
	CookiePrefix = "sw_owner_"
	// LinkTime is how long a Claim or a Release is good: long enough to be led there, too short to be handed on.
	LinkTime = 10 * time.Minute
	// BrowserTime is how long a browser stays the owner's. Browsers keep no cookie longer than 400 days.
	BrowserTime = 365 * 24 * time.Hour
	// Longest is the greatest length of a token, in bytes.
	Longest = len(Release) + 1 + 20 + 1 + 20 + 1 + 43

	domain = "spillway owner "
)

// Sign returns a token that is good until expires, to the second.
func Sign(key []byte, purpose Purpose, profile uint64, expires time.Time) string {
	claim := append([]byte(purpose), '.')
	claim = strconv.AppendUint(claim, profile, 10)
	claim = append(claim, '.')
	claim = strconv.AppendInt(claim, expires.Unix(), 10)
	return string(claim) + "." + mac(key, claim)
}

func mac(key, claim []byte) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(domain))
	h.Write(claim)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Check tells what a token is good for, and until when: nothing, unless it was signed with the key, for the profile, and has not expired.
func Check(key, token []byte, profile uint64, now time.Time) (purpose Purpose, expires time.Time, ok bool) {
	end := bytes.LastIndexByte(token, '.')
	if end < 0 || len(token) > Longest {
		return "", time.Time{}, false
	}
	claim, signature := token[:end], token[end+1:]
	if !hmac.Equal(signature, []byte(mac(key, claim))) {
		return "", time.Time{}, false
	}
	// What is signed has been written by Sign.
	parts := bytes.Split(claim, []byte{'.'})
	if len(parts) != 3 {
		return "", time.Time{}, false
	}
	signed, err := strconv.ParseUint(string(parts[1]), 10, 64)
	if err != nil || signed != profile {
		return "", time.Time{}, false
	}
	seconds, err := strconv.ParseInt(string(parts[2]), 10, 64)
	if err != nil || seconds <= now.Unix() {
		return "", time.Time{}, false
	}
	return Purpose(parts[0]), time.Unix(seconds, 0), true
}
