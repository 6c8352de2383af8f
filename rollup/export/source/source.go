// Package source reads from ClickHouse as Arrow record batches: its HTTP interface, format ArrowStream, straight off the wire.
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

// Records is a running query's result. It is not goroutine-safe.
type Records struct {
	reader *ipc.Reader // nil: no batch at all
	body   io.Closer
	stop   context.CancelFunc
	idle   *time.Timer
	row    int64
}

// Query starts a SELECT. The caller closes the result.
func (c *ClickHouse) Query(ctx context.Context, q Query) (*Records, error) {
	values := url.Values{"database": {c.database}}
	set := func(settings map[string]string) {
		for name, value := range settings {
			values.Set(name, value)
		}
	}
	set(map[string]string{
		"log_comment":    "spillway export",
		"max_query_size": "268435456", // a cut's lanes are written out in the query
		"output_format_arrow_low_cardinality_as_dictionary":     "1",
		"output_format_arrow_use_signed_indexes_for_dictionary": "1",
		"output_format_arrow_string_as_string":                  "1",
		"output_format_arrow_compression_method":                "none",
	})
	set(c.settings)
	set(q.Settings)
	for name, value := range q.Params {
		values.Set("param_"+name, value)
	}
	ctx, stop := context.WithCancel(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address+"?"+values.Encode(), strings.NewReader(q.SQL+"\nFORMAT ArrowStream"))
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
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		defer stop()
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return nil, fmt.Errorf("ClickHouse refused a query: %s (status %d)", first, response.StatusCode)
	}
	r := &Records{body: response.Body, stop: stop}
	// Reading is what shows whether the server is alive; who waits for the one that uses the batches is not the server's fault.
	r.idle = time.AfterFunc(silence, stop)
	input := bufio.NewReaderSize(&timed{from: response.Body, idle: r.idle}, 1<<20)
	if _, err := input.Peek(1); errors.Is(err, io.EOF) {
		return r, nil // no rows
	}
	r.reader, err = ipc.NewReader(input)
	if err != nil {
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

// Cancel makes a running Next return. Other than the methods above it may be called from another goroutine.
func (r *Records) Cancel() { r.stop() }

// Close ends the query, finished or not, and frees what it holds.
func (r *Records) Close() {
	r.idle.Stop()
	if r.reader != nil {
		r.reader.Release()
	}
	r.stop()
	_ = r.body.Close()
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
