// Package stage is a Spillway of its own for a browser to look at, with pages, visits and a past.
package stage

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"spillway.dev/service/spillwaytest"
)

// Stage is a running Spillway.
type Stage struct {
	*spillwaytest.Spillway
	Visitors, API string // base URLs
	dir           string
}

// Start starts bin/spillway in a directory of its own, and waits until it serves. variables are added to its environment.
func Start(variables ...string) (s *Stage, err error) {
	// A port that was free when it was chosen may be somebody else's a moment later.
	for range 5 {
		if s, err = start(variables); err == nil || !strings.Contains(err.Error(), "is taken") {
			break
		}
	}
	return s, err
}

func start(variables []string) (*Stage, error) {
	dir, err := os.MkdirTemp("", "spillway-stage-")
	if err != nil {
		return nil, err
	}
	s := &Stage{dir: dir}
	if s.Spillway, err = spillwaytest.New(dir); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	s.Visitors, s.API = s.URL(spillwaytest.Visitors, ""), s.URL(spillwaytest.API, "")
	s.More = variables
	if err := s.Spillway.Start(); err != nil {
		s.Kill()
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// Stop ends everything, as Ctrl-C does, and takes it away.
func (s *Stage) Stop() {
	_, _ = s.Interrupt() // what does not end is killed
	_ = os.RemoveAll(s.dir)
}

// Visit makes a visitor's request, as a browser with that user agent, referrer and address.
func (s *Stage) Visit(path, agent, referrer, address string) error {
	header := http.Header{"User-Agent": {agent}, "Accept-Language": {"en-GB,en;q=0.9"}}
	if referrer != "" {
		header.Set("Referer", referrer)
	}
	if address != "" {
		header.Set("X-Forwarded-For", address)
	}
	answer, err := s.Spillway.Visit(http.MethodGet, path, header)
	if err == nil && answer.Status >= 400 {
		err = fmt.Errorf("%s: %d", path, answer.Status)
	}
	return err
}

// Query runs a statement on ClickHouse.
func (s *Stage) Query(statement string) error {
	answer, err := http.Post(s.URL(spillwaytest.ClickHouse, "/?database=spillway"), "text/plain", strings.NewReader(statement))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if b, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, b)
	}
	return nil
}
