package api_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAlertsAndWhereTheyAreSent(t *testing.T) {
	c := newCreator(t)
	path := "/v1/profiles/" + c.profile("ada")
	for _, bad := range []string{"http://example.org/", "https://127.0.0.1/hook", "https://[fd00::1]/", "javascript:alert(1)"} {
		c.must(422, "POST", path+"/webhooks", map[string]any{"url": bad})
	}
	made := c.must(201, "POST", path+"/webhooks", map[string]any{"url": "https://example.org/hook"})
	require.Contains(t, made.body["secret"], "wh_")
	hook := path + "/webhooks/" + made.body["id"].(string)
	listed := c.must(200, "GET", path+"/webhooks", nil)
	require.Len(t, listed.body["items"], 1)
	require.NotContains(t, listed.raw, "wh_", "the secret is told once")

	var told int64
	require.NoError(t, c.pool.QueryRow(t.Context(), `INSERT INTO alerts (profile_id, kind, subject, text, details)
		SELECT id, 'milestone', 'views 100', 'Your page has reached 100 views.', '{"milestone": 100}' FROM profiles RETURNING id`).Scan(&told))
	_, err := c.pool.Exec(t.Context(), `INSERT INTO deliveries (alert_id, webhook_id, next_at, attempts) SELECT $1, id, NULL, 11 FROM webhooks`, told)
	require.NoError(t, err)
	require.Len(t, c.must(200, "GET", path+"/alerts", nil).body["items"], 1)
	sent := c.must(200, "GET", hook+"/deliveries", nil).body["items"].([]any)[0].(map[string]any)
	require.Nil(t, sent["next_at"])
	c.must(204, "POST", path+"/deliveries/"+sent["id"].(string)+"/replay", nil)
	require.NotNil(t, c.must(200, "GET", hook+"/deliveries", nil).body["items"].([]any)[0].(map[string]any)["next_at"])
	c.must(404, "POST", path+"/deliveries/99999/replay", nil)
	tried := c.must(202, "POST", hook+"/test", nil)
	require.Equal(t, "test", tried.body["kind"])
	require.Len(t, c.must(200, "GET", hook+"/deliveries", nil).body["items"], 2)
	require.Len(t, c.must(200, "GET", path+"/alerts", nil).body["items"], 1, "a test is no alert")
	c.must(404, "POST", path+"/webhooks/99999/test", nil)

	mail := c.must(200, "GET", path+"/mail", nil)
	require.Equal(t, true, mail.body["weekly"])
	require.Equal(t, true, mail.body["alerts"])
	require.Equal(t, false, c.must(200, "PATCH", path+"/mail", map[string]any{"weekly": false}).body["weekly"])
	mail = c.must(200, "GET", path+"/mail", nil)
	require.Equal(t, false, mail.body["weekly"])
	require.Equal(t, true, mail.body["alerts"])
	require.Equal(t, false, mail.body["confirmed"])
	c.must(409, "POST", path+"/mail/confirmation", nil) // the operator's account has no address

	bob := c.as(c.must(201, "POST", "/v1/accounts", map[string]any{"email": "bob@example.org"}).body["token"].(string))
	his := "/v1/profiles/" + bob.profile("bob") + "/mail"
	require.Equal(t, "bob@example.org", bob.must(200, "GET", his, nil).body["address"])
	require.Equal(t, false, bob.must(200, "PATCH", his, map[string]any{"weekly": true}).body["confirmed"])
	retry := func(least, most int) { // wanting mail has sent the first
		t.Helper()
		wait, err := strconv.Atoi(bob.must(429, "POST", his+"/confirmation", nil).Header.Get("Retry-After"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, wait, least)
		require.LessOrEqual(t, wait, most)
	}
	retry(500, 600)
	_, err = c.pool.Exec(t.Context(), `UPDATE confirmations SET asked_at = now() - interval '9 minutes'`)
	require.NoError(t, err)
	retry(1, 60)
	_, err = c.pool.Exec(t.Context(), `UPDATE confirmations SET asked_at = now() - interval '10 minutes'`)
	require.NoError(t, err)
	require.Equal(t, false, bob.must(202, "POST", his+"/confirmation", nil).body["confirmed"])
	_, err = c.pool.Exec(t.Context(), `UPDATE accounts SET email_confirmed_at = now() WHERE email = 'bob@example.org'`)
	require.NoError(t, err)
	require.Equal(t, true, bob.must(200, "GET", his, nil).body["confirmed"])
	bob.must(409, "POST", his+"/confirmation", nil)

	c.must(204, "DELETE", hook, nil)
	c.must(404, "DELETE", hook, nil)
	c.must(404, "POST", hook+"/test", nil)
	c.must(404, "POST", path+"/deliveries/"+sent["id"].(string)+"/replay", nil)
}
