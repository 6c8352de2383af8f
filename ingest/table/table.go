// Package table is how ingest talks to ClickHouse: statements that change something are sent once and never repeated, by nothing;
// questions may be.
//
// What is between ingest and the engine could repeat a request behind its back, and an insert that happens twice is what the whole
// protocol exists to prevent. So changes do not go through a driver but as one HTTP request each: HTTP/1.1 (HTTP/2 repeats streams
// that a server refused), no redirects followed, no proxy, and a body that cannot be rewound, without which net/http repeats
// nothing of which a byte was written. database/sql repeats a statement when its driver says that a connection is bad, therefore
// questions use clickhouse-go's own interface, which does not, either.
package table

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/service/engines"
)

// Table is a ClickHouse server, or the node of a cluster that partitions are written through.
type Table struct {
	Layout schema.Layout

	client    *http.Client
	endpoint  url.URL
	user      string
	password  string
	more      map[string]string // settings of CLICKHOUSE_URL
	conn      driver.Conn
	addresses engines.Addresses // and what else is needed to open another node
	query     string
	userinfo  *url.Userinfo
}

// Open returns the table at CLICKHOUSE_URL. It does not wait for the server: the first statement says when it is away.
func Open(addresses engines.Addresses) (*Table, error) {
	options, layout, err := addresses.ClickHouseOptions()
	if err != nil {
		return nil, err
	}
	options.MaxOpenConns, options.MaxIdleConns = 64, 8
	options.ReadTimeout = time.Minute
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	endpoint, err := url.Parse(addresses.ClickHouse)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	t := &Table{Layout: layout, conn: conn, endpoint: url.URL{Scheme: endpoint.Scheme, Host: endpoint.Host, Path: "/"}}
	t.user, t.password = options.Auth.Username, options.Auth.Password
	t.addresses, t.query, t.userinfo = addresses, endpoint.RawQuery, endpoint.User
	t.more = map[string]string{}
	for name, value := range options.Settings {
		t.more[name] = fmt.Sprint(value)
	}
	t.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:           dial,
			TLSHandshakeTimeout:   5 * time.Second,
			TLSClientConfig:       options.TLS,
			TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
			DisableCompression:    true,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       2 * time.Second, // shorter than any server's: a request is not written into a connection that is being closed
			ExpectContinueTimeout: 0,
			WriteBufferSize:       64 << 10,
		},
	}
	return t, nil
}

// dial opens a connection that writes bodies as they stand.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext(ctx, network, address)
	if tcp, ok := c.(*net.TCPConn); ok {
		return connection{tcp}, err
	}
	return c, err
}

// connection writes a body from where it stands, in one piece: net/http would copy it, 32 KiB at a time.
type connection struct{ *net.TCPConn }

// ReadFrom is how net/http's transport hands over what follows the head of a request.
func (c connection) ReadFrom(from io.Reader) (int64, error) {
	if limited, ok := from.(*io.LimitedReader); ok {
		if b, ok := limited.R.(*body); ok {
			n, err := c.Write(b.rest[:min(int64(len(b.rest)), limited.N)])
			b.rest, limited.N = b.rest[n:], limited.N-int64(n)
			return int64(n), err
		}
	}
	return c.TCPConn.ReadFrom(from)
}

// body is the body of a request. It is of no type that http.NewRequest knows to rewind: a request that cannot be rewound is not sent again.
type body struct{ rest []byte }

