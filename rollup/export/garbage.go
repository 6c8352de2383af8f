package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway.dev/rollup/export/manifest"
	"spillway.dev/rollup/export/store"
)

// staleAfter is how old a leftover of a small file must be to be removed: it belongs to no cut, so only time can tell.
const staleAfter = 24 * time.Hour

// sweep removes what earlier attempts left: the files of a cut that is published without them can never be published any more.
// That needs no grace period. Files of the next cut are left alone, be their exporter dead or at work.
func (e *Exporter) sweep(ctx context.Context) error {
	removed := 0
	remove := func(o store.Object) error {
		garbage, err := e.isGarbage(ctx, o)
		if err != nil || !garbage {
			return err
		}
		removed++
		return e.store.Remove(ctx, o.Path)
	}
	prefixes := []string{"days/", "states/", store.Unfinished + "/"}
	// Attempts lie in the hours from the newest cut but some on: older ones were swept by earlier runs.
	from, until := e.state.At.AddDate(0, 0, -2), e.now().UTC().AddDate(0, 0, 1)
	if until.Sub(from) > 60*24*time.Hour {
		prefixes = append(prefixes, "events/")
	} else {
		for day := from.Truncate(24 * time.Hour); !day.After(until); day = day.AddDate(0, 0, 1) {
			prefixes = append(prefixes, day.Format("events/dt=2006-01-02/"))
		}
	}
	for _, prefix := range prefixes {
		if err := e.store.List(ctx, prefix, remove); err != nil {
			return fmt.Errorf("look for garbage in %s: %w", e.store, err)
		}
	}
	e.swept = e.now()
	if removed > 0 {
		e.log.Info("removed files of cuts that were never published", "files", removed, "from", e.store.String())
	}
	return nil
}

func (e *Exporter) isGarbage(ctx context.Context, o store.Object) (bool, error) {
	attempt, ok := manifest.AttemptOf(o.Path)
	if !ok {
		return strings.HasPrefix(o.Path, store.Unfinished) && e.now().Sub(o.Time) > staleAfter, nil
	}
	if attempt.Cut > e.state.Head {
		return false, nil
	}
	winner, known := e.winner[attempt.Cut]
	if !known {
		m, _, err := e.chain.Read(ctx, attempt.Cut)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		winner = m.Run
		e.winner[attempt.Cut] = winner
	}
	return attempt.Run != winner, nil
}
