package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"spillway.dev/profileapi/weekly"
)

const (
	// reportEvery is how often it is looked for weeks that have ended.
	reportEvery = time.Minute
	// reportHour is when on Monday, by the profile's clock, the week is told of.
	reportHour = 8
	// reportLate is how long after that hour it is told of still, if it could not be before.
	reportLate = 48 * time.Hour
	// reportWait is how long after that hour the report waits for events that are on their way.
	reportWait = 6 * time.Hour
	// reportsAtOnce bounds the reports of one look, so that others of the watch's work get their turn.
	reportsAtOnce = 200
)

// weeks tells of the weeks that have just ended, where it is Monday morning.
func (w *Watch) weeks(ctx context.Context) error {
	rows, _ := w.pool.Query(ctx, `SELECT DISTINCT timezone FROM profiles WHERE deleted_at IS NULL`) // CollectRows tells of its error
	zones, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for weeks that ended: %w", err)
	}
	now := w.now()
	var failures []error
	for _, name := range zones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			continue // profiles are counted by UTC then, and told of with it
		}
		week := weekly.Before(now.In(zone))
		since := now.Sub(time.Date(week.To.Year(), week.To.Month(), week.To.Day(), reportHour, 0, 0, 0, zone))
		if since < 0 || since > reportLate {
			continue
		}
		failures = append(failures, w.reports(ctx, name, week, since < reportWait))
	}
	return errors.Join(failures...)
}

// reports tells the profiles of a time zone of their week. If patient, it waits until all of the week is known.
func (w *Watch) reports(ctx context.Context, zone string, week weekly.Week, patient bool) error {
	if patient {
		var known bool
		err := w.pool.QueryRow(ctx, `SELECT coalesce(complete_through >= $1, false) FROM completeness`, week.To).Scan(&known)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("look up to when all is known: %w", err)
		}
		if !known {
			return nil
		}
	}
	var quiet []int64
	for id, name := range w.quiet {
		if name == week.Name() {
			quiet = append(quiet, id)
		} else if len(w.quiet) > mostTold {
			delete(w.quiet, id)
		}
	}
	slices.Sort(quiet)
	// Who had no visitor for two weeks has nothing to be told: as_of is when the numbers changed last.
	rows, _ := w.pool.Query(ctx, `
		SELECT p.id FROM profiles p JOIN profile_counters c ON c.profile_id = p.id AND c.class = 'person' AND c.as_of >= $2::timestamptz - interval '14 days'
		WHERE p.timezone = $1 AND p.deleted_at IS NULL AND p.created_at < $2 AND p.id <> ALL(coalesce($5, '{}'::bigint[]))
			AND NOT EXISTS (SELECT FROM alerts a WHERE a.profile_id = p.id AND a.kind = $3 AND a.subject = $4)
		ORDER BY p.id LIMIT $6`, zone, week.To, Weekly, week.Name(), quiet, reportsAtOnce) // CollectRows tells of its error
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("look for profiles whose week ended: %w", err)
	}
	for _, id := range ids {
		report, err := weekly.Read(ctx, w.reader, id, week, w.now().In(week.From.Location()), w.log)
		if err != nil {
			return fmt.Errorf("report the week of profile %d: %w", id, err)
		}
		if report.Quiet() {
			w.quiet[id] = week.Name()
			continue
		}
		if _, err := w.store.tell(ctx, id, Weekly, week.Name(), report.Sentence(), report, w.mail); err != nil {
			return err
		}
	}
	return nil
}
