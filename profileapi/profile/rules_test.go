package profile

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHandles(t *testing.T) {
	var r Rules
	for _, good := range []string{"ab", "ada", "ada.lovelace", "a-b", "a_b", "_x_", "0815", strings.Repeat("a", 30)} {
		require.NoError(t, r.Handle(good), good)
	}
	for _, bad := range []string{"", "a", "Ada", "a b", "ä1", ".ab", "ab.", "-ab", "ab-", "a..b", "a/b", "a%b", "admin", "api", "v1", "robots.txt", "favicon.ico",
		"favicon.ico/", "a\x00b", strings.Repeat("a", 31)} {
		require.Error(t, r.Handle(bad), "%q", bad)
	}
}

func TestTargetsAreStoredAsTheyAreSent(t *testing.T) {
	var r Rules
	for given, want := range map[string]string{
		"https://example.org":                        "https://example.org",
		" https://example.org/ ":                     "https://example.org/",
		"HTTPS://Example.ORG/Path?Query=1#Frag":      "https://example.org/Path?Query=1#Frag",
		"http://example.org:8080/a%20b%2Fc?x=%41&y":  "http://example.org:8080/a%20b%2Fc?x=%41&y",
		"https://example.org/a b":                    "https://example.org/a%20b",
		"https://example.org/日本?q=ö#é":               "https://example.org/%E6%97%A5%E6%9C%AC?q=%C3%B6#%C3%A9",
		"https://bücher.example/x":                   "https://xn--bcher-kva.example/x",
		"https://[2001:db8::1]:8443/":                "https://[2001:db8::1]:8443/",
		"https://example.org./":                      "https://example.org./",
		"https://example.org:/":                      "https://example.org/",
		"https://example.org/?a=<b>&c=\"d\"":         "https://example.org/?a=%3Cb%3E&c=%22d%22",
		"https://example.org/@user/post:1":           "https://example.org/@user/post:1",
		"https://example.org?next=https://other.org": "https://example.org?next=https://other.org",
	} {
		got, err := r.Target(given)
		require.NoError(t, err, given)
		require.Equal(t, want, got)
		again, err := r.Target(got)
		require.NoError(t, err)
		require.Equal(t, want, again, "what was stored is stored the same again")
	}
}

func TestTargetsThatAreRefused(t *testing.T) {
	r := NewRules([]string{"https://lnk.example"}, []string{"127.0.0.1:8080", "0.0.0.0:9999"})
	for _, bad := range []string{
		"", "example.org", "//example.org", "/l/abc", "ftp://example.org", "javascript:alert(1)", "javascript://example.org/%0aalert(1)", "data:text/html,x",
		"mailto:a@example.org", "https:example.org", "https:/example.org", "https://", "https:///path", "https://?x", "http://a b/", "https://exa mple.org",
		"https://user@example.org", "https://user:secret@example.org", "https://example.org@evil.example/", "https://good.example\\@evil.example",
		"https://example.org\\evil", "https://example.org/\r\nSet-Cookie: x=1", "https://example.org/\x00", "https://example.org/\t", "https://example.org/\u0085",
		"https://example.org/%zz", "https://example.org:0/", "https://example.org:65536/", "https://example.org:x/", "https://[::1", "https://[x]/", "https://[::1%25eth0]/",
		"https://exa%6dple.org/", "https://a..b/", "https://-/\x7f", "https://" + strings.Repeat("a", 64) + ".org/", "https://example.org/" + strings.Repeat("a", MaxURL),
		"https://example.org/\xff",
		// Round in a circle.
		"https://lnk.example/l/abcdefg", "https://LNK.example./l/abcdefg", "https://lnk.example:443/l/abcdefg", "https://lnk.example//l/abcdefg",
		"https://lnk.example/x/../l/abcdefg", "https://lnk.example/%6c/abcdefg", "https://lnk.example/L/abcdefg", "https://lnk.example/q/abcdefg",
		"http://127.0.0.1:8080/l/abcdefg", "http://localhost:8080/l/abcdefg", "http://a.localhost:8080/l/x", "http://[::1]:8080/l/abcdefg", "http://127.1:8080/l/abcdefg",
		"http://2130706433:8080/l/abcdefg", "http://0x7f000001:8080/l/abcdefg", "http://0177.0.0.1:8080/l/abcdefg", "http://[::ffff:127.0.0.1]:8080/l/abcdefg",
		"http://localhost:9999/l/abcdefg", "http://0.0.0.0:9999/l/abcdefg",
	} {
		_, err := r.Target(bad)
		var invalid *Invalid
		require.True(t, errors.As(err, &invalid), "%q: %v", bad, err)
		require.Equal(t, "url", invalid.Field)
	}
	for _, good := range []string{"https://lnk.example/friend", "https://lnk.example.org/l/abc", "http://localhost:3000/l/abc", "https://example.org/l/abc", "https://lnk.example:8443/l/abc"} {
		_, err := r.Target(good)
		require.NoError(t, err, good)
	}
}

func TestTexts(t *testing.T) {
	var r Rules
	title, err := r.Title("  👩‍🚀 Ada — שלום  ")
	require.NoError(t, err)
	require.Equal(t, "👩‍🚀 Ada — שלום", title)
	_, err = r.Title(strings.Repeat("ä", MaxTitle))
	require.NoError(t, err)
	for _, bad := range []string{"", " ", strings.Repeat("ä", MaxTitle+1), "a\nb", "a\x00", "a\u202eb", "a\xffb"} {
		_, err := r.Title(bad)
		require.Error(t, err, "%q", bad)
	}
	bio, err := r.Bio("one\r\ntwo\n")
	require.NoError(t, err)
	require.Equal(t, "one\ntwo", bio)
	for _, zone := range []string{"Europe/Berlin", "Asia/Kathmandu", "UTC", "Etc/GMT+12"} {
		require.NoError(t, r.Timezone(zone))
	}
	for _, zone := range []string{"", "Local", "../etc/passwd", "Europe/Atlantis", "/etc/localtime"} {
		require.Error(t, r.Timezone(zone), zone)
	}
}

func TestCodesAreReadable(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		code := newCode()
		require.Len(t, code, codeLength)
		require.Empty(t, strings.Trim(code, alphabet))
		seen[code] = true
	}
	require.Len(t, seen, 1000)
	require.NotContains(t, alphabet, "0")
	require.NotContains(t, alphabet, "l")
}

// FuzzTarget holds that whatever is accepted is an ASCII http(s) URL without a user and without control characters, and is accepted again
// as it is.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"https://example.org/a?b#c", "http://bücher.example:80/ö", "https://[::1]:1/", "javascript:alert(1)", "https://a\\@b/"} {
		f.Add(seed)
	}
	r := NewRules([]string{"https://lnk.example"}, []string{"127.0.0.1:8080"})
	f.Fuzz(func(t *testing.T, given string) {
		stored, err := r.Target(given)
		if err != nil {
			return
		}
		u, err := url.Parse(stored)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || len(stored) > MaxURL {
			t.Fatalf("%q was stored as %q: %v", given, stored, err)
		}
		for _, c := range []byte(stored) {
			if c <= ' ' || c >= 0x7f || c == '\\' {
				t.Fatalf("%q was stored as %q", given, stored)
			}
		}
		again, err := r.Target(stored)
		if err != nil || again != stored {
			t.Fatalf("%q was stored as %q, and that as %q: %v", given, stored, again, err)
		}
	})
}
