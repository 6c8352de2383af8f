package alert

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	letters "spillway.dev/profileapi/mail"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

// office is a mail server: it keeps what it takes, and refuses as often as it is told to.
type office struct {
	mu      sync.Mutex
	refuse  []int // codes of its next answers to a recipient; zero takes it
	to      []string
	letters []*mail.Message
	raw     []string
	meet    *sync.WaitGroup // nil, or whom each letter waits for before it is taken
}

func (o *office) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{o}, nil }

type session struct{ *office }

func (c *session) Mail(string, *smtp.MailOptions) error { return nil }
func (c *session) Reset()                               {}
func (c *session) Logout() error                        { return nil }

func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refuse) > 0 {
		code := c.refuse[0]
		c.refuse = c.refuse[1:]
		if code != 0 {
			return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 0, 0}, Message: "not today"}
		}
	}
	c.to = append(c.to, to)
	return nil
}

func (c *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if c.meet != nil {
		c.meet.Done()
		c.meet.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letters, c.raw = append(c.letters, m), append(c.raw, string(b))
	return nil
}

// opened is an office on an address of its own, and a post that goes there.
func opened(t *testing.T) (*office, *letters.Post) {
	t.Helper()
	o := &office{}
	server := smtp.NewServer(o)
	server.Domain = "localhost"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	post, err := letters.NewPost(letters.Options{URL: "smtp://" + listener.Addr().String(), From: "Spillway <numbers@spill.example>"})
	require.NoError(t, err)
	return o, post
}

// parts returns a letter's text and HTML.
func parts(t *testing.T, m *mail.Message) (text, html string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/alternative", kind)
	r := multipart.NewReader(m.Body, params["boundary"])
	for i := range 2 {
		p, err := r.NextPart()
		require.NoError(t, err)
		b, err := io.ReadAll(p) // quoted-printable is decoded
		require.NoError(t, err)
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		require.NoError(t, err)
		require.Equal(t, []string{"text/plain", "text/html"}[i], kind)
		if i == 0 {
			text = string(b)
		} else {
			html = string(b)
		}
	}
	_, err = r.NextPart()
	require.ErrorIs(t, err, io.EOF)
	return text, html
}

func TestAnAlertGoesByMailOnceAndCanBeUnsubscribedFrom(t *testing.T) {
	ctx := t.Context()
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	c.confirmed(t)
	desk, post := opened(t)
	options := OutboxOptions{Post: post, Origin: "https://spill.example/"}
	one, other := outbox(t, c, options), outbox(t, c, options)
	look := func() {
		for range 2 {
			require.NoError(t, NewWatch(c.pool, nil, Options{Now: thursday, Mail: true}, silent).Round(ctx))
		}
	}
	c.counted(t, 1000, 0)
	look()
	desk.refuse = []int{451} // comes back later
	for range 4 {
		c.again(t, one, other)
	}
	require.Equal(t, []string{"ada@example.org"}, desk.to)
	require.Len(t, desk.letters, 1)
	m := desk.letters[0]
	require.Equal(t, `"Spillway" <numbers@spill.example>`, m.Header.Get("From"))
	require.Equal(t, "auto-generated", m.Header.Get("Auto-Submitted"))
	require.True(t, strings.HasSuffix(m.Header.Get("Message-Id"), "@spill.example>"), m.Header.Get("Message-Id"))
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, "Ada <3: Your page has reached 1\u202f000 views", subject)
	text, html := parts(t, m)
	require.Contains(t, text, "Your page has reached 1\u202f000 views.")
	require.Contains(t, text, "https://spill.example/pages/ada")
	require.Contains(t, html, "Ada &lt;3")
	require.NotContains(t, html, "Ada <3")

	require.Equal(t, "List-Unsubscribe=One-Click", m.Header.Get("List-Unsubscribe-Post"))
	address, err := url.Parse(strings.Trim(m.Header.Get("List-Unsubscribe"), "<>"))
	require.NoError(t, err)
	require.Contains(t, text, address.String())
	require.Equal(t, "spill.example", address.Host)
	key, err := postgres.Secret(ctx, c.pool, letters.Secret)
	require.NoError(t, err)
	kind, profile, ok := letters.Check(key, strings.TrimPrefix(address.Path, letters.UnsubscribePath))
	require.True(t, ok)
	require.Equal(t, letters.Alerts, kind)
	require.Equal(t, c.profile, profile)

	// What was written before somebody unsubscribed is not sent after it.
	c.counted(t, 2500, 0)
	look()
	store := NewStore(c.pool)
	require.NoError(t, store.Unsubscribe(ctx, profile, kind))
	c.again(t, one, other)
	c.counted(t, 5000, 0)
	look()
	c.again(t, one, other)
	require.Len(t, desk.letters, 1)
	settings, err := store.Mail(ctx, c.profile)
	require.NoError(t, err)
	require.Equal(t, Mail{Address: "ada@example.org", Confirmed: true, Weekly: true}, settings)

	// An address that the server refuses for good is not tried again.
	yes := true
	require.NoError(t, store.SetMail(ctx, c.profile, MailChange{Alerts: &yes}))
	c.counted(t, 10_000, 0)
	look()
	desk.refuse = []int{550}
	for range 3 {
		c.again(t, one, other)
	}
	require.Empty(t, desk.refuse)
	require.Len(t, desk.letters, 1)
	var failed string
	require.NoError(t, c.pool.QueryRow(ctx, `SELECT last_error FROM deliveries ORDER BY id DESC LIMIT 1`).Scan(&failed))
	require.Contains(t, failed, "not today")
}

