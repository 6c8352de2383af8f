package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// atRandom lets faults strike when and where chance wants, several at a time, on processes that have none yet; then all is healed,
// and everything must be there.
func (c *Chaos) atRandom(ctx context.Context, a *arena, section string) error {
	r := row{
		section: section, fault: fmt.Sprintf("random faults, seed %d", c.config.Seed), moment: "-",
		does:     fmt.Sprintf("Faults of the table strike for %s, up to three at a time.", c.config.Random),
		expected: "each answered visit once; none refused",
	}
	before, err := a.audit(ctx)
	if err != nil {
		return err
	}
	var faults []Fault
	for _, f := range everyFault(a.session, c.config.Kafka) {
		if f.Random {
			faults = append(faults, f)
		}
	}
	var (
		seen     *attempts
		failed   error
		done     = make(chan struct{})
		mu       sync.Mutex
		busy     = map[string]bool{}
		troubles []string
		struck   []string
		wait     sync.WaitGroup
		free     = make(chan struct{}, 3)
	)
	coming, enough := context.WithCancel(ctx)
	defer enough()
	go func() {
		defer close(done)
		seen, failed = a.load(coming, "random", c.config.Rate, time.Hour)
	}()
	random := rand.New(rand.NewPCG(c.config.Seed, 0xc4a05))
	began := time.Now()
	for time.Since(began) < c.config.Random {
		if err := sleep(ctx, time.Duration(300+random.IntN(2500))*time.Millisecond); err != nil {
			return errors.New("interrupted")
		}
		f := faults[random.IntN(len(faults))]
		hold := time.Duration(float64(f.Hold) * (0.3 + random.Float64()))
		mu.Lock()
		taken := slices.ContainsFunc(f.Touches, func(name string) bool { return busy[name] })
		if !taken {
			for _, name := range f.Touches {
				busy[name] = true
			}
		}
		mu.Unlock()
		if taken {
			continue
		}
		free <- struct{}{}
		struck = append(struck, fmt.Sprintf("%.1f s: %s for %.1f s", time.Since(began).Seconds(), f.Name, hold.Seconds()))
		wait.Go(func() {
			heal, err := f.strike(ctx, a)
			_ = sleep(ctx, hold)
			if heal != nil {
				err = errors.Join(err, heal(ctx))
			}
			mu.Lock()
			defer mu.Unlock()
			for _, name := range f.Touches {
				busy[name] = false
			}
			if err != nil {
				troubles = append(troubles, fmt.Sprintf("%s: %v", f.Name, err))
			}
			<-free
		})
	}
	wait.Wait()
	c.mu.Lock()
	c.random = struck
	c.mu.Unlock()
	lasted := time.Since(began)
	if err := sleep(ctx, time.Second); err != nil {
		return errors.New("interrupted")
	}
	enough()
	<-done
	if failed != nil {
		return failed
	}
	if _, err := a.revive(ctx); err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	v, took, err := a.settle(ctx, seen, before, None, 2*patience)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	r.wrong = append(r.wrong, v.wrong(None)...)
	if turned := seen.Refused + seen.Unanswered; turned > 0 {
		r.wrong = append(r.wrong, fmt.Sprintf("%d visitors were turned away; attempts: %v", turned, v.Elsewise))
	}
	r.observed = fmt.Sprintf("%d faults; %s", len(struck), observed(seen, v, lasted, took))
	if len(troubles) > 0 {
		// One fault may take away what another needs, as a broker that poison is written to.
		r.observed += fmt.Sprintf("; %d faults met another", len(troubles))
		c.log.Info("faults that met others", "faults", strings.Join(troubles, "; "))
	}
	c.add(r)
	return nil
}
