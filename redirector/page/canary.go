package page

import "crypto/sha256"

// canaryLetters and canaryLength are those of links' codes, so that a canary looks like any other link of its page.
const (
	canaryLetters = "23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
	canaryLength  = 7
)

// Canary returns the code of the link on a profile's page that no person can see or reach, and that robots.txt forbids: whoever follows
// it follows every link. It is the same on every redirector. A real link of that code, of which there is one in 10¹², is that link.
func Canary(handle string) string {
	sum := sha256.Sum256([]byte("canary of " + handle))
	var code [canaryLength]byte
	for i := range code {
		code[i] = canaryLetters[int(sum[i])%len(canaryLetters)]
	}
	return string(code[:])
}
