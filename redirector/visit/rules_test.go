package visit

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/redirector/class"
	"spillway.dev/redirector/page"
	"spillway.dev/schemas/event"
)

func rulebook(t *testing.T, content string) *class.Rulebook {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	b, err := class.OpenRulebook(path, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	return b
}

// Rules see the visitor's own address behind the proxy, the agent and the header; and they cost no allocation.
func TestRulesOfTheOperator(t *testing.T) {
	kept := &keeper{}
	o := options(t, kept, page.Rendered)
	o.Rules = rulebook(t, `
rules:
  - {name: office, network: 203.0.113.7, class: test}
  - {name: gateway, user_agent: {regexp: '^Mozilla/5\.0 \(gate'}, header: {name: X-Scan, contains: mail}, class: scanner}
  - {name: our checks, user_agent: checker, class: person}
`)
	h, err := NewHandler(o)
	require.NoError(t, err)
	for _, c := range []struct {
		header map[string]string
		class  event.Class
		reason string
	}{
		{map[string]string{"User-Agent": "Mozilla/5.0", "X-Forwarded-For": "203.0.113.8"}, event.Class_CLASS_PERSON, ""},
		{map[string]string{"User-Agent": "Mozilla/5.0", "X-Forwarded-For": "203.0.113.7"}, event.Class_CLASS_TEST, "rule: office"},
		{map[string]string{"User-Agent": "Mozilla/5.0 (gate)", "X-Scan": "no"}, event.Class_CLASS_PERSON, ""},
		{map[string]string{"User-Agent": "Mozilla/5.0 (gate)", "X-Scan": "mail"}, event.Class_CLASS_SCANNER, "rule: gateway"},
		{map[string]string{"User-Agent": "Checker/1"}, event.Class_CLASS_PERSON, "rule: our checks"},
		{map[string]string{"User-Agent": "Checker/1", "Sec-Purpose": "prefetch"}, event.Class_CLASS_PREFETCH, class.ReasonSecPurpose},
	} {
		ctx := request("GET", "/l/off", c.header)
		h.Handle(ctx)
		require.Equal(t, http.StatusFound, ctx.Response.StatusCode())
		e := kept.take()
		require.Len(t, e, 1)
		require.Equal(t, c.class, e[0].Class, c.header)
		require.Equal(t, c.reason, e[0].Reason, c.header)
		require.EqualValues(t, class.RulesVersion, e[0].RulesVersion/1_000_000)
		require.NotZero(t, e[0].RulesVersion%1_000_000, "the file's part")
		serve := func() {
			ctx.Response.Reset()
			h.Handle(ctx)
		}
		serve()
		h.Journal = silent{}
		require.Zero(t, testing.AllocsPerRun(100, serve), c.header)
		h.Journal = kept
		kept.take()
	}
}