// confirmed says that the creator's address is theirs.
func (c creator) confirmed(t *testing.T) {
	t.Helper()
	_, err := c.pool.Exec(t.Context(), `UPDATE accounts SET email_confirmed_at = now()`)
	require.NoError(t, err)
}

// TestNothingButAQuestionGoesToAnAddressThatIsNotConfirmed: whoever signs up with another's address must not fill their mailbox.
func TestNothingButAQuestionGoesToAnAddressThatIsNotConfirmed(t *testing.T) {
	ctx := t.Context()
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	desk, post := opened(t)
	now := time.Now()
	options := OutboxOptions{Post: post, Origin: "https://spill.example/", Now: func() time.Time { return now }}
	one, other := outbox(t, c, options), outbox(t, c, options)
	store := NewStore(c.pool)
	look := func(views int64) {
		c.counted(t, views, 0)
		for range 2 {
			require.NoError(t, NewWatch(c.pool, nil, Options{Now: thursday, Mail: true}, silent).Round(ctx))
		}
	}
	again := func() {
		for range 3 {
			_, err := c.pool.Exec(ctx, `UPDATE confirmations SET next_at = now() WHERE next_at IS NOT NULL`)
			require.NoError(t, err)
			c.again(t, one, other)
		}
	}
	// An alert that was on its way when confirmation came to be asked for is not sent either.
	look(100)
	_, err := c.pool.Exec(ctx, `INSERT INTO deliveries (alert_id) SELECT id FROM alerts`)
	require.NoError(t, err)
	desk.refuse = []int{451} // comes back later
	again()
	look(1000)
	again()
	require.Len(t, desk.letters, 1, "one question, once")
	m := desk.letters[0]
	require.Equal(t, "Is this your address?", m.Header.Get("Subject"))
	require.Empty(t, m.Header.Get("List-Unsubscribe"))
	require.Equal(t, "<confirm.1.1@spill.example>", m.Header.Get("Message-Id"))
	text, html := parts(t, m)
	link := regexp.MustCompile(`https://spill\.example/confirm/(\S+)`).FindStringSubmatch(text)
	require.NotNil(t, link, text)
	require.Contains(t, html, link[0])
	settings, err := store.Mail(ctx, c.profile)
	require.NoError(t, err)
	require.False(t, settings.Confirmed)

	// Who asks again waits, longer each time.
	require.NoError(t, store.AskToConfirm(ctx, 1))
	for _, wait := range []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute} {
		var soon *TooSoon
		require.ErrorAs(t, store.AskAgain(ctx, 1), &soon)
		require.InDelta(t, wait.Seconds(), soon.Wait.Seconds(), 5)
		require.ErrorContains(t, soon, fmt.Sprintf("again in %.0f minutes", wait.Minutes()))
		_, err = c.pool.Exec(ctx, `UPDATE confirmations SET asked_at = now() - $1::interval + interval '10 seconds'`, wait)
		require.NoError(t, err)
		require.ErrorAs(t, store.AskAgain(ctx, 1), &soon)
		require.LessOrEqual(t, soon.Wait, 10*time.Second)
		require.Positive(t, soon.Wait)
		_, err = c.pool.Exec(ctx, `UPDATE confirmations SET asked_at = now() - $1::interval`, wait)
		require.NoError(t, err)
		require.NoError(t, store.AskAgain(ctx, 1))
	}
	again()
	require.Len(t, desk.letters, 2, "the latest that was asked for")

	key, err := postgres.Secret(ctx, c.pool, letters.Secret)
	require.NoError(t, err)
	account, ok := letters.Confirms(link[1])
	require.True(t, ok)
	require.EqualValues(t, 1, account)
	require.True(t, letters.Confirmed(key, link[1], account, "ada@example.org", now))
	require.False(t, letters.Confirmed(key, link[1], account, "eve@example.org", now), "another address")
	require.False(t, letters.Confirmed(key, link[1], account, "ada@example.org", now.Add(letters.ConfirmTime+time.Second)), "too late")
	done, err := store.Confirm(ctx, account, "eve@example.org")
	require.NoError(t, err)
	require.False(t, done)
	done, err = store.Confirm(ctx, account, "ada@example.org")
	require.NoError(t, err)
	require.True(t, done)
	require.ErrorIs(t, store.AskAgain(ctx, 1), ErrConfirmed)
	look(2500)
	again()
	require.Len(t, desk.letters, 3)
	subject, err := new(mime.WordDecoder).DecodeHeader(desk.letters[2].Header.Get("Subject"))
	require.NoError(t, err)
	require.Contains(t, subject, "has reached 2\u202f500 views")
}

