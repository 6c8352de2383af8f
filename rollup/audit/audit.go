// Package audit proves, from the data alone, that what was answered was counted once: each stream against what its shipper announced,
// closed days against their events, counters in Postgres against ClickHouse, and lists against details.
//
// It reads aggregates that are ready (projections, closed days), so it is fast on a large table; only streams that are not whole are read
// row by row.
package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/completeness"
	"spillway.dev/rollup/counters"
	"spillway.dev/rollup/day"
	"spillway.dev/rollup/stream"
	"spillway.dev/rollup/table"
)

// Options of an audit. The zero value is usable.
type Options struct {
	// Deep computes every closed day again, breakdowns and visitors too, and reads every stream row by row. It takes as long as closing
	// all days.
	Deep bool
	// Patience is how long what differs is asked again: while events come in, what was announced may be on its way, and a counter or a closed
	// day about to be set. Zero: 5 s.
	Patience time.Duration
	// AcceptLost: events that are known to be lost for good, dropped or unreadable, are reported but do not count as findings.
	AcceptLost bool
	// Completeness judges complete_through.
	Completeness completeness.Options
}

// Gap is a run of sequences in a partition.
type Gap struct {
	Partition uint32 `json:"partition"`
	First     uint64 `json:"first"`
	Last      uint64 `json:"last"`
}

// Stream is what is known of one stream, all its partitions together.
type Stream struct {
	Stream     string     `json:"stream"` // hexadecimal
	Origin     string     `json:"origin"`
	Began      *time.Time `json:"began"`
	Heard      *time.Time `json:"heard"` // of its newest announcement
	Ended      bool       `json:"ended"` // it said so in all its partitions
	Journaled  uint64     `json:"journaled"`
	Stored     uint64     `json:"stored"`     // different events that are stored or have expired
	Expired    uint64     `json:"expired"`    // those of them whose raw events were dropped
	Missing    uint64     `json:"missing"`    // journaled, but not stored
	Unreadable uint64     `json:"unreadable"` // those of them that the journal cannot read any more
	Doubled    uint64     `json:"doubled"`    // rows that are too many
	Dropped    uint64     `json:"dropped"`    // answered, but without a name: the journal was full
	Gaps       []Gap      `json:"gaps,omitempty"`
	Doubles    []Gap      `json:"doubles,omitempty"`
}

// Off says whether something is wrong with the stream.
func (s Stream) Off() bool { return s.Missing > 0 || s.Doubled > 0 || s.Dropped > 0 }

// maxGaps bounds the gaps that are listed of one stream; the numbers are of all.
const maxGaps = 1000

// maxFindings bounds the counters that are listed.
const maxFindings = 100

// Report is what an audit found.
type Report struct {
	At      time.Time `json:"at"`
	OK      bool      `json:"ok"`
	Streams []Stream  `json:"streams"`

	Journaled  uint64 `json:"journaled"`
	Stored     uint64 `json:"stored"`
	Missing    uint64 `json:"missing"`
	Doubled    uint64 `json:"doubled"`
	Dropped    uint64 `json:"dropped"`
	Unreadable uint64 `json:"unreadable"`
	Expired    uint64 `json:"expired"`

	ClosedDays int         `json:"closed_days"`
	Days       []day.Fault `json:"days"` // closed days that are not what their events are

	Profiles        int                    `json:"profiles"`         // whose counters were compared
	Counters        []counters.Difference  `json:"counters"`         // that differ; the first hundred
	CountersOff     int                    `json:"counters_off"`     // how many do
	ListsUnequal    []counters.Unequal     `json:"lists_unequal"`    // profiles whose links do not add up
	CompleteThrough *time.Time             `json:"complete_through"` // by the streams alone; the insights may lag behind it
	HeldBack        []completeness.Holding `json:"held_back"`
	Silent          []completeness.Holding `json:"silent"`
	Lost            []completeness.Holding `json:"lost"`
}

// Auditor audits.
type Auditor struct {
	tables  *table.Tables
	pool    *pgxpool.Pool
	closer  *day.Closer // computes days in a deep audit
	options Options
}

