package rollup

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
	"spillway.dev/rollup/table"
	"spillway.dev/rollup/verdict"
	"spillway.dev/schemas/rules"
)

// The commands need nothing but the engines' addresses: no rollup runs here.
func TestRulesOnThePast(t *testing.T) {
	e := eventtest.New(t)
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	at := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -4).Add(time.Hour)
	for i := range 10 {
		agent := "Mozilla/5.0 Firefox/140.0"
		if i < 4 {
			agent = "Gateway/1.0"
		}
		e.Insert(eventtest.Event{Time: at.Add(time.Duration(i) * time.Minute), Profile: 1, Visitor: uint64(i), Agent: agent})
	}
	unseen, err := day.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	closer := day.NewCloser(e.Tables, e.Pool, day.Options{}, unseen, log)
	_, err = closer.Close(ctx, table.DateOf(at))
	require.NoError(t, err)

	set, err := rules.Parse([]byte("rules: [{name: gateway, user_agent: gateway, class: scanner}]"))
	require.NoError(t, err)
	law := verdict.Law{Rules: set, Version: 1, BuiltIn: func(string) verdict.Judgement { return verdict.Judgement{Class: "person"} }}
	dates, err := verdict.Dates(7, "", "", time.Now())
	require.NoError(t, err)
	trial, err := TryRules(ctx, e.Addresses, law, dates, 10)
	require.NoError(t, err)
	require.Len(t, trial.Profiles, 1)
	require.Equal(t, verdict.Count{Views: 10}, trial.Profiles[0].Now)
	require.Equal(t, verdict.Count{Views: 6}, trial.Profiles[0].Then)
	people := "SELECT sum(events) FROM " + e.Local("days") + " WHERE dimension = '' AND class = 'person'"
	require.EqualValues(t, 10, e.Number(people))

	done, err := ApplyRules(ctx, e.Addresses, law, dates, log)
	require.NoError(t, err)
	require.EqualValues(t, 4, done.Events)
	require.EqualValues(t, 6, e.Number(people), "closed again when it returns")
	differing, err := closer.Verify(ctx, table.DateOf(at))
	require.NoError(t, err)
	require.Zero(t, differing)
}
