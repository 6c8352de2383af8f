package target

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func prepare(t testing.TB, s Settings) Target {
	target, err := Prepare(s)
	require.NoError(t, err)
	return target
}

func TestAppend(t *testing.T) {
	shop := UTM{Source: "spillway", Medium: "bio link"}
	for _, c := range []struct {
		name     string
		settings Settings
		query    string
		want     string
	}{
		{"nothing to add", Settings{URL: "https://example.com"}, "", "https://example.com"},
		{"off drops the visitor's", Settings{URL: "https://example.com/a?b=c#d"}, "x=1", "https://example.com/a?b=c#d"},
		{"append", Settings{URL: "https://example.com/a", Mode: Append}, "x=1&y", "https://example.com/a?x=1&y"},
		{"append keeps the target's", Settings{URL: "https://example.com/?b=c", Mode: Append}, "b=9&x=1", "https://example.com/?b=c&x=1"},
		{"append of nothing new", Settings{URL: "https://example.com/?b=c", Mode: Append}, "b=9", "https://example.com/?b=c"},
		{"override replaces the target's", Settings{URL: "https://example.com/?b=c&d=e&b=f", Mode: Override}, "b=9&x=1", "https://example.com/?d=e&b=9&x=1"},
		{"override of all", Settings{URL: "https://example.com/?b=c", Mode: Override}, "b=9", "https://example.com/?b=9"},
		{"override of none", Settings{URL: "https://example.com/?b=c", Mode: Override}, "x=1", "https://example.com/?b=c&x=1"},
		{"a name is compared decoded", Settings{URL: "https://example.com/?a%20b=1", Mode: Append}, "a+b=2&%61%20b=3&c=4", "https://example.com/?a%20b=1&c=4"},
		{"values many times", Settings{URL: "https://example.com/", Mode: Append}, "a=1&a=2", "https://example.com/?a=1&a=2"},
		{"fragment", Settings{URL: "https://example.com/#top?not=query", Mode: Append}, "x=1", "https://example.com/?x=1#top?not=query"},
		{"empty query of the target", Settings{URL: "https://example.com/?", Mode: Append}, "x=1", "https://example.com/?x=1"},
		{"empty query stays", Settings{URL: "https://example.com/?#f", Mode: Append}, "", "https://example.com/?#f"},
		{"ampersand at the end", Settings{URL: "https://example.com/?a&", Mode: Append}, "x=1", "https://example.com/?a&x=1"},
		{"odd ampersands stay", Settings{URL: "https://example.com/?&a&&b", Mode: Append}, "&&x=1&", "https://example.com/?&a&&b&x=1"},
		{"encodings stay", Settings{URL: "https://example.com/%7Ea/%e2%82%ac?q=a+b%2Bc;d", Mode: Append}, "x=%c3%a4+%2f", "https://example.com/%7Ea/%e2%82%ac?q=a+b%2Bc;d&x=%c3%a4+%2f"},
		{"what no URL contains", Settings{URL: "https://example.com/a b/ü?x=\"|\"#<>", Mode: Append}, "y=\xff '", "https://example.com/a%20b/%C3%BC?x=%22%7C%22&y=%FF%20'#%3C%3E"},
		{"a percent sign alone", Settings{URL: "https://example.com/100%", Mode: Append}, "y=%zz%4", "https://example.com/100%25?y=%25zz%254"},
		{"UTM", Settings{URL: "https://example.com/", UTM: shop}, "", "https://example.com/?utm_source=spillway&utm_medium=bio+link"},
		{"UTM behind a query", Settings{URL: "https://example.com/?a=1#f", UTM: shop}, "", "https://example.com/?a=1&utm_source=spillway&utm_medium=bio+link#f"},
		{"the target's own UTM wins", Settings{URL: "https://example.com/?utm_source=mine", UTM: shop}, "", "https://example.com/?utm_source=mine&utm_medium=bio+link"},
		{"the target's own UTM wins, appending", Settings{URL: "https://example.com/?utm_source=mine", UTM: shop, Mode: Append}, "utm_medium=his", "https://example.com/?utm_source=mine&utm_medium=bio+link"},
		{"the target's own UTM loses, overriding", Settings{URL: "https://example.com/?utm_source=mine&a", UTM: shop, Mode: Override}, "", "https://example.com/?a&utm_source=spillway&utm_medium=bio+link"},
		{"the visitor's UTM wins, overriding", Settings{URL: "https://example.com/", UTM: shop, Mode: Override}, "utm_medium=his", "https://example.com/?utm_source=spillway&utm_medium=his"},
		{"all of a setting's UTM overridden", Settings{URL: "https://example.com/", UTM: UTM{Term: "a"}, Mode: Override}, "utm_term=b", "https://example.com/?utm_term=b"},
		{"marks are stripped", Settings{URL: "https://example.com/", Mode: Append}, "sw_page=3&x=1&sw_place=mail&sw_future=1", "https://example.com/?x=1"},
		{"nothing but marks", Settings{URL: "https://example.com/", Mode: Override}, "sw_page=3", "https://example.com/"},
		{"the target's own sw_ stays", Settings{URL: "https://example.com/?sw_page=1", Mode: Override}, "sw_page=3", "https://example.com/?sw_page=1"},
		{"case of scheme and host stays", Settings{URL: "HTTPS://Example.COM:443/", Mode: Off}, "", "HTTPS://Example.COM:443/"},
		{"international name", Settings{URL: "https://bücher.example:8443/ä"}, "", "https://xn--bcher-kva.example:8443/%C3%A4"},
		{"IPv6", Settings{URL: "http://[2001:db8::1]:80/?a", Mode: Append}, "b", "http://[2001:db8::1]:80/?a&b"},
		{"a backslash is no slash", Settings{URL: `https://example.com/a\b`}, "", "https://example.com/a%5Cb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := prepare(t, c.settings)
			require.Equal(t, c.want, string(target.Append(nil, []byte(c.query))))
			over := Over(target.Plain(), target.Tail(nil))
			require.Equal(t, c.want, string(over.Append(nil, []byte(c.query))), "laid over its bytes")
			_, err := url.Parse(c.want)
			require.NoError(t, err)
		})
	}
}

