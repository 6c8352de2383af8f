// Package scanner finds visitors that are programs by what they do, where no list of agents can: mail gateways and link checkers that
// come with browsers' agents. It looks at the last minutes every half a minute, and judges the events anew (package verdict).
//
//	canary                  who followed the link of a page that no person can see: what that visitor did on the profile within ±10 s
//	every link in a second  who followed all links of a page, at least four, each once, within a second, and did nothing else there all day
//
// A visitor is a daily visitor id of one profile. Behind a carrier's network many people share one: a crowd's id does more than one burst,
// and whatever an id that was taken for a scanner's does later gives back what was taken from it.
package scanner

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
	"spillway.dev/rollup/verdict"
)

// Reasons, as they stand in the events. The redirector writes the first one, too.
const (
	ReasonCanary = verdict.ScannerPrefix + "canary"
	ReasonBurst  = verdict.ScannerPrefix + "every link in a second"
)

// Version of the rules here: the built-in part of rules_version. Raise it with every change of them.
const Version = 2

const (
	// around is how long before and after a canary's visit its visitor is the same program.
	around = 10 * time.Second
	// burst is how long a program takes for all links of a page, and fewest how many they must be: two or three links are soon clicked.
	burst  = time.Second
	fewest = 4
	// mostViews is how often a program loads the page; an id with more is shared by people.
	mostViews = 2
	// settled is how old what a visitor did last must be: others may be about to show that the id is shared.
	settled = around + 5*time.Second
	// batch is how many visitors are judged in one statement.
	batch = 400
)

// Options of a Watch. The zero value is usable.
type Options struct {
	// Every is how often is looked; zero: 30 s. It is at least ten times as long as the last look took.
	Every time.Duration
	// Window is how far back is looked, by the time of the events; zero: 30 min.
	Window time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Metrics of a Watch.
type Metrics struct {
	events   *prometheus.CounterVec
	duration prometheus.Histogram
	failures prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spillway_rollup_scanner_events_total",
			Help: "Events that were judged anew by what their visitor did; verdict 'person' gives back."}, []string{"verdict"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "spillway_rollup_scanner_duration_seconds",
			Help: "Time to look for scanners and to judge what they did.", Buckets: prometheus.ExponentialBuckets(.005, 3, 9)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "spillway_rollup_scanner_failures_total", Help: "Looks for scanners that failed."}),
	}
	for _, c := range []prometheus.Collector{m.events, m.duration, m.failures} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of scanners: %w", err)
		}
	}
	return m, nil
}

// Watch finds scanners. Several of them, in several processes, may work on the same tables.
type Watch struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	changer *verdict.Changer
	options Options
	metrics *Metrics
	log     *slog.Logger
}

// NewWatch returns a watch.
func NewWatch(t *table.Tables, pool *pgxpool.Pool, o Options, m *Metrics, log *slog.Logger) *Watch {
	if o.Every == 0 {
		o.Every = 30 * time.Second
	}
	if o.Window == 0 {
		o.Window = 30 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Watch{tables: t, pool: pool, changer: verdict.NewChanger(t, pool), options: o, metrics: m, log: log}
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	wait := w.options.Every
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		began := time.Now()
		_, err := w.Round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.metrics.duration.Observe(time.Since(began).Seconds())
		wait = max(w.options.Every, 10*time.Since(began))
		if err != nil {
			w.metrics.failures.Inc()
			w.log.Warn("scanners cannot be looked for now", "error", err)
		}
	}
}

// lock is the advisory lock that keeps rollups from judging the same at once. It saves work; nothing depends on it.
const lock = 0x5350534e

// Round looks once and returns how many events were judged anew.
func (w *Watch) Round(ctx context.Context) (changed uint64, err error) {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for scanners: %w", err)
	}
	defer conn.Release()
	var alone bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", lock).Scan(&alone); err != nil || !alone {
		return 0, err
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", lock) }()
	closed, err := day.ReadClosed(ctx, w.tables)
	if err != nil {
		return 0, err
	}
	for _, look := range []struct {
		find   func(context.Context, string) ([]visitor, error)
		is     verdict.Judgement
		only   string // which of the visitor's events
		metric string
	}{
		{w.shared, verdict.Judgement{Class: "person"}, "class = 'scanner' AND reason = '" + ReasonBurst + "'", "person"},
		{w.canaries, verdict.Judgement{Class: "scanner", Reason: ReasonCanary}, "class = 'person' AND NOT startsWith(reason, 'rule: ')", "canary"},
		{w.bursts, verdict.Judgement{Class: "scanner", Reason: ReasonBurst}, "class = 'person' AND NOT startsWith(reason, 'rule: ')", "burst"},
	} {
		found, err := look.find(ctx, closed.OpenCondition())
		if err != nil {
			return changed, err
		}
		for len(found) > 0 {
			some := found[:min(batch, len(found))]
			found = found[len(some):]
			n, err := w.judge(ctx, some, look.is, look.only)
			if err != nil {
				return changed, err
			}
			changed += n
			w.metrics.events.WithLabelValues(look.metric).Add(float64(n))
		}
	}
	return changed, nil
}

