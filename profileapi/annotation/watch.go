package annotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/profileapi/insight"
)

// Watch notes what changed the numbers of all profiles: times of which events are missing, and new counting rules.
type Watch struct {
	pool   *pgxpool.Pool
	reader *insight.Reader
}

// NewWatch returns a watch; each Round is a look at everything.
func NewWatch(pool *pgxpool.Pool, reader *insight.Reader) *Watch { return &Watch{pool, reader} }

// Round looks once. It is one process's at a time (leader.Annotations).
func (w *Watch) Round(ctx context.Context) error {
	return errors.Join(w.gaps(ctx), w.rules(ctx))
}

// gaps makes the notes of kind gap what is known of gaps now: one that has healed was none.
func (w *Watch) gaps(ctx context.Context) error {
	known, err := insight.ReadCompleteness(ctx, w.pool)
	if err != nil {
		return err
	}
	if known.ComputedAt == nil {
		return nil
	}
	type row struct {
		Subject string     `json:"subject"`
		At      time.Time  `json:"at"`
		Until   *time.Time `json:"until"`
		Text    string     `json:"text"`
	}
	rows := []row{}
	for _, g := range known.Gaps(time.Time{}, known.ComputedAt.AddDate(1, 0, 0)) {
		if !g.Lost && g.Cause != "silent" && known.ComputedAt.Sub(g.From) < late {
			continue // on its way, as always
		}
		// A stream may have lost events at several times.
		one := row{Subject: fmt.Sprintf("%s %s %d", g.Cause, g.Stream, g.From.UnixMicro()), At: g.From, Text: g.Sentence()}
		if !g.To.IsZero() {
			one.Until = &g.To
		}
		rows = append(rows, one)
	}
	encoded, err := json.Marshal(rows)
	if err != nil {
		return fmt.Errorf("write what is missing: %w", err)
	}
	_, err = w.pool.Exec(ctx, `
		WITH known AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS g (subject text, at timestamptz, until timestamptz, text text)),
		healed AS (DELETE FROM annotations WHERE kind = $2 AND profile_id IS NULL AND subject NOT IN (SELECT subject FROM known))
		INSERT INTO annotations (kind, subject, at, until, text) SELECT $2, subject, at, until, text FROM known
		ON CONFLICT (kind, subject) WHERE subject IS NOT NULL DO UPDATE SET until = excluded.until, text = excluded.text
			WHERE (annotations.until, annotations.text) IS DISTINCT FROM (excluded.until, excluded.text)`, encoded, Gap)
	if err != nil {
		return fmt.Errorf("note what is missing: %w", err)
	}
	return nil
}

// late is how long events may be on their way without being noted.
const late = 5 * time.Minute

// rules notes when other rules began to decide what is counted. It looks at the latest events of a few profiles that were visited just
// now: while redirectors are restarted one by one, old and new rules decide side by side, and nothing is noted until all agree.
func (w *Watch) rules(ctx context.Context) error {
	version, since, err := w.reader.Rules(ctx)
	if err != nil {
		return err
	}
	if version == 0 {
		return nil // nobody came, or they do not agree
	}
	var before string
	err = w.pool.QueryRow(ctx, `SELECT text FROM annotations WHERE kind = $1 AND profile_id IS NULL ORDER BY at DESC, id DESC LIMIT 1`, Rules).Scan(&before)
	now := "version " + strconv.FormatUint(uint64(version), 10)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		since = time.Unix(0, 0) // the first that are known are no change: before any page was made, nobody is shown it
	case err != nil:
		return fmt.Errorf("read which rules decided before: %w", err)
	case before == now:
		return nil
	}
	_, err = w.pool.Exec(ctx, `INSERT INTO annotations (kind, subject, at, text) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kind, subject) WHERE subject IS NOT NULL DO NOTHING`, Rules, now+" "+strconv.FormatInt(since.Unix(), 10), since, now)
	if err != nil {
		return fmt.Errorf("note new counting rules: %w", err)
	}
	return nil
}