// TestManyParameters has more names than a visitor's query could be held against one by one, each of them found.
func TestManyParameters(t *testing.T) {
	var own, his, want strings.Builder
	for n := range 500 {
		fmt.Fprintf(&own, "&p%d=own", n)
		fmt.Fprintf(&his, "&%%70%d=his", n)
	}
	prefix := "https://example.com/?"
	target := prepare(t, Settings{URL: prefix + own.String()[1:], Mode: Append})
	require.Equal(t, prefix+own.String()[1:]+"&p=1&q=2", string(target.Append(nil, []byte(his.String()[1:]+"&p=1&q=2"))))
	target = prepare(t, Settings{URL: prefix + own.String()[1:] + "&q=2", Mode: Override})
	want.WriteString(prefix + "q=2" + his.String())
	require.Equal(t, want.String(), string(target.Append(nil, []byte(his.String()[1:]))))
}

func TestATargetThatIsNoneIsRefused(t *testing.T) {
	for _, bad := range []string{
		"", "example.com", "//example.com", "/path", "javascript:alert(1)", "ftp://example.com/", "https://", "https:///path", "http://:80/",
		"https://exa mple.com/", "https://example.com/\r\nSet-Cookie: a=b", "https://example.com/\x00", "https://a\\@b/", "https://example.com:http/",
		"https://[::1", "https://" + strings.Repeat("a", MaxURL), "https:/example.com", "https://xn--\u00e4/",
	} {
		_, err := Prepare(Settings{URL: bad})
		require.Error(t, err, "%.80q", bad)
	}
	_, err := ParseMode("merge")
	require.Error(t, err)
}

