package mail

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// Kind is a kind of letters that can be unsubscribed from on its own.
type Kind string

// The kinds.
const (
	Alerts Kind = "alerts"
	Weekly Kind = "weekly"
)

// Secret is the name, in the table secrets, of the key that signs the addresses that unsubscribe.
const Secret = "mail"

// UnsubscribePath is where the dashboard answers them; the token follows.
const UnsubscribePath = "/unsubscribe/"

// Token proves that whoever has it got a letter of the kind about the profile. It is good for ever, as the letter is kept for ever.
func Token(key []byte, kind Kind, profile int64) string {
	claim := string(kind) + "." + strconv.FormatInt(profile, 10)
	h := hmac.New(sha256.New, key)
	h.Write([]byte("spillway mail " + claim))
	return claim + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Check tells what a token unsubscribes from.
func Check(key []byte, token string) (kind Kind, profile int64, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", 0, false
	}
	kind = Kind(parts[0])
	profile, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || kind != Alerts && kind != Weekly || !hmac.Equal([]byte(token), []byte(Token(key, kind, profile))) {
		return "", 0, false
	}
	return kind, profile, true
}
