// Package source reads from ClickHouse over its HTTP interface: what is exported as ClickHouse's own blocks of columns (Blocks: the format
// Native, which costs ClickHouse half of what Arrow does), small results row by row (Rows: the format ArrowStream).
//
// It only ever selects, so a read-only user is enough.
package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	schema "spillway.dev/schemas/clickhouse"
	"spillway.dev/service/engines"
)

// silence is how long ClickHouse may send nothing before a query is given up: a sort of many rows sends nothing for a while.
const silence = 10 * time.Minute

// ErrBroken is wrapped by what is returned when the answer broke off in the middle.
var ErrBroken = errors.New("the answer broke off")

// ClickHouse asks one server. It is safe for use by several goroutines.
type ClickHouse struct {
	client   *http.Client
	address  string
	user     string
	password string
	database string
	// Settings are added to every query's own.
	settings map[string]string
}

// Open returns a source for CLICKHOUSE_URL, and where the tables are. It does not ask the server yet.
func Open(a engines.Addresses) (*ClickHouse, schema.Layout, error) {
	options, layout, err := a.ClickHouseOptions()
	if err != nil {
		return nil, layout, err
	}
	u, err := url.Parse(a.ClickHouse)
	if err != nil {
		return nil, layout, fmt.Errorf("CLICKHOUSE_URL: %w", err)
	}
	return &ClickHouse{
		client: &http.Client{Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: options.DialTimeout}).DialContext,
			TLSClientConfig:     options.TLS,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
			ReadBufferSize:      256 << 10,
		}},
		address:  u.Scheme + "://" + u.Host + "/",
		user:     options.Auth.Username,
		password: options.Auth.Password,
		database: layout.Database,
	}, layout, nil
}

// With returns a source that adds settings to every query.
func (c *ClickHouse) With(settings map[string]string) *ClickHouse {
	other := *c
	other.settings = settings
	return &other
}

// Query is one SELECT.
type Query struct {
	SQL      string // without FORMAT
	Settings map[string]string
	// Params are the values of the placeholders {name:Type}.
	Params map[string]string
}

// stream is the answer to a query, as it comes.
type stream struct {
	input *bufio.Reader
	body  io.Closer
	stop  context.CancelFunc
	idle  *time.Timer
	empty bool
}

// ask starts a SELECT whose answer comes in a format.
func (c *ClickHouse) ask(ctx context.Context, q Query, format string, formatting map[string]string) (*stream, error) {
	values := url.Values{"database": {c.database}}
	for _, settings := range []map[string]string{formatting, c.settings, q.Settings} {
		for name, value := range settings {
			values.Set(name, value)
		}
	}
	values.Set("log_comment", "spillway export")
	values.Set("max_query_size", "268435456") // a cut's lanes are written out in the query
	for name, value := range q.Params {
		values.Set("param_"+name, value)
	}
	ctx, stop := context.WithCancel(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address+"?"+values.Encode(), strings.NewReader(q.SQL+"\nFORMAT "+format))
	if err != nil {
		stop()
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	request.Header.Set("X-ClickHouse-User", c.user)
	if c.password != "" {
		request.Header.Set("X-ClickHouse-Key", c.password)
	}
	response, err := c.client.Do(request)
	if err != nil {
		stop()
		var long *url.Error
		if errors.As(err, &long) {
			err = long.Err // without the settings
		}
		return nil, fmt.Errorf("ask ClickHouse at %s: %w: start it, or say with CLICKHOUSE_URL where it is", c.address, err)
	}
	if response.StatusCode != http.StatusOK {
		defer stop()
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return nil, fmt.Errorf("ClickHouse refused a query: %s (status %d)%s", first, response.StatusCode, cure(response))
	}
	s := &stream{body: response.Body, stop: stop}
	// Reading is what shows whether the server is alive; who waits for the one that uses what was read is not the server's fault.
	s.idle = time.AfterFunc(silence, stop)
	s.input = bufio.NewReaderSize(&timed{from: response.Body, idle: s.idle}, 1<<18)
	_, err = s.input.Peek(1)
	s.empty = errors.Is(err, io.EOF)
	return s, nil
}

// cure is what to do about a refusal, to stand behind it, or empty.
func cure(refusal *http.Response) string {
	switch refusal.Header.Get("X-ClickHouse-Exception-Code") {
	case "60", "81": // UNKNOWN_TABLE, UNKNOWN_DATABASE
		return ": check the database in CLICKHOUSE_URL, or start ingest or rollup, which make the tables"
	case "194", "516": // REQUIRED_PASSWORD, AUTHENTICATION_FAILED
		return ": check user and password in CLICKHOUSE_URL"
	case "":
		return ": check whether it is ClickHouse's HTTP interface that CLICKHOUSE_URL names"
	}
	return ""
}

// Cancel makes a read that is under way return. It may be called from another goroutine.
func (s *stream) Cancel() { s.stop() }

// Close ends the query, finished or not, and frees what it holds.
func (s *stream) Close() {
	s.idle.Stop()
	s.stop()
	_ = s.body.Close()
}

// Records is a running query's result as Arrow record batches. It is not goroutine-safe.
type Records struct {
	*stream
	reader *ipc.Reader // nil: no batch at all
	row    int64
}

// Query starts a SELECT whose result comes as Arrow record batches. The caller closes the result.
func (c *ClickHouse) Query(ctx context.Context, q Query) (*Records, error) {
	s, err := c.ask(ctx, q, "ArrowStream", map[string]string{
		"output_format_arrow_low_cardinality_as_dictionary":     "1",
		"output_format_arrow_use_signed_indexes_for_dictionary": "1",
		"output_format_arrow_string_as_string":                  "1",
		"output_format_arrow_compression_method":                "none",
	})
	if err != nil {
		return nil, err
	}
	r := &Records{stream: s}
	if s.empty {
		return r, nil
	}
	if r.reader, err = ipc.NewReader(s.input); err != nil {
		r.Close()
		return nil, fmt.Errorf("read ClickHouse's answer: %w: %w", ErrBroken, err)
	}
	return r, nil
}

// timed runs the timer only while a read is under way.
type timed struct {
	from io.Reader
	idle *time.Timer
}

func (t *timed) Read(p []byte) (int, error) {
	t.idle.Reset(silence)
	n, err := t.from.Read(p)
	t.idle.Stop()
	return n, err
}

// Schema is the result's schema; nil if there is no row.
func (r *Records) Schema() *arrow.Schema {
	if r.reader == nil {
		return nil
	}
	return r.reader.Schema()
}

// Next returns the next batch, which stays valid until the call after it unless it is retained, or io.EOF.
func (r *Records) Next() (arrow.RecordBatch, error) {
	if r.reader == nil {
		return nil, io.EOF
	}
	batch, err := r.reader.Read()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("read ClickHouse's answer after %d rows: %w: %w", r.row, ErrBroken, err)
	}
	r.row += batch.NumRows()
	return batch, nil
}

// Close ends the query, finished or not, and frees what it holds.
func (r *Records) Close() {
	if r.reader != nil {
		r.reader.Release()
	}
	r.stream.Close()
}

// Rows calls f with each row of a small result.
func (c *ClickHouse) Rows(ctx context.Context, q Query, f func(Row) error) error {
	records, err := c.Query(ctx, q)
	if err != nil {
		return err
	}
	defer records.Close()
	for {
		batch, err := records.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range int(batch.NumRows()) {
			if err := f(Row{batch, i}); err != nil {
				return err
			}
		}
	}
}
