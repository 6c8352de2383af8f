package rules

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/event"
)

type headers map[string][][]byte

func (h headers) PeekAll(name string) [][]byte { return h[name] }

const file = `
rules:
  - name: our office
    network: [192.0.2.0/24, "2001:db8::/32"]
    class: test
  - name: not a bot
    user_agent: GoodBot
    class: person
  - name: any bot
    user_agent: {regexp: '(?i)[a-z]bot/[0-9]'}
    class: bot
  - name: gateway
    user_agent: {contains: linux}
    header: {name: x-scan, contains: Gateway}
    class: scanner
  - name: has a header
    header: {name: X-Monitor}
    class: test
  - name: one address and a header
    network: 198.51.100.7
    header: {name: X-Kind, regexp: '^p+$'}
    class: preview
`

func TestTheFirstRuleWhoseConditionsAllHoldDecides(t *testing.T) {
	set, err := Parse([]byte(file))
	require.NoError(t, err)
	far := netip.MustParseAddr("203.0.113.9")
	for _, c := range []struct {
		name   string
		visit  Visit
		rule   string
		class  event.Class
		reason string
	}{
		{"nobody", Visit{UserAgent: "Mozilla/5.0", Address: far}, "", 0, ""},
		{"a network", Visit{UserAgent: "SomeBot/1", Address: netip.MustParseAddr("192.0.2.77")}, "our office", event.Class_CLASS_TEST, "rule: our office"},
		{"a network of IPv6", Visit{Address: netip.MustParseAddr("2001:db8:5::1")}, "our office", event.Class_CLASS_TEST, "rule: our office"},
		{"a part of the agent in another case", Visit{UserAgent: "Mozilla/5.0 GOODBOT/2", Address: far}, "not a bot", event.Class_CLASS_PERSON, "rule: not a bot"},
		{"a regular expression", Visit{UserAgent: "BadBot/2", Address: far}, "any bot", event.Class_CLASS_BOT, "rule: any bot"},
		{"half of the conditions", Visit{UserAgent: "Linux", Address: far, Headers: headers{}}, "", 0, ""},
		{"all conditions", Visit{UserAgent: "Linux", Address: far, Headers: headers{"X-Scan": {[]byte("no"), []byte("a gateway")}}}, "gateway", event.Class_CLASS_SCANNER, "rule: gateway"},
		{"a header that is there", Visit{Address: far, Headers: headers{"X-Monitor": {nil}}}, "has a header", event.Class_CLASS_TEST, "rule: has a header"},
		{"no header at all", Visit{Address: far}, "", 0, ""},
		{"address and header", Visit{Address: netip.MustParseAddr("198.51.100.7"), Headers: headers{"X-Kind": {[]byte("pp")}}}, "one address and a header", event.Class_CLASS_PREVIEW, "rule: one address and a header"},
		{"header without the address", Visit{Address: far, Headers: headers{"X-Kind": {[]byte("pp")}}}, "", 0, ""},
		{"no address", Visit{UserAgent: "x"}, "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := set.Match(c.visit)
			if c.rule == "" {
				require.Nil(t, r)
				return
			}
			require.NotNil(t, r)
			require.Equal(t, c.rule, r.Name)
			require.Equal(t, c.class, r.Class)
			require.Equal(t, c.reason, r.Reason())
			require.True(t, Is(r.Reason()))
			require.Same(t, r, set.Decided(c.reason))
		})
	}
	require.Equal(t, "any bot", set.MatchAgent("BadBot/2").Name)
	require.Nil(t, set.MatchAgent("Linux"), "whether the header was there is not kept")
}

func TestMatchingAllocatesNothing(t *testing.T) {
	set, err := Parse([]byte(file))
	require.NoError(t, err)
	v := Visit{UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36",
		Address: netip.MustParseAddr("203.0.113.9"), Headers: headers{"X-Scan": {[]byte("other")}}}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if set.Match(v) != nil {
			t.Error("nobody was to match")
		}
	}))
}