func (b *body) Read(to []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(to, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) Close() error { return nil }

// Close lets go of the connections.
func (t *Table) Close() error {
	t.client.CloseIdleConnections()
	return t.conn.Close()
}

// Ping asks the server whether it is there.
func (t *Table) Ping(ctx context.Context) error {
	if err := t.conn.Ping(ctx); err != nil {
		return fmt.Errorf("ClickHouse: %w", err)
	}
	return nil
}

// Query asks a question. The caller reads and closes the rows.
func (t *Table) Query(ctx context.Context, question string, arguments ...any) (driver.Rows, error) {
	return t.conn.Query(ctx, question, arguments...)
}

// Each asks a question and calls row for each row of the answer, which reads it by scan.
func (t *Table) Each(ctx context.Context, question string, row func(scan func(...any) error) error) error {
	rows, err := t.conn.Query(ctx, question)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Exception is ClickHouse's own answer that a statement failed.
type Exception struct {
	Code    int // of ClickHouse's ErrorCodes.cpp; zero where the answer did not name one
	Message string
}

func (e *Exception) Error() string { return e.Message }

// ViolatedConstraint is the code of a row that a table's CHECK refused.
const ViolatedConstraint = 469

// ErrNoAnswer is wrapped by an error after which nobody knows whether the statement was carried out.
var ErrNoAnswer = errors.New("no answer")

// Insert is one statement that changes something.
type Insert struct {
	// Statement is "INSERT INTO … FORMAT Native" with Body, or any statement without one.
	Statement string
	// Body is the data. It is sent as it is.
	Body []byte
	// Tag is what system.processes shows of the statement while it runs, as the setting log_comment.
	Tag string
}

// settings of every statement: what is answered is done, and nothing of it is decided elsewhere.
var settings = [...][2]string{
	{"async_insert", "0"},                    // else the answer comes before the rows are there
	{"insert_deduplicate", "0"},              // the fence and the sequences decide what is written
	{"wait_end_of_query", "1"},               // else an error could come after "200 OK"
	{"max_partitions_per_insert_block", "0"}, // a clock that jumps makes many months; that must not stop a partition
	{"insert_keeper_max_retries", "0"},       // a replicated table repeats nothing by itself
	{"max_insert_block_size", "10000000"},    // a block stays one block: checked once, one part a month
	{"min_insert_block_size_rows", "0"},      // and is not joined with anything
	{"min_insert_block_size_bytes", "0"},     //
	{"input_format_parallel_parsing", "0"},   //
	{"max_insert_threads", "1"},              //
	{"optimize_trivial_insert_select", "1"},  //
}

// Do sends a statement once. Nil means that ClickHouse answered that it is done. An *Exception means that it answered that it
// failed, of which it may still have done a part. Everything else wraps ErrNoAnswer.
func (t *Table) Do(ctx context.Context, i Insert) error {
	parameters := url.Values{"database": {t.Layout.Database}}
	for name, value := range t.more {
		parameters.Set(name, value)
	}
	for _, s := range settings {
		parameters.Set(s[0], s[1])
	}
	if i.Tag != "" {
		parameters.Set("log_comment", i.Tag)
	}
	sent := i.Body
	if sent == nil {
		sent = []byte(i.Statement)
	} else {
		parameters.Set("query", i.Statement)
	}
	address := t.endpoint
	address.RawQuery = parameters.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), &body{sent})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	request.ContentLength = int64(len(sent))
	request.Header.Set("Content-Type", "application/octet-stream")
	if t.user != "" {
		request.Header.Set("X-ClickHouse-User", t.user)
		request.Header.Set("X-ClickHouse-Key", t.password)
	}
	response, err := t.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoAnswer, withoutAddress(err))
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%w: read the answer: %w", ErrNoAnswer, err)
	}
	code, _ := strconv.Atoi(response.Header.Get("X-ClickHouse-Exception-Code"))
	if response.StatusCode == http.StatusOK && code == 0 && len(answer) == 0 {
		return nil
	}
	text := strings.TrimSpace(string(answer))
	if code == 0 {
		_, _ = fmt.Sscanf(text, "Code: %d.", &code)
	}
	if text == "" {
		text = response.Status
	}
	return &Exception{Code: code, Message: text}
}

// withoutAddress keeps the URL, which holds the statement and the settings, out of an error's text.
func withoutAddress(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
