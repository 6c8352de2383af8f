// Package insight answers what a creator asks: lifetime numbers by one read of Postgres, timelines from ClickHouse's closed days and,
// for the days that are still open, from the projections of its events.
package insight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Class says what an event was made by. It is part of every number's key.
type Class string

// Classes are all classes, as the tables spell them.
func Classes() []Class {
	return []Class{"unknown", "person", "bot", "preview", "prefetch", "head", "scanner", "owner", "test"}
}

// Person is the class that creators see unless they ask for others.
const Person Class = "person"

// Counts are numbers of one class, or of several together.
type Counts struct {
	Views          int64
	Clicks         int64
	PageClicks     int64 // clicks on the profile page
	UniqueViewers  int64 // distinct daily visitors who viewed, added up by day
	UniqueClickers int64
	UniqueVisitors int64 // who did either
}

// Add adds other counts.
func (c *Counts) Add(o Counts) {
	c.Views += o.Views
	c.Clicks += o.Clicks
	c.PageClicks += o.PageClicks
	c.UniqueViewers += o.UniqueViewers
	c.UniqueClickers += o.UniqueClickers
	c.UniqueVisitors += o.UniqueVisitors
}

// Rate returns part ÷ whole, or nil where there is nothing to divide by. It may exceed 1: a link can be clicked without its page being
// viewed.
func Rate(part, whole int64) *float64 {
	if whole == 0 {
		return nil
	}
	r := float64(part) / float64(whole)
	return &r
}

// LinkClicks are a link's lifetime clicks.
type LinkClicks struct {
	ID      int64
	Title   string // empty if the link is not known any more
	Code    string
	URL     string
	Hidden  bool
	Deleted bool
	Clicks  int64
}

// Holding is a stream that complete_through waits for, that fell silent, or that lost something for good.
type Holding struct {
	Stream string     `json:"stream" doc:"Hexadecimal id of the stream: one start of one redirector."`
	Origin string     `json:"origin,omitempty" doc:"Where it was written: host and directory."`
	Reason string     `json:"reason" doc:"Why: missing, silent, dropped, unreadable."`
	Events uint64     `json:"events" doc:"How many events are concerned, as far as that is known."`
	Since  *time.Time `json:"since,omitempty" doc:"From when on."`
	Until  *time.Time `json:"until,omitempty" doc:"Until when, if it ended."`
}

// Completeness says up to when every answered view and click is known to be in the numbers.
type Completeness struct {
	Through    *time.Time // nil: nothing is known yet
	ComputedAt *time.Time
	HeldBack   []Holding
	Silent     []Holding
	Lost       []Holding
}

// Lifetime is everything since the profile was made.
type Lifetime struct {
	Counted      Counts           // the classes that were asked for
	ByClass      map[Class]Counts // every class that has numbers
	Links        []LinkClicks     // most clicked first; deleted ones while they have clicks, so that they add up
	Completeness Completeness
	// State names what was read, as live.State's ID does: a time in microseconds that grows with each change.
	State int64
}

// ErrNotFound means that there is no such profile.
var ErrNotFound = errors.New("no such profile")

// ReadLifetime reads a profile's lifetime numbers in one snapshot of Postgres, so that they agree with each other.
func ReadLifetime(ctx context.Context, pool *pgxpool.Pool, profile int64, classes []Class) (Lifetime, error) {
	life := Lifetime{ByClass: map[Class]Counts{}}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var batch pgx.Batch
		batch.Queue(`SELECT class, views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors
			FROM profile_counters WHERE profile_id = $1`, profile).Query(func(rows pgx.Rows) error {
			var class Class
			var c Counts
			_, err := pgx.ForEachRow(rows, []any{&class, &c.Views, &c.Clicks, &c.PageClicks, &c.UniqueViewers, &c.UniqueClickers, &c.UniqueVisitors}, func() error {
				life.ByClass[class] = c
				if slices.Contains(classes, class) {
					life.Counted.Add(c)
				}
				return nil
			})
			return err
		})
		batch.Queue(`
			SELECT coalesce(l.id, c.link_id), coalesce(l.title, ''), coalesce(l.code, ''), coalesce(l.url, ''), coalesce(l.hidden, false),
				l.id IS NULL OR l.deleted_at IS NOT NULL, coalesce(c.clicks, 0)::bigint
			FROM (SELECT * FROM links WHERE profile_id = $1) AS l
			FULL JOIN (SELECT link_id, sum(clicks) AS clicks FROM link_counters WHERE profile_id = $1 AND class = ANY($2) GROUP BY link_id) AS c
				ON c.link_id = l.id
			WHERE l.id IS NOT NULL AND l.deleted_at IS NULL OR c.clicks > 0
			ORDER BY 7 DESC, l.position, 1`, profile, classes).Query(func(rows pgx.Rows) (err error) {
			life.Links, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LinkClicks])
			return err
		})
		batch.Queue(`SELECT greatest((SELECT max(as_of) FROM profile_counters WHERE profile_id = $1), (SELECT max(as_of) FROM link_counters WHERE profile_id = $1))`,
			profile).QueryRow(func(row pgx.Row) error {
			var as *time.Time
			err := row.Scan(&as)
			if as != nil {
				life.State = as.UnixMicro()
			}
			return err
		})
		batch.Queue(readCompleteness).QueryRow(life.Completeness.scan)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return Lifetime{}, fmt.Errorf("read lifetime numbers of profile %d: %w", profile, err)
	}
	return life, nil
}

const readCompleteness = `SELECT complete_through, computed_at, held_back, silent, lost FROM completeness`

func (c *Completeness) scan(row pgx.Row) error {
	var heldBack, silent, lost []byte
	switch err := row.Scan(&c.Through, &c.ComputedAt, &heldBack, &silent, &lost); {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(json.Unmarshal(heldBack, &c.HeldBack), json.Unmarshal(silent, &c.Silent), json.Unmarshal(lost, &c.Lost))
}

// ReadCompleteness reads up to when everything is known.
func ReadCompleteness(ctx context.Context, pool *pgxpool.Pool) (c Completeness, err error) {
	if err := c.scan(pool.QueryRow(ctx, readCompleteness)); err != nil {
		return Completeness{}, fmt.Errorf("read up to when all is known: %w", err)
	}
	return c, nil
}
