package api_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGraphAnswersWhatAPageNeeds(t *testing.T) {
	v := newVisited(t)
	ask := func(c *creator, status int, query string, variables map[string]any) map[string]any {
		t.Helper()
		a := c.send("POST", "/v1/graphql", map[string]any{"query": query, "variables": variables})
		require.Equal(t, status, a.StatusCode, "%v", a.body)
		return a.body
	}
	a := ask(v.creator, 200, `query($id: ID!) { profile(id: $id) { handle links { title } insights(period: LAST_24_HOURS, dimensions: ["country"], limit: 1, compare: true) {
		lifetime { views } range { views clicks ctr uniqueVisitors } previous { views } series { time views } links { id clicksInRange }
		breakdowns { dimension items { value views } other { views } } } } }`, map[string]any{"id": v.id})
	require.Nil(t, a["errors"])
	p := a["data"].(map[string]any)["profile"].(map[string]any)
	require.Equal(t, "ada", p["handle"])
	require.Len(t, p["links"], 2)
	i := p["insights"].(map[string]any)
	require.EqualValues(t, 6, i["range"].(map[string]any)["views"])
	require.EqualValues(t, 5, i["range"].(map[string]any)["clicks"])
	require.Len(t, i["series"], 24)
	country := i["breakdowns"].([]any)[0].(map[string]any)
	require.Equal(t, "DE", country["items"].([]any)[0].(map[string]any)["value"])
	require.EqualValues(t, 2, country["other"].(map[string]any)["views"])

	guest := v.as(v.must(201, "POST", v.path("/shares"), map[string]any{"name": "x"}).body["token"].(string))
	require.NotNil(t, ask(guest, 200, `query($id: ID!) { profile(id: $id) { insights { range { views } } } }`, map[string]any{"id": v.id})["data"].(map[string]any)["profile"])
	other := v.profile("bob")
	require.Nil(t, ask(guest, 200, `query($id: ID!) { profile(id: $id) { title } }`, map[string]any{"id": other})["data"].(map[string]any)["profile"])
	require.NotEmpty(t, ask(guest, 200, `{ profiles { title } }`, nil)["errors"])

	require.NotEmpty(t, ask(v.creator, 400, `{ nothing }`, nil)["errors"])
	require.NotEmpty(t, ask(v.creator, 400, `{ profiles { `+strings.Repeat("title ", 300)+`} }`, nil)["errors"], "too many fields")
	wide := "{"
	for _, alias := range []string{"a", "b", "c", "d", "e", "f"} {
		wide += alias + `: profile(id: "` + v.id + `") { insights { range { views } } } `
	}
	require.Contains(t, ask(v.creator, 200, wide+"}", nil)["errors"].([]any)[0].(map[string]any)["message"], "too costly")
	v.as("").must(401, "POST", "/v1/graphql", map[string]any{"query": "{ profiles { title } }"})
}
