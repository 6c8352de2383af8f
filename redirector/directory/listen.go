package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	schema "spillway.dev/schemas/postgres"
)

const (
	// heartbeat is how long the listener hears nothing before it asks whether the connection still lives. A cut that nobody
	// reports shows by then.
	heartbeat        = 5 * time.Second
	heartbeatTimeout = 2 * time.Second
	listenTimeout    = 5 * time.Second
	listenAgain      = 200 * time.Millisecond // after a failure, doubled up to listenAtMost
	listenAtMost     = 2 * time.Second
)

// announcement is what the database's triggers send: the names that a change touched.
type announcement struct {
	All     bool     `json:"all"`
	Handles []string `json:"handles"`
	Links   []struct {
		Host string `json:"host"`
		Code string `json:"code"`
	} `json:"links"`
}

// listen hears announcements until ctx ends, over one connection after another.
func (d *Directory) listen(ctx context.Context) {
	wait, told := listenAgain, false
	for ctx.Err() == nil {
		began := time.Now()
		err := d.listenOnce(ctx)
		d.metrics.listening.Set(0)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > heartbeat {
			wait, told = listenAgain, false
		}
		if !told {
			d.log.Warn("changes of profiles and links are not heard of; what is known is served meanwhile", "error", err)
			told = true
		}
		// Spread, so that all redirectors do not come back in the same moment.
		pause := wait/2 + rand.N(wait)
		wait = min(2*wait, listenAtMost)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// listenOnce hears announcements over one connection until it fails.
func (d *Directory) listenOnce(ctx context.Context) error {
	connection, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		connection.Close(closing)
	}()
	// From here on no change is missed; what changed before may have been.
	d.metrics.listening.Set(1)
	d.resync()
	d.log.Info("hearing of changes of profiles and links")
	for {
		hearing, cancel := context.WithTimeout(ctx, heartbeat)
		notification, err := connection.WaitForNotification(hearing)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			d.hear(notification.Payload)
		case errors.Is(err, context.DeadlineExceeded) && !connection.IsClosed():
			asking, cancel := context.WithTimeout(ctx, heartbeatTimeout)
			err := connection.Ping(asking)
			cancel()
			if err != nil {
				return fmt.Errorf("ask whether the connection lives: %w", err)
			}
		default:
			return fmt.Errorf("wait for changes: %w", err)
		}
	}
}

// connect opens a connection that listens, outside of the pool: it lives as long as it can.
func (d *Directory) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	config := d.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = "spillway listen"
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("listen for changes: %w", err)
	}
	if _, err := connection.Exec(ctx, "LISTEN "+schema.ChangedChannel); err != nil {
		connection.Close(ctx)
		return nil, fmt.Errorf("listen for changes: %w", err)
	}
	return connection, nil
}

// hear makes what an announcement names be loaded again.
func (d *Directory) hear(payload string) {
	d.metrics.announcements.Inc()
	var a announcement
	if err := json.Unmarshal([]byte(payload), &a); err != nil {
		d.log.Warn("an announcement of changes is not understood; everything is loaded again", "error", err)
		a = announcement{All: true}
	}
	if a.All {
		d.resync()
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, handle := range a.Handles {
		d.changesLocked(key{kindProfile, "", strings.ToLower(handle)})
	}
	for _, l := range a.Links {
		d.changesLocked(key{kindLink, l.Host, l.Code})
		if l.Host != "" {
			d.relist = true
		}
	}
	if d.heard.IsZero() {
		d.heard = now
	}
	d.wake()
}

// changesLocked notes that a name is to be loaded again, wherever it is known or becoming known.
func (d *Directory) changesLocked(k key) {
	hash := d.hashOf(k)
	d.unknown.remove(hash)
	if c := d.calls[k]; c != nil {
		c.overtaken = true
	}
	_, known := d.valueLocked(k, hash)
	if a := d.asking[k]; a != nil {
		a.overtaken, known = true, true
	}
	if known {
		d.changed[k] = struct{}{}
	}
}

// resync makes everything be loaded again, what visitors used lately before the rest.
func (d *Directory) resync() {
	d.metrics.resyncs.Inc()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		c.overtaken = true
	}
	for _, a := range d.asking {
		a.overtaken = true
	}
	d.unknown.clear()
	d.relist = true
	d.resynced = time.Now()
	d.doubtful = doubtful{}
	seen := map[*entry]struct{}{}
	d.eachEntryLocked(func(e *entry) {
		if _, twice := seen[e]; twice {
			return
		}
		seen[e] = struct{}{}
		if e.used.Load() != 0 {
			d.doubtful.first = append(d.doubtful.first, e.key())
		} else {
			d.doubtful.rest = append(d.doubtful.rest, e.key())
		}
	})
	d.shelves.each(func(s *shelf) { s.doubt = s.all() })
	d.wake()
}