// visitor is one daily visitor id of a profile, and when it did what is judged.
type visitor struct {
	profile, id uint64
	date        table.Date
	from, to    time.Time
}

func (v visitor) condition() string {
	return fmt.Sprintf("(profile_id = %d AND date = %s AND visitor = %d AND time BETWEEN %s AND %s)", v.profile, v.date.Literal(), v.id, table.Time(v.from), table.Time(v.to))
}

// judge judges what some visitors did anew.
func (w *Watch) judge(ctx context.Context, some []visitor, is verdict.Judgement, only string) (uint64, error) {
	conditions := make([]string, len(some))
	var dates []table.Date
	for i, v := range some {
		conditions[i] = v.condition()
		dates = append(dates, v.date)
	}
	// Rows keep the number of the file that was in use when they came.
	n, err := w.changer.Change(ctx, dates, only+" AND ("+strings.Join(conditions, " OR ")+")", is, fmt.Sprintf("toUInt32(%d + rules_version %% 1000000)", Version*1_000_000))
	if err != nil {
		return 0, fmt.Errorf("judge scanners: %w", err)
	}
	return n, nil
}

// recent is true for the events that are looked at: of open days, of the last minutes.
func (w *Watch) recent(open string) string {
	now := w.options.Now()
	return fmt.Sprintf("%s AND date BETWEEN %s AND %s AND time > %s", open, (table.DateOf(now) - 1).Literal(), (table.DateOf(now) + 1).Literal(), table.Time(now.Add(-w.options.Window)))
}

// read reads visitors: profile, date, visitor and two times in microseconds.
func (w *Watch) read(ctx context.Context, query string) ([]visitor, error) {
	var found []visitor
	var v visitor
	var date uint16
	var from, to int64
	err := w.tables.Each(ctx, query, []any{&v.profile, &date, &v.id, &from, &to}, func() error {
		v.date, v.from, v.to = table.Date(date), time.UnixMicro(from), time.UnixMicro(to)
		found = append(found, v)
		return nil
	})
	return found, err
}

// canaries returns who followed a canary, and still has events around that which count as a person's.
func (w *Watch) canaries(ctx context.Context, open string) ([]visitor, error) {
	events := w.tables.All("events")
	found, err := w.read(ctx, fmt.Sprintf(`SELECT t.profile_id, toUInt16(t.date), t.visitor, toUnixTimestamp64Micro(trapped - toIntervalSecond(%[3]d)), toUnixTimestamp64Micro(trapped + toIntervalSecond(%[3]d))
		FROM (SELECT profile_id, date, visitor, time AS trapped FROM %[1]s WHERE %[2]s AND class = 'scanner' AND reason = '%[4]s' AND kind = 'view' AND visitor != 0
			AND time < %[5]s) AS t
		INNER JOIN (SELECT profile_id, date, visitor, time, kind, class, reason, link_id FROM %[1]s WHERE %[2]s AND visitor != 0
			AND (profile_id, date, visitor) IN (SELECT profile_id, date, visitor FROM %[1]s WHERE %[2]s AND class = 'scanner' AND reason = '%[4]s')) AS e
		ON e.profile_id = t.profile_id AND e.date = t.date AND e.visitor = t.visitor
		WHERE abs(dateDiff('microsecond', e.time, trapped)) <= %[6]d
		GROUP BY t.profile_id, t.date, t.visitor, trapped
		HAVING countIf(e.class = 'person' AND NOT startsWith(e.reason, 'rule: ')) > 0 AND countIf(e.kind = 'view' AND e.reason != '%[4]s') <= %[7]d
			AND countIf(e.kind = 'click') <= 2 * uniqExactIf(e.link_id, e.kind = 'click')
		ORDER BY t.profile_id, trapped`,
		events, w.recent(open), int(around/time.Second), ReasonCanary, table.Time(w.options.Now().Add(-settled)), around.Microseconds(), mostViews))
	if err != nil {
		return nil, fmt.Errorf("look for canaries: %w", err)
	}
	return found, nil
}