// New returns an auditor. closer is needed for a deep audit only.
func New(t *table.Tables, pool *pgxpool.Pool, closer *day.Closer, o Options) *Auditor {
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	return &Auditor{tables: t, pool: pool, closer: closer, options: o}
}

// Audit looks at everything. It writes nothing but, in a deep audit, tables of its own.
func (a *Auditor) Audit(ctx context.Context) (Report, error) {
	r := Report{Streams: []Stream{}, Days: []day.Fault{}, Counters: []counters.Difference{}, ListsUnequal: []counters.Unequal{}}
	if err := a.tables.Row(ctx, "SELECT now64(6, 'UTC')", &r.At); err != nil {
		return Report{}, fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	if err := a.streams(ctx, &r); err != nil {
		return Report{}, err
	}
	if err := a.days(ctx, &r); err != nil {
		return Report{}, err
	}
	if err := a.counters(ctx, &r); err != nil {
		return Report{}, err
	}
	lost := r.Dropped
	missing := r.Missing
	if a.options.AcceptLost {
		lost, missing = 0, r.Missing-r.Unreadable
	}
	r.OK = missing == 0 && lost == 0 && r.Doubled == 0 && len(r.Days) == 0 && r.CountersOff == 0 && len(r.ListsUnequal) == 0
	return r, nil
}

func (a *Auditor) streams(ctx context.Context, r *Report) error {
	lanes, err := stream.Load(ctx, a.tables)
	if err != nil {
		return err
	}
	known, err := completeness.Judge(ctx, a.tables, lanes, a.options.Completeness)
	if err != nil {
		return err
	}
	r.CompleteThrough, r.HeldBack, r.Silent, r.Lost = known.Through, known.HeldBack, known.Silent, known.Lost
	details, err := a.details(ctx, lanes)
	if err != nil {
		return err
	}
	var s *Stream
	var partitions, final uint32
	for i, l := range lanes {
		if i == 0 || lanes[i-1].Stream != l.Stream {
			r.Streams = append(r.Streams, Stream{Stream: stream.Hex(l.Stream)})
			partitions, final = 0, 0
		}
		s = &r.Streams[len(r.Streams)-1]
		n := l.Announcement
		partitions = max(partitions, n.Partitions)
		if n.Final {
			final++
		}
		s.Ended = final > 0 && final == partitions
		if n.Origin != "" {
			s.Origin = n.Origin
		}
		if at := n.Began; l.Announced && at.UnixMicro() > 0 && (s.Began == nil || at.Before(*s.Began)) {
			s.Began = &at
		}
		if at := n.Time; l.Announced && (s.Heard == nil || at.After(*s.Heard)) {
			s.Heard = &at
		}
		s.Dropped = max(s.Dropped, n.Dropped) // each lane tells the stream's number
		s.Journaled += l.Length()
		s.Expired += l.Expired.Count()
		d, read := details[l]
		if !read {
			s.Stored += l.Length()
			continue
		}
		missing := l.Missing(d)
		s.Stored += d.Present.Count()
		s.Missing += missing.Count()
		s.Unreadable += missing.Count() - missing.Minus(n.Unreadable).Count()
		s.Doubled += d.Twice
		s.Gaps = listed(s.Gaps, l.Partition, missing)
		s.Doubles = listed(s.Doubles, l.Partition, d.Doubled)
	}
	for _, s := range r.Streams {
		r.Journaled += s.Journaled
		r.Stored += s.Stored
		r.Missing += s.Missing
		r.Doubled += s.Doubled
		r.Dropped += s.Dropped
		r.Unreadable += s.Unreadable
		r.Expired += s.Expired
	}
	return nil
}

// details reads the rows of the lanes that are not whole, or of all in a deep audit. What is missing is asked for again: it was announced
// before its rows were read, and may have been on its way. What was announced later does not count.
func (a *Auditor) details(ctx context.Context, lanes []*stream.Lane) (map[*stream.Lane]stream.Detail, error) {
	details := map[*stream.Lane]stream.Detail{}
	var ask []*stream.Lane
	for _, l := range lanes {
		if stored, whole := l.Stored(); !whole || stored != l.Length() || a.options.Deep {
			ask = append(ask, l)
		}
	}
	_, err := settle(ctx, a.options.Patience, func() ([]*stream.Lane, error) {
		var missing []*stream.Lane
		for _, l := range ask {
			d, err := stream.ReadDetail(ctx, a.tables, l)
			if err != nil {
				return nil, err
			}
			details[l] = d
			if len(l.Missing(d).Minus(l.Announcement.Unreadable)) > 0 {
				missing = append(missing, l)
			}
		}
		ask = missing
		return missing, nil
	})
	return details, err
}

func listed(list []Gap, partition uint32, ranges stream.Ranges) []Gap {
	for _, g := range ranges {
		if len(list) == maxGaps {
			break
		}
		list = append(list, Gap{partition, g.First, g.Last})
	}
	return list
}

func (a *Auditor) days(ctx context.Context, r *Report) error {
	closed, err := day.ReadClosed(ctx, a.tables)
	if err != nil {
		return err
	}
	r.ClosedDays = len(closed.Days)
	expired, err := day.ReadExpired(ctx, a.pool)
	if err != nil {
		return err
	}
	var dates []table.Date // all at first, then those that differed
	if r.Days, err = settle(ctx, a.options.Patience, func() ([]day.Fault, error) {
		faults, err := day.Faults(ctx, a.tables, expired, dates)
		dates = []table.Date{}
		for _, f := range faults {
			dates = append(dates, f.Date)
		}
		return faults, err
	}); err != nil {
		return err
	}
	if !a.options.Deep {
		return nil
	}
	for _, d := range closed.Dates() {
		if expired.Has(d) || slices.Contains(dates, d) {
			continue
		}
		differing, err := a.closer.Verify(ctx, d)
		if err != nil {
			return err
		}
		if differing > 0 {
			r.Days = append(r.Days, day.Fault{Date: d, Day: d.String(), Closed: closed.Days[d].Events, Reason: fmt.Sprintf("%d of its rows are not what its events give", differing)})
		}
	}
	return nil
}

// profilesAtOnce is how many profiles are compared in one query.
const profilesAtOnce = 2000

func (a *Auditor) counters(ctx context.Context, r *Report) error {
	differ := map[uint64]bool{}
	for from := uint64(0); ; {
		closed, err := day.ReadClosed(ctx, a.tables)
		if err != nil {
			return err
		}
		ids, err := counters.Profiles(ctx, a.tables, a.pool, closed, from, profilesAtOnce)
		if err != nil {
			return err
		}
		if len(ids) > 0 {
			found, err := counters.Compare(ctx, a.tables, a.pool, closed, ids)
			if err != nil {
				return err
			}
			for _, d := range found {
				differ[d.Profile] = true
			}
			r.Profiles += len(ids)
		}
		if len(ids) < profilesAtOnce {
			break
		}
		from = ids[len(ids)-1] + 1
	}
	var err error
	r.Counters, err = settle(ctx, a.options.Patience, func() ([]counters.Difference, error) {
		var all []counters.Difference
		ids := make([]uint64, 0, len(differ))
		for id := range differ {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		clear(differ)
		closed, err := day.ReadClosed(ctx, a.tables)
		if err != nil {
			return nil, err
		}
		for some := range slices.Chunk(ids, profilesAtOnce) {
			found, err := counters.Compare(ctx, a.tables, a.pool, closed, some)
			if err != nil {
				return nil, err
			}
			for _, d := range found {
				differ[d.Profile] = true
			}
			all = append(all, found...)
		}
		return all, nil
	})
	if err != nil {
		return err
	}
	r.CountersOff = len(r.Counters)
	r.Counters = r.Counters[:min(len(r.Counters), maxFindings)]
	if r.ListsUnequal, err = counters.Lists(ctx, a.pool, maxFindings); err != nil {
		return err
	}
	return nil
}

// settle asks until nothing is found, for at most patience, and returns what was found last.
func settle[T any](ctx context.Context, patience time.Duration, ask func() ([]T, error)) ([]T, error) {
	for end := time.Now().Add(patience); ; {
		found, err := ask()
		if err != nil || len(found) == 0 || time.Now().After(end) {
			return found, err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
