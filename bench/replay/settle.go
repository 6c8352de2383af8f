package replay

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"spillway.dev/bench/creator"
)

// settle asks for the insights until they show everything that was answered, or the time is up, and returns what came since
// before.
func (r *Replay) settle(ctx context.Context, p *page, before creator.Counts, s *sent) (creator.Counts, time.Duration, error) {
	began := time.Now()
	for {
		now, err := r.api.Counts(ctx, p.id)
		if err != nil {
			return creator.Counts{}, 0, err
		}
		counted := now.Minus(before)
		if counted.Total() >= s.answered || time.Since(began) > r.config.Settle {
			return counted, time.Since(began), nil
		}
		r.progress.show("counted", counted.Total(), s.answered)
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return creator.Counts{}, 0, fmt.Errorf("interrupted while waiting for the insights: %d of %d visits counted", counted.Total(), s.answered)
		}
	}
}

func sum(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

// reasons lists what a map creator.Counts, most first.
func reasons(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for key, n := range m {
		if n != 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	return keys
}

// report prints the table and returns an error if the numbers do not add up.
func (r *Replay) report(plan *plan, p *page, s *sent, counted creator.Counts, took time.Duration) error {
	r.progress.clear()
	leftOut, refused, unanswered := sum(plan.leftOut), sum(s.refused), sum(s.unanswered)
	var b strings.Builder
	fmt.Fprintf(&b, "%s through profile %s: %d paths, %d links\n\n", r.config.File, p.handle, plan.paths, len(p.links))
	row := func(n int, what string) { fmt.Fprintf(&b, "%9d  %s\n", n, what) }
	row(plan.lines, "lines read")
	row(leftOut, "left out")
	for _, reason := range reasons(plan.leftOut) {
		row(plan.leftOut[reason], "  "+reason)
	}
	row(plan.visits(), fmt.Sprintf("sent in %.1f s", s.took.Seconds()))
	row(s.answered, fmt.Sprintf("answered: %d views, %d clicks; %d of them by HEAD", s.views, sum(s.clicks), s.head))
	if refused > 0 {
		row(refused, "answered otherwise")
		for _, reason := range reasons(s.refused) {
			row(s.refused[reason], "  "+reason)
		}
	}
	if unanswered > 0 {
		row(unanswered, "not answered")
		for _, reason := range reasons(s.unanswered) {
			row(s.unanswered[reason], "  "+reason)
		}
	}
	fmt.Fprintf(&b, "\n    views   clicks  counted by class, %.1f s after the last answer\n", took.Seconds())
	for _, class := range creator.Classes() {
		if counted.Views[class]+counted.Clicks[class] != 0 {
			fmt.Fprintf(&b, "%9d%9d  %s\n", counted.Views[class], counted.Clicks[class], class)
		}
	}
	views, clicks := sum(counted.Views), sum(counted.Clicks)
	fmt.Fprintf(&b, "%9d%9d  all\n\n", views, clicks)

	var wrong []string
	differ := func(what string, got, want int) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d counted, %d answered", what, got, want))
		}
	}
	differ("views", views, s.views)
	differ("clicks", clicks, sum(s.clicks))
	differ("HEAD requests", counted.Views["head"]+counted.Clicks["head"], s.head)
	links := 0
	for path, l := range p.links {
		if counted.Links[l.ID] != s.clicks[path] {
			if links++; links <= 3 {
				differ("link "+titleOf(path), counted.Links[l.ID], s.clicks[path])
			}
		}
	}
	if links > 3 {
		wrong = append(wrong, fmt.Sprintf("and %d more links", links-3))
	}
	if unanswered > 0 {
		wrong = append(wrong, fmt.Sprintf("%d visits got no answer, so nobody knows whether they count", unanswered))
	}
	if refused > 0 {
		wrong = append(wrong, fmt.Sprintf("%d visits were not served", refused))
	}
	if len(wrong) == 0 {
		fmt.Fprintf(&b, "It adds up: %d lines = %d left out + %d views + %d clicks, and each of the %d links has the clicks that the log gave it.\n",
			plan.lines, leftOut, views, clicks, len(p.links))
	}
	if _, err := io.WriteString(r.out, b.String()); err != nil {
		return fmt.Errorf("replay: write the table: %w", err)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("replay: %w: %s", ErrDoesNotAddUp, strings.Join(wrong, "; "))
	}
	return nil
}