// bursts returns who followed all links of a page within a second and did nothing else there.
func (w *Watch) bursts(ctx context.Context, open string) ([]visitor, error) {
	// Which pages had visitors of enough links lately is in the projection; only those profiles' events are read.
	var profiles []uint64
	var id uint64
	now := w.options.Now()
	if err := w.tables.Each(ctx, fmt.Sprintf(`SELECT profile_id FROM (SELECT profile_id, link_id, toStartOfFifteenMinutes(time) AS bucket, count() FROM %s
			WHERE %s AND date BETWEEN %s AND %s AND kind = 'click' AND class = 'person' GROUP BY date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time))
		WHERE bucket > %s GROUP BY profile_id HAVING uniqExact(link_id) >= %d ORDER BY profile_id`,
		w.tables.All("events"), open, (table.DateOf(now)-1).Literal(), (table.DateOf(now)+1).Literal(), table.Time(now.Add(-w.options.Window-15*time.Minute)), fewest),
		[]any{&id}, func() error { profiles = append(profiles, id); return nil }); err != nil {
		return nil, fmt.Errorf("look for busy pages: %w", err)
	}
	var found []visitor
	for len(profiles) > 0 {
		some := profiles[:min(2000, len(profiles))]
		profiles = profiles[len(some):]
		links, err := w.links(ctx, some)
		if err != nil {
			return nil, err
		}
		if len(links) == 0 {
			continue
		}
		more, err := w.burstsOf(ctx, open, links)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// links returns how many links the pages of the profiles show, of those with enough.
func (w *Watch) links(ctx context.Context, profiles []uint64) (map[uint64]uint64, error) {
	ids := make([]int64, len(profiles))
	for i, p := range profiles {
		ids[i] = int64(p)
	}
	rows, err := w.pool.Query(ctx, "SELECT profile_id, count(*) FROM links WHERE profile_id = ANY($1) AND deleted_at IS NULL AND NOT hidden GROUP BY profile_id HAVING count(*) >= $2", ids, fewest)
	if err != nil {
		return nil, fmt.Errorf("count links: %w", err)
	}
	links := map[uint64]uint64{}
	var profile, n int64
	if _, err := pgx.ForEachRow(rows, []any{&profile, &n}, func() error { links[uint64(profile)] = uint64(n); return nil }); err != nil {
		return nil, fmt.Errorf("count links: %w", err)
	}
	return links, nil
}

// burstsOf looks at the whole day of those visitors who did something lately on the profiles, whose numbers of links are given.
func (w *Watch) burstsOf(ctx context.Context, open string, links map[uint64]uint64) ([]visitor, error) {
	profiles, counts := make([]uint64, 0, len(links)), make([]uint64, 0, len(links))
	for p, n := range links {
		profiles, counts = append(profiles, p), append(counts, n)
	}
	in := "profile_id IN (" + table.Numbers(profiles) + ")"
	found, err := w.read(ctx, fmt.Sprintf(`SELECT profile_id, toUInt16(date) AS d, visitor, toUnixTimestamp64Micro(min(time)), toUnixTimestamp64Micro(max(time)) FROM %[1]s
		WHERE %[2]s AND %[3]s AND visitor != 0 AND class = 'person' AND (profile_id, date, visitor) IN (
			SELECT profile_id, date, visitor FROM %[1]s WHERE %[4]s AND %[3]s AND kind = 'click' AND class = 'person' AND visitor != 0
			GROUP BY profile_id, date, visitor HAVING uniqExact(link_id) >= %[5]d)
		GROUP BY profile_id, date, visitor
		HAVING %[6]s AND countIf(kind = 'click') = transform(profile_id, [%[7]s], [%[8]s], toUInt64(0)) AND max(time) < %[9]s AND countIf(startsWith(reason, 'rule: ')) = 0
		ORDER BY profile_id, d, visitor`,
		w.tables.All("events"), open, in, w.recent(open), fewest, oneBurst(), table.Numbers(profiles), table.Numbers(counts), table.Time(w.options.Now().Add(-settled))))
	if err != nil {
		return nil, fmt.Errorf("look for bursts: %w", err)
	}
	return found, nil
}

// oneBurst is true for a visitor whose day is one burst: each link once, all within a second, and the page loaded at that moment at most.
func oneBurst() string {
	return fmt.Sprintf(`uniqExactIf(link_id, kind = 'click') = countIf(kind = 'click')
		AND dateDiff('microsecond', minIf(time, kind = 'click'), maxIf(time, kind = 'click')) <= %d
		AND countIf(kind = 'view') <= %d AND dateDiff('microsecond', min(time), max(time)) <= %d`, burst.Microseconds(), mostViews, around.Microseconds())
}

// shared returns who was taken for a scanner because of a burst, and has done more since: the id is shared by people.
func (w *Watch) shared(ctx context.Context, open string) ([]visitor, error) {
	found, err := w.read(ctx, fmt.Sprintf(`SELECT profile_id, toUInt16(date) AS d, visitor, toUnixTimestamp64Micro(min(time)), toUnixTimestamp64Micro(max(time)) FROM %[1]s
		WHERE %[2]s AND visitor != 0 AND (class = 'person' OR class = 'scanner' AND reason = '%[3]s') AND (profile_id, date, visitor) IN (
			SELECT profile_id, date, visitor FROM %[1]s WHERE %[2]s AND class = 'scanner' AND reason = '%[3]s')
		GROUP BY profile_id, date, visitor HAVING NOT (%[4]s) ORDER BY profile_id, d, visitor`,
		w.tables.All("events"), open, ReasonBurst, oneBurst()))
	if err != nil {
		return nil, fmt.Errorf("look for shared visitors: %w", err)
	}
	return found, nil
}
