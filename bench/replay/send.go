package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"spillway.dev/bench/visit"
)

// sent is what became of the visits.
type sent struct {
	answered   int            // with what was expected: 302 for a link, 200 for the page
	views      int            // of these, views
	head       int            // of these, by HEAD
	clicks     map[string]int // of these, clicks by path
	refused    map[string]int // answered otherwise, by the answer
	unanswered map[string]int // by the error
	took       time.Duration
}

func (s *sent) add(other *sent) {
	s.answered += other.answered
	s.views += other.views
	s.head += other.head
	for _, m := range []struct{ to, from map[string]int }{{s.clicks, other.clicks}, {s.refused, other.refused}, {s.unanswered, other.unanswered}} {
		for key, n := range m.from {
			m.to[key] += n
		}
	}
}

func newSent() *sent {
	return &sent{clicks: map[string]int{}, refused: map[string]int{}, unanswered: map[string]int{}}
}

// send sends every visit of the log once, over a bounded number of connections.
func (r *Replay) send(ctx context.Context, p *page, plan *plan) (*sent, error) {
	type item struct {
		request visit.Request
		path    string
	}
	var (
		items = make(chan item, r.config.Connections)
		all   = newSent()
		mu    sync.Mutex
		wait  sync.WaitGroup
		began = time.Now()
	)
	for range r.config.Connections {
		wait.Go(func() {
			own, client := newSent(), visit.New(r.visitors)
			for i := range items {
				answer, err := client.Do(&i.request, time.Now().Add(r.config.Timeout))
				own.take(i.path, i.request.Method, answer, err)
			}
			client.Close()
			mu.Lock()
			all.add(own)
			mu.Unlock()
		})
	}
	n := 0
	err := plan.eachVisit(r.config.File, func(request visit.Request, path string) error {
		query := request.Target
		request.Target = "/" + p.handle
		if path != "" {
			request.Target = "/l/" + p.links[path].Code
		}
		if query != "" {
			request.Target += "?" + query
		}
		select {
		case items <- item{request, path}:
		case <-ctx.Done():
			return fmt.Errorf("interrupted after %d of %d visits", n, plan.visits())
		}
		n++
		r.progress.show("sent", n, plan.visits())
		return nil
	})
	close(items)
	wait.Wait()
	r.progress.clear()
	all.took = time.Since(began)
	return all, err
}

func (s *sent) take(path, method string, answer visit.Answer, err error) {
	expected := 302
	if path == "" {
		expected = 200
	}
	switch {
	case err != nil:
		s.unanswered[cause(err)]++
		return
	case answer.Status != expected:
		s.refused[fmt.Sprintf("status %d instead of %d", answer.Status, expected)]++
		return
	case path == "":
		s.views++
	default:
		s.clicks[path]++
	}
	s.answered++
	if method == "HEAD" {
		s.head++
	}
}

// cause names an error without the addresses in it, so that the same ones add up.
func cause(err error) string {
	for _, known := range []string{"connection refused", "connection reset", "broken pipe", "timeout", "unexpected EOF"} {
		if strings.Contains(err.Error(), known) {
			return known
		}
	}
	if errors.Is(err, visit.ErrNotSent) {
		return "could not connect"
	}
	return err.Error()
}