// TestQuestionsDoNotWaitForEachOther: one after the other, as many as are taken at once would outlast their lease where mail is slow.
func TestQuestionsDoNotWaitForEachOther(t *testing.T) {
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	desk, post := opened(t)
	desk.meet = &sync.WaitGroup{}
	desk.meet.Add(together)
	_, err := c.pool.Exec(t.Context(), `INSERT INTO accounts (email) SELECT 'ada' || n || '@example.org' FROM generate_series(2, $1) n`, together)
	require.NoError(t, err)
	_, err = c.pool.Exec(t.Context(), `INSERT INTO confirmations (account_id) SELECT id FROM accounts`)
	require.NoError(t, err)
	_, err = outbox(t, c, OutboxOptions{Post: post, Origin: "https://spill.example/"}).round(t.Context())
	require.NoError(t, err)
	require.Len(t, desk.letters, together)
	var wait int
	require.NoError(t, c.pool.QueryRow(t.Context(), `SELECT count(*) FROM confirmations WHERE next_at IS NOT NULL OR last_error <> ''`).Scan(&wait))
	require.Zero(t, wait)
}

func TestWithoutAServerNothingWaitsForOne(t *testing.T) {
	c := newCreator(t, engines.Addresses{Database: enginetest.Postgres(t)})
	c.counted(t, 1000, 0)
	require.NoError(t, NewWatch(c.pool, nil, Options{Now: thursday}, silent).Round(t.Context()))
	var alerts, deliveries int
	require.NoError(t, c.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM alerts), (SELECT count(*) FROM deliveries)`).Scan(&alerts, &deliveries))
	require.Equal(t, 1, alerts)
	require.Zero(t, deliveries)
}
