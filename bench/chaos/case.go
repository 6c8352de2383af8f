package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// patience is how long everything may take to arrive after a fault was healed and the last visitor came.
const patience = 45 * time.Second

// one runs one case and adds its row. Only an interruption is an error.
func (c *Chaos) one(ctx context.Context, a *arena, section string, f *Fault, m Moment) error {
	r := row{section: section, fault: f.Name, does: f.Does, moment: m.String(), expected: expectation(f)}
	before, err := a.audit(ctx)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		c.add(r)
		_, err := a.revive(ctx)
		return err
	}
	rate := c.config.Rate
	if f.Rate > 0 {
		rate = f.Rate
	}
	hold := f.hold(m, c.config.Short)
	// Visitors come so long before the fault, and after it. At the end, the last one comes just after it has struck.
	at, after := 100*time.Millisecond, 1200*time.Millisecond
	switch {
	case m == Middle && c.config.Short:
		at, after = 600*time.Millisecond, 600*time.Millisecond
	case m == Middle:
		at = time.Second
	case m == End:
		at = 1700 * time.Millisecond
	}
	var (
		seen   *attempts
		failed error
		done   = make(chan struct{})
	)
	coming, enough := context.WithCancel(ctx)
	defer enough()
	go func() {
		defer close(done)
		limit := 10 * time.Minute // they come until the fault is over, however long that takes
		if m == End {
			limit = at + 100*time.Millisecond
		}
		seen, failed = a.load(coming, fmt.Sprintf("c%d", len(c.rows)), rate, limit)
	}()
	if err := sleep(ctx, at); err != nil {
		return err
	}
	struck := time.Now()
	heal, err := f.strike(ctx, a)
	if err != nil {
		r.wrong = append(r.wrong, fmt.Sprintf("the fault could not be made: %v", err))
	}
	if err := sleep(ctx, hold-time.Since(struck)); hold > 0 && err != nil {
		return err
	}
	if heal != nil {
		if err := heal(ctx); err != nil {
			r.wrong = append(r.wrong, fmt.Sprintf("the fault could not be healed: %v", err))
		}
	}
	lasted := time.Since(struck)
	if m != End {
		if err := sleep(ctx, after); err != nil {
			return err
		}
		enough()
	}
	<-done
	if failed != nil {
		return failed
	}
	ended, err := a.revive(ctx)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	for _, name := range ended {
		if f.on != limited { // an engine may end itself on a full disk
			r.wrong = append(r.wrong, "ended by itself: "+name)
		}
	}
	v, took, err := a.settle(ctx, seen, before, f.Loss, patience)
	// What ended meanwhile is started again for the next case.
	late, reviving := a.revive(ctx)
	for _, name := range late {
		if f.on == limited {
			continue
		}
		r.wrong = append(r.wrong, "ended by itself, after the fault: "+name)
	}
	if err = errors.Join(err, reviving); err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	r.wrong = append(r.wrong, v.wrong(f.Loss)...)
	if turned := seen.Refused + seen.Unanswered; turned > 0 {
		r.wrong = append(r.wrong, fmt.Sprintf("%d visitors were turned away; attempts: %v", turned, v.Elsewise))
	}
	r.observed = observed(seen, v, lasted, took)
	c.add(r)
	return nil
}

// observed is what the table says of a case.
func observed(seen *attempts, v verdict, lasted, took time.Duration) string {
	parts := []string{
		fmt.Sprintf("%d answered, %d stored once", v.Answered, v.Stored),
		fmt.Sprintf("%d refused, %d over 100 ms, p99 %.1f ms", seen.Refused+seen.Unanswered, seen.Slow, float64(seen.Waits.ValueAtQuantile(99))/1000),
	}
	if v.Lost+v.Doubled+v.Alien+v.Differs != 0 {
		parts = append(parts, fmt.Sprintf("%d lost, %d doubled, %d of nobody, %d numbers differ", v.Lost, v.Doubled, v.Alien, v.Differs))
	}
	if v.Audit.Missing+v.Audit.Doubled+v.Audit.Dropped != 0 {
		parts = append(parts, fmt.Sprintf("audit: %d missing, %d dropped, %d doubled", v.Audit.Missing, v.Audit.Dropped, v.Audit.Doubled))
	}
	parts = append(parts, fmt.Sprintf("fault %.1f s, all there %.1f s after the last visitor", lasted.Seconds(), took.Seconds()))
	return strings.Join(parts, "; ")
}

// ending looks at the whole table once more, after everything that befell this cluster: no name is there twice.
func (c *Chaos) ending(ctx context.Context, a *arena, section string) error {
	r := row{section: section, fault: "all of the above", does: "The same cluster went through all cases of this section.", moment: "-", expected: "no name is in the table twice"}
	rows, err := a.Ask(ctx, "SELECT count(), uniqExact(stream, partition, sequence), countIf(c > 1) FROM (SELECT stream, partition, sequence, count() OVER (PARTITION BY stream, partition, sequence) AS c FROM spillway.events)")
	if err != nil || len(rows) != 1 {
		r.wrong = append(r.wrong, fmt.Sprintf("the table could not be read: %v", err))
	} else {
		r.observed = fmt.Sprintf("%s rows, %s names", rows[0][0], rows[0][1])
		if rows[0][0] != rows[0][1] {
			r.wrong = append(r.wrong, rows[0][2]+" rows share their names with others")
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	c.add(r)
	return nil
}
