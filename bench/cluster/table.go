package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Ask sends a statement to ClickHouse over plain HTTP, around every relay and every driver of Spillway's, and returns the answer's rows
// as text. An insert is sent once.
func (c *Cluster) Ask(ctx context.Context, statement string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	u, err := url.Parse(c.ClickHouseURL)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	query := url.Values{"database": {strings.Trim(u.Path, "/")}, "default_format": {"TabSeparated"}}
	u.Path, u.RawQuery = "/", query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(statement))
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	request.GetBody = nil // so that the transport cannot send it again
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask ClickHouse: %s", strings.TrimSpace(string(body)))
	}
	var rows [][]string
	for line := range strings.Lines(string(body)) {
		rows = append(rows, strings.Split(strings.TrimRight(line, "\n"), "\t"))
	}
	return rows, nil
}
