package stand

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"spillway.dev/service/engines"
)

func ignoreDone(err error) error {
	if errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	return err
}

// Columns is a database of a ClickHouse.
type Columns struct{ URL string }

// NewColumns makes a database with Spillway's tables in the engine at address.
func NewColumns(ctx context.Context, address, database string) (*Columns, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse's address: %w", err)
	}
	u.Path = "/" + database
	if err := (engines.Addresses{ClickHouse: u.String()}).MigrateClickHouse(ctx); err != nil {
		return nil, err
	}
	return &Columns{URL: u.String()}, nil
}

// Database is its name.
func (c *Columns) Database() string { return c.URL[strings.LastIndexByte(c.URL, '/')+1:] }

// Ask sends a statement over plain HTTP and returns the answer as it is. data, if not nil, follows the statement, as in
// "INSERT … FORMAT …". Settings are name=value.
func (c *Columns) Ask(ctx context.Context, statement string, data []byte, settings ...string) ([]byte, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	query := url.Values{"database": {c.Database()}, "default_format": {"TabSeparated"}}
	if !strings.HasPrefix(statement, "SELECT") {
		query.Set("wait_end_of_query", "1") // an error could come after "200 OK"
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		query.Set(name, value)
	}
	body := []byte(statement)
	if data != nil {
		query.Set("query", statement)
		body = data
	}
	u.Path, u.RawQuery = "/", query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask ClickHouse: %.80q: %s", statement, bytes.TrimSpace(answer))
	}
	return answer, nil
}

// Do sends statements whose answers do not matter.
func (c *Columns) Do(ctx context.Context, statements ...string) error {
	for _, s := range statements {
		if _, err := c.Ask(ctx, s, nil); err != nil {
			return err
		}
	}
	return nil
}

// Number asks for one number.
func (c *Columns) Number(ctx context.Context, question string) (float64, error) {
	answer, err := c.Ask(ctx, question, nil)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(answer)), 64)
	if err != nil {
		return 0, fmt.Errorf("ask ClickHouse: %.80q: %q is no number", question, answer)
	}
	return n, nil
}

// Merged waits until no parts of the database are being merged.
func (c *Columns) Merged(ctx context.Context) error {
	return Until(ctx, "wait for merges", patience, pollEvery, func() (bool, error) {
		n, err := c.Number(ctx, "SELECT count() FROM system.merges WHERE database = '"+c.Database()+"'")
		return n == 0, err
	})
}
