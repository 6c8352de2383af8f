package annotation

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/insight"
	"spillway.dev/schemas/postgres"
	"spillway.dev/service/engines"
	"spillway.dev/service/enginetest"
)

func TestWhatChangedTheNumbersIsNotedByItself(t *testing.T) {
	ctx := t.Context()
	where := engines.Addresses{Database: enginetest.Postgres(t), ClickHouse: enginetest.ClickHouse(t)}
	require.NoError(t, where.MigrateClickHouse(ctx))
	require.NoError(t, postgres.Migrate(ctx, where.Database))
	pool, err := where.OpenPostgres(ctx, 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	options, layout, err := where.ClickHouseOptions()
	require.NoError(t, err)
	conn, err := clickhouse.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	w := NewWatch(pool, insight.NewReader(conn, pool, layout))
	store := NewStore(pool)
	var profile, young, link int64
	create := `WITH a AS (INSERT INTO accounts DEFAULT VALUES RETURNING id) INSERT INTO profiles (account_id, handle, title, created_at) SELECT id, $1, $1, $2 FROM a RETURNING id`
	now := time.Now().UTC().Truncate(time.Microsecond)
	require.NoError(t, pool.QueryRow(ctx, create, "ada", now.Add(-24*time.Hour)).Scan(&profile))
	require.NoError(t, pool.QueryRow(ctx, create, "bob", now.Add(-time.Minute)).Scan(&young))
	list := func(of int64, from, to time.Time) (kinds []string, all []Annotation) {
		t.Helper()
		require.NoError(t, w.Round(ctx))
		all, err := store.List(ctx, of, from, to, 0, 100)
		require.NoError(t, err)
		for _, a := range all {
			kinds = append(kinds, a.Kind)
		}
		return kinds, all
	}
	begin, end := now.Add(-48*time.Hour), now.Add(48*time.Hour)

	// What the creator does, by triggers.
	require.NoError(t, pool.QueryRow(ctx, `INSERT INTO links (profile_id, code, title, url) VALUES ($1, 'x', 'Shop', 'https://example.org/') RETURNING id`, profile).Scan(&link))
	_, err = pool.Exec(ctx, `UPDATE links SET url = 'https://example.org/new' WHERE id = $1`, link)
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `UPDATE links SET deleted_at = now() WHERE id = $1`, link)
	require.NoError(t, err)
	kinds, _ := list(profile, begin, end)
	require.ElementsMatch(t, []string{"link-added", "link-target", "link-removed"}, kinds)
	_, err = pool.Exec(ctx, `DELETE FROM annotations`)
	require.NoError(t, err)

	// Gaps: as ranges, of those who were there, gone when they heal.
	know := func(held, silent, lost []insight.Holding) {
		t.Helper()
		encoded := make([][]byte, 3)
		for i, h := range [][]insight.Holding{held, silent, lost} {
			if h == nil {
				h = []insight.Holding{}
			}
			encoded[i], err = json.Marshal(h)
			require.NoError(t, err)
		}
		_, err = pool.Exec(ctx, `INSERT INTO completeness (complete_through, computed_at, held_back, silent, lost) VALUES ($1, $1, $2, $3, $4)
			ON CONFLICT (only_row) DO UPDATE SET held_back = excluded.held_back, silent = excluded.silent, lost = excluded.lost`, now, encoded[0], encoded[1], encoded[2])
		require.NoError(t, err)
	}
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	dropped := insight.Holding{Stream: "a", Reason: "dropped", Events: 12, Since: ago(3 * time.Hour), Until: ago(2 * time.Hour)}
	know([]insight.Holding{{Stream: "b", Reason: "missing", Events: 3, Since: ago(time.Minute)}, {Stream: "c", Reason: "missing", Events: 3, Since: ago(time.Hour)}},
		[]insight.Holding{{Stream: "d", Reason: "silent", Since: ago(30 * time.Minute)}}, []insight.Holding{dropped})
	list(profile, begin, end) // twice changes nothing
	kinds, all := list(profile, begin, end)
	require.Equal(t, []string{Gap, Gap, Gap}, kinds, "what has been on its way for a minute is no gap")
	require.Equal(t, *dropped.Since, all[2].At.UTC())
	require.Equal(t, *dropped.Until, all[2].Until.UTC())
	require.Equal(t, "Visits could not be recorded, there was no room. 12 visits of all pages together.", all[2].Sentence())
	require.Nil(t, all[0].Until, "it goes on")
	kinds, _ = list(profile, now.Add(-150*time.Minute), now.Add(-140*time.Minute))
	require.Equal(t, []string{Gap}, kinds, "a range within the gap")
	kinds, _ = list(young, begin, end)
	require.Empty(t, kinds, "the page was not there yet")
	know(nil, nil, []insight.Holding{dropped})
	kinds, _ = list(profile, begin, end)
	require.Equal(t, []string{Gap}, kinds)

	// Rules: the first that are seen are no change; nothing while old and new decide side by side.
	require.NoError(t, conn.Exec(ctx, "INSERT INTO "+layout.Local("terms")+" VALUES (0, 1)"))
	sequence := uint64(0)
	visited := func(version uint32, ago time.Duration) {
		t.Helper()
		sequence++
		at := time.Now().UTC().Add(-ago)
		require.NoError(t, conn.Exec(ctx, "INSERT INTO "+layout.Local("events")+` (stream, partition, sequence, offset, term, time, date, kind, class, profile_id, rules_version)
			VALUES (7, 0, ?, ?, 1, fromUnixTimestamp64Micro(?), toDate(?), 'view', 'person', ?, ?)`, sequence, sequence, at.UnixMicro(), at.Format(time.DateOnly), uint64(profile), version))
		require.NoError(t, conn.Exec(ctx, "INSERT INTO "+layout.Local("changed")+" (profile_id, date) VALUES (?, toDate(?))", uint64(profile), at.Format(time.DateOnly)))
	}
	visited(1, 5*time.Minute)
	kinds, _ = list(profile, begin, end)
	require.Equal(t, []string{Gap}, kinds)
	visited(2, 4*time.Minute)
	visited(1, 3*time.Minute)
	kinds, _ = list(profile, begin, end)
	require.Equal(t, []string{Gap}, kinds, "they do not agree")
	visited(3, time.Minute)
	visited(3, time.Second)
	list(profile, begin, end)
	kinds, all = list(profile, begin, end)
	require.Equal(t, []string{Rules, Gap}, kinds)
	require.Equal(t, "version 3", all[0].Text)
	require.WithinDuration(t, time.Now().Add(-time.Minute), all[0].At, 10*time.Second)
}
