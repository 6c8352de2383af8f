// Package live tells those who watch a profile when its numbers change. One query reads the counters of all profiles that somebody
// watches, however many watch them, twice a second.
package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/profileapi/insight"
)

// Options of a hub. The zero value is usable.
type Options struct {
	// Every is how often the counters are read; zero: 500 ms.
	Every time.Duration
	// Watchers is how many may watch at once; zero: 1000.
	Watchers int
	// Recent is how many of the latest events are told of with each change; zero: 20.
	Recent int
}

// State is what is known of a profile at one moment. The numbers are absolute, so whoever missed some states has missed nothing.
type State struct {
	// ID names the state: two with the same ID have the same numbers. It is a time in microseconds and grows.
	ID      int64
	ByClass map[insight.Class]insight.Counts
	// Clicks of each link and class.
	Clicks map[int64]map[insight.Class]int64
	// Through is up to when everything is counted; nil: not known.
	Through *time.Time
	// Events are the latest, newest first.
	Events []insight.Event
}

// ErrFull means that too many watch already.
var ErrFull = errors.New("too many watch already")

// Hub knows who watches what.
type Hub struct {
	pool    *pgxpool.Pool
	reader  *insight.Reader
	options Options
	log     *slog.Logger
	gauge   prometheus.Gauge

	mu       sync.Mutex // guards what follows
	watched  map[int64]*watched
	watchers int
	wake     chan struct{}
}

type watched struct {
	state    *State
	channels []chan *State
	listed   time.Time
	listing  int64 // the state of which the events were listed
}

// NewHub returns a hub; it works while Run does.
func NewHub(pool *pgxpool.Pool, reader *insight.Reader, o Options, log *slog.Logger, metrics prometheus.Registerer) (*Hub, error) {
	if o.Every == 0 {
		o.Every = 500 * time.Millisecond
	}
	if o.Watchers == 0 {
		o.Watchers = 1000
	}
	if o.Recent == 0 {
		o.Recent = 20
	}
	h := &Hub{pool: pool, reader: reader, options: o, log: log, watched: map[int64]*watched{}, wake: make(chan struct{}, 1),
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{Name: "spillway_profileapi_watchers", Help: "Open event streams of live numbers."})}
	if err := metrics.Register(h.gauge); err != nil {
		return nil, fmt.Errorf("register metrics of live numbers: %w", err)
	}
	return h, nil
}

// Watch returns a channel that gets the state of a profile now and whenever it changes. A slow reader gets the newest state only.
// stop must be called. ErrFull if too many watch.
func (h *Hub) Watch(profile int64) (states <-chan *State, stop func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers >= h.options.Watchers {
		return nil, nil, ErrFull
	}
	h.watchers++
	h.gauge.Set(float64(h.watchers))
	w := h.watched[profile]
	if w == nil {
		w = &watched{}
		h.watched[profile] = w
	}
	c := make(chan *State, 1)
	w.channels = append(w.channels, c)
	if w.state != nil {
		c <- w.state
	} else {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watchers--
		h.gauge.Set(float64(h.watchers))
		w.channels = slices.DeleteFunc(w.channels, func(have chan *State) bool { return have == c })
		if len(w.channels) == 0 {
			delete(h.watched, profile)
		}
	}, nil
}

// Run reads while somebody watches, until ctx ends.
func (h *Hub) Run(ctx context.Context) {
	tick := time.NewTicker(h.options.Every)
	defer tick.Stop()
	for {
		if err := h.round(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn("live numbers cannot be read now", "error", err)
		}
		select {
		case <-tick.C:
		case <-h.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Hub) round(ctx context.Context) error {
	h.mu.Lock()
	ids := make([]int64, 0, len(h.watched))
	for id := range h.watched {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	states, err := h.read(ctx, ids)
	if err != nil {
		return err
	}
	for id, state := range states {
		h.mu.Lock()
		w := h.watched[id]
		var old *State
		due := false
		if w != nil {
			old = w.state
			due = w.listing != state.ID && time.Since(w.listed) > 900*time.Millisecond
		}
		h.mu.Unlock()
		if w == nil {
			continue
		}
		if old != nil {
			state.Events = old.Events
		}
		if due {
			// The numbers do not wait for the list of what happened: without it they are still told.
			now := time.Now()
			events, err := h.reader.List(ctx, insight.Question{Profile: id, From: now.Add(-24 * time.Hour), To: now.Add(time.Minute)}, insight.Classes(), nil, h.options.Recent)
			if err != nil {
				h.log.Warn("the latest events cannot be listed", "error", err)
			} else {
				state.Events = events
			}
		}
		h.tell(id, w, old, state, due)
	}
	return nil
}

func (h *Hub) tell(id int64, w *watched, old, state *State, listed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if listed {
		w.listed, w.listing = time.Now(), state.ID
	}
	if old != nil && old.ID == state.ID && same(old.Through, state.Through) && !listed || h.watched[id] != w {
		return
	}
	w.state = state
	for _, c := range w.channels {
		select {
		case <-c: // the reader has not taken the older one
		default:
		}
		c <- state
	}
}

func same(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }

// read returns the states of the profiles, without their events.
func (h *Hub) read(ctx context.Context, ids []int64) (map[int64]*State, error) {
	states := make(map[int64]*State, len(ids))
	for _, id := range ids {
		states[id] = &State{ByClass: map[insight.Class]insight.Counts{}, Clicks: map[int64]map[insight.Class]int64{}}
	}
	err := pgx.BeginTxFunc(ctx, h.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var batch pgx.Batch
		batch.Queue(`SELECT profile_id, class, views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors, as_of
			FROM profile_counters WHERE profile_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
			var id int64
			var class insight.Class
			var c insight.Counts
			var as time.Time
			_, err := pgx.ForEachRow(rows, []any{&id, &class, &c.Views, &c.Clicks, &c.PageClicks, &c.UniqueViewers, &c.UniqueClickers, &c.UniqueVisitors, &as}, func() error {
				states[id].ByClass[class] = c
				states[id].ID = max(states[id].ID, as.UnixMicro())
				return nil
			})
			return err
		})
		batch.Queue(`SELECT profile_id, link_id, class, clicks, as_of FROM link_counters WHERE profile_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
			var id, link, clicks int64
			var class insight.Class
			var as time.Time
			_, err := pgx.ForEachRow(rows, []any{&id, &link, &class, &clicks, &as}, func() error {
				s := states[id]
				if s.Clicks[link] == nil {
					s.Clicks[link] = map[insight.Class]int64{}
				}
				s.Clicks[link][class] = clicks
				s.ID = max(s.ID, as.UnixMicro())
				return nil
			})
			return err
		})
		var through *time.Time
		batch.Queue(`SELECT max(complete_through) FROM completeness`).QueryRow(func(row pgx.Row) error { return row.Scan(&through) })
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		for _, s := range states {
			s.Through = through
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read counters of watched profiles: %w", err)
	}
	return states, nil
}
