package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// control spoils what the oracle reads. It passes only if the oracle says so.
type control struct {
	name, does string
	// spoil returns how it is made good again.
	spoil func(ctx context.Context, a *arena, seen *attempts) (func(context.Context) error, error)
	// says must be in what the oracle finds wrong.
	says []string
}

func allControls() []control {
	rename := func(from, to string) func(context.Context, *arena, *attempts) (func(context.Context) error, error) {
		return func(_ context.Context, _ *arena, seen *attempts) (func(context.Context) error, error) {
			original := seen.ledger
			seen.ledger = bytes.NewBuffer(bytes.Replace(original.Bytes(), []byte(from), []byte(to), 1))
			if bytes.Equal(seen.ledger.Bytes(), original.Bytes()) {
				return nil, fmt.Errorf("the ledger has no %q", from)
			}
			return func(context.Context) error { seen.ledger = original; return nil }, nil
		}
	}
	statements := func(good string, bad ...string) func(context.Context, *arena, *attempts) (func(context.Context) error, error) {
		return func(ctx context.Context, a *arena, seen *attempts) (func(context.Context) error, error) {
			fill := func(s string) string { return strings.ReplaceAll(s, "RUN", seen.run) }
			for _, s := range bad {
				if _, err := a.Ask(ctx, fill(s)); err != nil {
					return nil, err
				}
			}
			return func(ctx context.Context) error {
				if good != "" {
					if _, err := a.Ask(ctx, fill(good)); err != nil {
						return err
					}
				}
				return restartIngests(a)(ctx) // who takes the partitions then heals them from Kafka
			}, nil
		}
	}
	const one = "utm_content = (SELECT min(utm_content) FROM spillway.events WHERE startsWith(utm_content, 'RUN.'))"
	return []control{
		{
			"a visit that nobody stored", "The ledger says of one visit that it was another.",
			rename(".1\t", ".zzzzzzz\t"), []string{"1 answered visits are not in the table", "1 rows are of visits that nobody made"},
		},
		{
			"a row less", "One row is deleted from ClickHouse.",
			statements("", "ALTER TABLE spillway.events DELETE WHERE "+one+" SETTINGS mutations_sync = 2"),
			[]string{"1 answered visits are not in the table", "the audit misses 1"},
		},
		{
			"a row more", "One row is inserted into ClickHouse a second time, by whoever holds the fence.",
			statements("ALTER TABLE spillway.events DELETE WHERE "+one+" SETTINGS mutations_sync = 2",
				"INSERT INTO spillway.events SELECT * REPLACE (joinGet('spillway.terms', 'term', partition) AS term) FROM spillway.events WHERE "+one+" LIMIT 1"),
			[]string{"1 visits are in the table twice", "the audit finds 1 doubled"},
		},
		{
			"a number that is not the table's", "One counter in PostgreSQL is one higher.",
			func(ctx context.Context, a *arena, _ *attempts) (func(context.Context) error, error) {
				change := func(by int) func(context.Context) error {
					return func(ctx context.Context) error {
						_, err := a.pool.Exec(ctx, `UPDATE profile_counters SET views = views + $1 WHERE profile_id = $2::bigint AND class = 'person'`, by, a.profile)
						return err
					}
				}
				return change(-1), change(1)(ctx)
			},
			[]string{"1 numbers in PostgreSQL are not the table's", "the audit finds 1 counters that differ"},
		},
	}
}

// controls shows that the oracle can say no. Whoever would heal the damage stands still until the oracle has spoken.
func (c *Chaos) controls(ctx context.Context, a *arena, section string) error {
	before, err := a.audit(ctx)
	if err != nil {
		return err
	}
	seen, err := a.load(ctx, "control", c.config.Rate, time.Second)
	if err != nil {
		return err
	}
	v, _, err := a.settle(ctx, seen, before, None, patience)
	if wrong := v.wrong(None); err != nil || len(wrong) > 0 {
		c.add(row{section: section, fault: "a good run first", moment: "-", expected: "nothing is wrong", wrong: append(wrong, fmt.Sprint(err))})
		return nil
	}
	healers := []string{"ingest-1", "ingest-2", "rollup-1", "rollup-2"}
	for i, k := range allControls() {
		if c.config.Short && i > 1 {
			break
		}
		r := row{section: section, fault: "control: " + k.name, does: k.does, moment: "-", expected: "the oracle says: " + strings.Join(k.says, "; ")}
		for _, name := range healers {
			if err := a.process(name).Signal(stop); err != nil {
				return err
			}
		}
		undo, err := k.spoil(ctx, a, seen)
		if err == nil {
			v, err = a.judge(ctx, seen, before)
		}
		wrong := v.wrong(None)
		r.observed = "the oracle says: " + strings.Join(wrong, "; ")
		for _, says := range k.says {
			if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, says) }) {
				r.wrong = append(r.wrong, "the oracle does not say: "+says)
			}
		}
		for _, name := range healers {
			err = errors.Join(err, a.process(name).Signal(proceed))
		}
		if undo != nil {
			err = errors.Join(err, undo(ctx))
		}
		if err != nil {
			r.wrong = append(r.wrong, err.Error())
		}
		v, took, err := a.settle(ctx, seen, before, None, patience)
		if err != nil {
			r.wrong = append(r.wrong, err.Error())
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		r.wrong = append(r.wrong, v.wrong(None)...)
		r.observed += fmt.Sprintf(". All is well again %.1f s after", took.Seconds())
		c.add(r)
	}
	return nil
}
