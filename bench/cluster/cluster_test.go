package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/bench/visit"
)

func TestOneClickThroughEveryProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := StartForTest(ctx, t, Options{Redirectors: 2, Ingests: 2, Rollups: 2})
	require.NoError(t, err)
	profile, links, err := c.API.Numbered(ctx, "demo", 2)
	require.NoError(t, err)
	for _, r := range c.Redirectors {
		client := visit.New(r.Listen)
		defer client.Close()
		answer, err := client.Do(&visit.Request{Target: "/demo", UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}, time.Now().Add(5*time.Second))
		require.NoError(t, err)
		require.Equal(t, 200, answer.Status)
		answer, err = client.Do(&visit.Request{Target: "/l/" + links[1].Code, UserAgent: "curl/8.0"}, time.Now().Add(5*time.Second))
		require.NoError(t, err)
		require.Equal(t, 302, answer.Status)
		require.Equal(t, "https://example.com/demo/1", string(answer.Location))
	}
	require.Eventually(t, func() bool {
		counts, err := c.API.Counts(ctx, profile)
		return err == nil && counts.Total() == 4 && counts.Views["person"] == 2 && counts.Clicks["bot"] == 2 && counts.Links[links[1].ID] == 2
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, c.Stop())
}
