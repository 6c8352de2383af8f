package class

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"spillway.dev/schemas/event"
	"spillway.dev/schemas/rules"
)

func TestRulebookFollowsItsFileAndSurvivesMistakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write := func(content string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	judge := func(b *Rulebook) string {
		_, reason := ByRules(b.Rules(), Request{}, rules.Visit{UserAgent: "checker"})
		return reason
	}
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	b, err := OpenRulebook(path, slog.New(slog.NewTextHandler(&log, nil)), registry)
	require.NoError(t, err, "a file that is not there turns nobody away")
	require.Empty(t, judge(b))
	require.Contains(t, log.String(), "SPILLWAY_RULES")
	b.read()
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "told once")

	write("rules:\n  - {name: one, user_agent: check, class: bot}\n")
	b.read()
	require.Equal(t, "rule: one", judge(b))
	first := b.Rules().Hash()

	write("rules:\n  - {name: two, user_agent: check, kind: bot}\n")
	b.read()
	b.read()
	require.Equal(t, "rule: one", judge(b), "the rules before stay")
	require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"))
	require.Contains(t, log.String(), "line 2")
	require.Contains(t, log.String(), "spillway rules check")
	require.InEpsilon(t, 2, testutil.ToFloat64(b.errors), 0.01)
	require.InEpsilon(t, 1, testutil.ToFloat64(b.version.WithLabelValues(first)), 0.01)

	write("rules:\n  - {name: two, user_agent: check, class: bot}\n")
	b.read()
	require.Equal(t, "rule: two", judge(b))
	require.Equal(t, 1, testutil.CollectAndCount(b.version), "one version is in use")

	write("rules:\n  - {name: two, user_agent: check, kind: bot}\n")
	b.read()
	require.Equal(t, 3, strings.Count(log.String(), "level=ERROR"), "a mistake made again is told again")
}

func TestByRulesDecidesAfterWhatTheRequestSays(t *testing.T) {
	set, err := rules.Parse([]byte("rules:\n  - {name: ours, header: {name: X-Ours}, class: owner}\n  - {name: fine, user_agent: fine, class: person}\n  - {name: all, network: 0.0.0.0/0, class: test}\n"))
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		set     *rules.Set
		request Request
		agent   string
		class   event.Class
		reason  string
	}{
		{"no rules", nil, Request{}, "fine", event.Class_CLASS_PERSON, ""},
		{"an empty file", &rules.Set{}, Request{}, "fine", event.Class_CLASS_PERSON, ""},
		{"HEAD stays HEAD", set, Request{Head: true}, "fine", event.Class_CLASS_HEAD, ReasonHead},
		{"a prefetch stays one", set, Request{XMoz: []byte("prefetch")}, "fine", event.Class_CLASS_PREFETCH, ReasonXMoz},
		{"the owner stays one", set, Request{Owner: true}, "fine", event.Class_CLASS_OWNER, ReasonOwner},
		{"a rule that says person gives its reason", set, Request{}, "fine", event.Class_CLASS_PERSON, "rule: fine"},
		{"none of them", set, Request{}, "other", event.Class_CLASS_PERSON, ""},
	} {
		class, reason := ByRules(c.set, c.request, rules.Visit{UserAgent: c.agent})
		require.Equal(t, c.class, class, c.name)
		require.Equal(t, c.reason, reason, c.name)
	}
}

func TestByRulesAllocatesNothing(t *testing.T) {
	set, err := rules.Parse([]byte("rules:\n  - {name: a, user_agent: {regexp: '(x|y)+z'}, class: bot}\n  - {name: b, header: {name: X-Ours, contains: yes}, class: owner}\n  - {name: c, header: {name: Via}, network: 10.0.0.0/8, class: test}\n"))
	require.NoError(t, err)
	var request fasthttp.RequestHeader
	request.Set("X-Ours", "no")
	request.Set("User-Agent", "Mozilla/5.0")
	visit := rules.Visit{UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", Headers: &request}
	require.Zero(t, testing.AllocsPerRun(100, func() { ByRules(set, Request{}, visit) }))
	request.Add("X-Ours", "yes")
	_, reason := ByRules(set, Request{}, visit)
	require.Equal(t, "rule: b", reason, "any line of the header will do")
}
