package counters

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/eventtest"
)

// noon is in an open day.
func noon() time.Time { return time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour) }

func profileRow(t *testing.T, e *eventtest.Engines, profile int64, class string) Numbers {
	t.Helper()
	var n Numbers
	err := e.Pool.QueryRow(t.Context(), `SELECT views, clicks, page_clicks, unique_viewers, unique_clickers, unique_visitors
		FROM profile_counters WHERE profile_id = $1 AND class = $2`, profile, class).Scan(&n.Views, &n.Clicks, &n.PageClicks, &n.UniqueViewers, &n.UniqueClickers, &n.UniqueVisitors)
	require.NoError(t, err)
	return n
}

func update(t *testing.T, e *eventtest.Engines, kept *Kept, ids ...uint64) Written {
	t.Helper()
	closed, err := day.ReadClosed(t.Context(), e.Tables)
	require.NoError(t, err)
	r, err := Read(t.Context(), e.Tables, closed, kept, ids)
	require.NoError(t, err)
	w, err := Write(t.Context(), e.Pool, r)
	require.NoError(t, err)
	return w
}

func TestOpenDaysAreCountedByClassAndSurface(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	at := noon()
	e.Insert(
		eventtest.Event{Time: at, Profile: 1, Visitor: 10},
		eventtest.Event{Time: at, Profile: 1, Visitor: 10},
		eventtest.Event{Time: at, Profile: 1, Visitor: 11},
		eventtest.Event{Time: at, Profile: 1, Visitor: 12, Class: "bot"},
		eventtest.Event{Time: at, Profile: 1, Link: 5, Visitor: 10},
		eventtest.Event{Time: at, Profile: 1, Link: 5, Visitor: 13, Surface: "direct"},
		eventtest.Event{Time: at, Profile: 1, Link: 6, Visitor: 13, Surface: "qr"},
		eventtest.Event{Time: at.AddDate(0, 0, -1), Profile: 1, Visitor: 10}, // the day before: a visitor again
		eventtest.Event{Time: at, Profile: 2, Visitor: 10},
	)
	// ClickHouse refuses a query that would read the raw events.
	r, err := Read(t.Context(), e.With("force_optimize_projection", 1), day.Closed{}, nil, []uint64{1, 2})
	require.NoError(t, err)
	w, err := Write(t.Context(), e.Pool, r)
	require.NoError(t, err)
	require.Equal(t, Written{Profiles: 3, Links: 2}, w)
	require.Equal(t, Numbers{Views: 4, Clicks: 3, PageClicks: 1, UniqueViewers: 3, UniqueClickers: 2, UniqueVisitors: 4}, profileRow(t, e, 1, "person"))
	require.Equal(t, Numbers{Views: 1, UniqueViewers: 1, UniqueVisitors: 1}, profileRow(t, e, 1, "bot"))
	require.Equal(t, Numbers{Views: 1, UniqueViewers: 1, UniqueVisitors: 1}, profileRow(t, e, 2, "person"))
	require.Equal(t, Written{}, update(t, e, nil, 1, 2), "nothing differs, so nothing is written")

	e.Insert(eventtest.Event{Time: at, Profile: 1, Link: 6, Visitor: 13})
	require.Equal(t, Written{Profiles: 1, Links: 1}, update(t, e, nil, 1, 2))
	require.EqualValues(t, 4, profileRow(t, e, 1, "person").Clicks)
	var sum int64
	require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT sum(clicks)::bigint FROM link_counters WHERE profile_id = 1").Scan(&sum))
	require.EqualValues(t, 4, sum)
}

func TestAnOlderReadingNeverReplacesANewerOne(t *testing.T) {
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1})
	older, err := Read(t.Context(), e.Tables, day.Closed{}, nil, []uint64{1})
	require.NoError(t, err)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1}, eventtest.Event{Time: noon(), Profile: 1, Link: 3})
	update(t, e, nil, 1)
	w, err := Write(t.Context(), e.Pool, older)
	require.NoError(t, err)
	require.Equal(t, Written{Stayed: 2}, w)
	require.EqualValues(t, 2, profileRow(t, e, 1, "person").Views)
	require.EqualValues(t, 1, profileRow(t, e, 1, "person").Clicks)

	// Unless the newer one is from the future: ClickHouse's clock was wrong for a while.
	_, err = e.Pool.Exec(t.Context(), "UPDATE profile_counters SET views = 77, as_of = now() + interval '1 hour'")
	require.NoError(t, err)
	update(t, e, nil, 1)
	require.EqualValues(t, 2, profileRow(t, e, 1, "person").Views)
}

func TestWhatIsGoneFromClickHouseBecomesZero(t *testing.T) {
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1, Class: "bot"}, eventtest.Event{Time: noon(), Profile: 1, Link: 2, Visitor: 1})
	update(t, e, nil, 1)
	e.Run("TRUNCATE TABLE " + e.Local("events"))
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Visitor: 1})
	update(t, e, nil, 1)
	require.Equal(t, Numbers{}, profileRow(t, e, 1, "bot"))
	require.Equal(t, Numbers{Views: 1, UniqueViewers: 1, UniqueVisitors: 1}, profileRow(t, e, 1, "person"))
	var clicks int64
	require.NoError(t, e.Pool.QueryRow(t.Context(), "SELECT sum(clicks)::bigint FROM link_counters").Scan(&clicks))
	require.Zero(t, clicks)
}

func TestTwoRollupsAtOnceAgree(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	ids := make([]uint64, 50)
	for i := range ids {
		ids[i] = uint64(i + 1)
	}
	var wait sync.WaitGroup
	stop, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		wait.Go(func() {
			var kept Kept
			for stop.Err() == nil {
				r, err := Read(t.Context(), e.Tables, day.Closed{}, &kept, ids)
				if err == nil {
					_, err = Write(t.Context(), e.Pool, r)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const rounds = 15
	for range rounds {
		var events []eventtest.Event
		for _, id := range ids {
			events = append(events, eventtest.Event{Time: noon(), Profile: id, Visitor: id}, eventtest.Event{Time: noon(), Profile: id, Link: id, Visitor: id})
		}
		e.Insert(events...)
	}
	cancel()
	wait.Wait()
	update(t, e, nil, ids...)
	for _, id := range ids {
		require.Equal(t, Numbers{Views: rounds, Clicks: rounds, PageClicks: rounds, UniqueViewers: 1, UniqueClickers: 1, UniqueVisitors: 1}, profileRow(t, e, int64(id), "person"))
	}
}

func TestADeadlockIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	e := eventtest.New(t)
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Link: 5, Visitor: 1})
	_, err := e.Pool.Exec(t.Context(), `CREATE SEQUENCE tries;
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('tries') IN (1, 3, 4) THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON link_counters FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.NoError(t, err)
	require.Equal(t, Written{Profiles: 1, Links: 1}, update(t, e, nil, 1))
	e.Insert(eventtest.Event{Time: noon(), Profile: 1, Link: 6, Visitor: 1})
	r, err := Read(t.Context(), e.Tables, day.Closed{}, nil, []uint64{1})
	require.NoError(t, err)
	_, err = Write(t.Context(), e.Pool, r)
	require.ErrorContains(t, err, "deadlock detected")
	require.EqualValues(t, 1, profileRow(t, e, 1, "person").Clicks)
}