func TestModes(t *testing.T) {
	for s, want := range map[string]Mode{"off": Off, "append": Append, "override": Override} {
		got, err := ParseMode(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestReadMarks(t *testing.T) {
	m, _ := ReadMarks([]byte("a=1&sw_place=news%20letter+4&sw_page=12&sw_ref=https%3A%2F%2Fa.example%2F&sw_place=second"), nil)
	require.Equal(t, "news letter 4", string(m.Place))
	require.Equal(t, "https://a.example/", string(m.Referrer))
	require.True(t, m.Page)
	require.True(t, m.Any)
	require.False(t, m.QR)
	require.EqualValues(t, 12, m.Layout)

	m, _ = ReadMarks([]byte("sw_qr&sw_page=99999999999"), nil)
	require.True(t, m.QR)
	require.True(t, m.Page)
	require.Zero(t, m.Layout)

	m, _ = ReadMarks([]byte("sw_place=%00%0a%ff"+strings.Repeat("%C3%A4", 40)), nil)
	require.Equal(t, strings.Repeat("ä", 32), string(m.Place), "control characters and broken bytes are left out, and nothing is cut in two")

	m, _ = ReadMarks([]byte("xsw_place=a&page=2"), nil)
	require.Equal(t, Marks{}, m)

	require.Equal(t, "a=1&b=2", string(AppendForeign(nil, []byte("sw_page=1&a=1&sw_place=x&b=2"))))
	require.Empty(t, AppendForeign(nil, []byte("sw_page=1")))
}

func TestAppendAllocatesNothing(t *testing.T) {
	buffer := make([]byte, 0, 4096)
	query := []byte("utm_source=a&x=1&sw_place=mail&b=9&sw_page=4")
	for _, mode := range []Mode{Off, Append, Override} {
		target := prepare(t, Settings{URL: "https://example.com/?b=c&d=e", Mode: mode, UTM: UTM{Source: "s"}})
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_, scratch := ReadMarks(query, buffer[:0])
			target.Append(scratch, query)
		}), "mode %d", mode)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("https://example.com/?a=1&b=2#f", "a=9&sw_place=x", uint8(2), "source")
	f.Add("http://[::1]:80?%zz", "%&&=&%41=1", uint8(1), "")
	f.Add("https://user:pass@bücher.example/ä?ü#ö", "\r\n\x00\xff", uint8(0), "\r\n")
	f.Fuzz(func(t *testing.T, address, query string, mode uint8, source string) {
		target, err := Prepare(Settings{URL: address, Mode: Mode(mode % 3), UTM: UTM{Source: source}})
		if err != nil {
			return
		}
		got := string(target.Append(nil, []byte(query)))
		u, err := url.Parse(got)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if !strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https") || u.Host == "" {
			t.Fatalf("%q is not an http or https address", got)
		}
		for i := range len(got) {
			if got[i] <= ' ' || got[i] >= 0x7f {
				t.Fatalf("%q has byte %#x", got, got[i])
			}
		}
		plain, err := url.Parse(string(target.Plain()))
		if err != nil || plain.Host != u.Host || plain.Path != u.Path || plain.Fragment != u.Fragment {
			t.Fatalf("the visitor's query changed more than the query: %q became %q", target.Plain(), got)
		}
		// What leads somewhere leads there again: nothing is encoded twice.
		again, err := Prepare(Settings{URL: got})
		if err != nil {
			t.Fatal(err)
		}
		if string(again.Plain()) != got {
			t.Fatalf("%q became %q", got, again.Plain())
		}
		// What finds a name in the order of names finds what a search one by one does.
		for segment := range segments([]byte(query)) {
			_, found := target.find(segment)
			there := false
			if target.mode != Off && len(segment) > 0 {
				for own := range segments(target.plain[target.query:target.fragment]) {
					there = there || len(own) > 0 && string(appendName(nil, own)) == string(appendName(nil, segment))
				}
			}
			if found != there {
				t.Fatalf("%q in %q: found %v", segment, target.plain, found)
			}
		}
		over := Over(target.Plain(), target.Tail(nil))
		if laid := string(over.Append(nil, []byte(query))); laid != got {
			t.Fatalf("%q, and %q laid over its bytes", got, laid)
		}
		ReadMarks([]byte(query), nil)
	})
}

func BenchmarkAppend(b *testing.B) {
	target := prepare(b, Settings{URL: "https://example.com/?b=c&d=e", Mode: Override, UTM: UTM{Source: "s"}})
	buffer := make([]byte, 0, 4096)
	query := []byte("utm_source=a&x=1&sw_place=mail&b=9&sw_page=4")
	for b.Loop() {
		target.Append(buffer, query)
	}
}