func TestWhatIsWrongIsSaidWithItsLineAndCure(t *testing.T) {
	for _, c := range []struct{ content, says string }{
		{"rules:\n  - name: a\n    class: bots\n    user_agent: x\n", `line 3: rule "a": class "bots": use person, bot,`},
		{"rules:\n  - name: a\n    user_agent: x\n", `line 2: rule "a": class "": use person`},
		{"rules:\n  - class: bot\n    user_agent: x\n", `line 2: a rule without a name: add`},
		{"rules:\n  - name: a\n    class: bot\n", `line 2: rule "a" would hold for everybody: add`},
		{"rules:\n  - name: a\n    class: bot\n    agent: x\n", `line 4: a rule has no "agent": use name, user_agent`},
		{"rules:\n  - name: a\n    class: bot\n    user_agent: {regexp: '('}\n", `line 4: rule "a": user_agent: error parsing regexp`},
		{"rules:\n  - name: a\n    class: bot\n    user_agent: {regexp: x, contains: y}\n", `line 4: rule "a": user_agent has contains and regexp`},
		{"rules:\n  - name: a\n    class: bot\n    user_agent:\n", `line 4: rule "a": user_agent is empty`},
		{"rules:\n  - name: a\n    class: bot\n    network: [10.0.0.0/8, 10.0.0.0/64]\n", `line 4: rule "a": network "10.0.0.0/64": write it as`},
		{"rules:\n  - name: a\n    class: bot\n    network: ['::ffff:10.0.0.0/104']\n", `write an IPv4 network as IPv4`},
		{"rules:\n  - name: a\n    class: bot\n    network: []\n", `network is empty`},
		{"rules:\n  - name: a\n    class: bot\n    header: {contains: x}\n", `line 4: rule "a": header: add the header's name`},
		{"rules:\n  - name: a\n    class: bot\n    header: {nam: x}\n", `line 4: rule "a": header has no "nam": use name, contains`},
		{"rules:\n  - {name: a, class: bot, user_agent: x}\n  - {name: a, class: bot, user_agent: y}\n", `line 3: rule "a" is also the name of the rule in line 2`},
		{"rules:\n  - {name: a, name: b, class: bot, user_agent: x}\n", `line 2: a rule has name twice`},
		{"rules:\n  - {name: " + strings.Repeat("n", 59) + ", class: bot, user_agent: x}\n", `at most 58 bytes`},
		{"rules: {a: b}\n", `line 1: rules: write a list`},
		{"- a\n", `line 1: the file must be written as`},
		{"rules:\n  - name: 'a\n", `check the indentation and the quotes`},
		{"rules:\n\t- name: a\n", `line 2`},
	} {
		_, err := Parse([]byte(c.content))
		require.ErrorContains(t, err, c.says, c.content)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestReadSaysWhichFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	_, err := Read(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("rules:\n  - {name: a, class: bot, user_agent: x, y: z}\n"), 0o600))
	_, err = Read(path)
	require.ErrorContains(t, err, path+": line 2: a rule has no \"y\"")
	require.NoError(t, os.WriteFile(path, make([]byte, maxBytes+1), 0o600))
	_, err = Read(path)
	require.ErrorContains(t, err, "longer than")
}

func TestVersionTellsBuiltInRulesAndFileApart(t *testing.T) {
	var none *Set
	require.EqualValues(t, 3_000_000, none.Version(3))
	one, err := Parse([]byte(file))
	require.NoError(t, err)
	other, err := Parse([]byte(file + "\n"))
	require.NoError(t, err)
	require.NotEqual(t, one.Hash(), other.Hash())
	require.NotEqual(t, one.Version(1), other.Version(1))
	require.EqualValues(t, 2, one.Version(2)/1_000_000)
	require.NotZero(t, one.Version(2)%1_000_000)
	require.Equal(t, one.Version(7), Rebase(one.Version(2), 7))
	require.EqualValues(t, 7_000_000, Rebase(1, 7), "written before there were files")
	empty, err := Parse(nil)
	require.NoError(t, err)
	require.Empty(t, empty.Rules())
	for _, s := range []string{"", "rule:", "rule: ", "Rule: x", "rules"} {
		require.False(t, Is(s), s)
		require.False(t, Is([]byte(s)), s)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte("rules: [{name: a, class: bot, user_agent: {regexp: '('}}]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, err := Parse(content)
		if err != nil {
			return
		}
		for i := range set.Rules() {
			r := &set.Rules()[i]
			require.NotEmpty(t, r.Name)
			require.True(t, Is(r.Reason()))
			require.LessOrEqual(t, len(r.Reason()), 64)
		}
		set.Match(Visit{UserAgent: "x"})
	})
}
