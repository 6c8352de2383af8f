package counters

import (
	"context"
	"fmt"
	"slices"
	"time"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// Hints are quick, but one may be late, or lost with the ingest that died between an insert and its hint. So what has been counted is not
// taken on trust: each profile's rows of the open days are weighed in ClickHouse and held against what they weighed when the profile was
// read last, and the rows of closed days are counted. Rows only ever come in, so a profile whose weight is the same has all its rows in its
// counters; the others are read again.

// proofRest is how many times as long as it took above Options.Proof a proof rests.
const proofRest = 20

// proof is what is known to be in the counters.
type proof struct {
	weights map[uint64]uint64 // of the profiles' rows of open days when they were read last; without a row: not in it
	open    string            // the condition for open days that they are of
	rows    uint64            // of all events, when all was proven last; zero: it was not, or something changed since
	next    time.Time         // our clock: not before is the next one made
	unsure  bool              // something was read that the counters did not take
}

// Weights of rows by their class and kind: odd numbers without a pattern, so that rows that change their class change the sum, too.
const (
	classWeight = 0x9E3779B97F4A7C15
	kindWeight  = 0xBF58476D1CE4E5B9
)

// weigh is the weight of some rows of one class and kind, modulo 2^64; openWeights does the same in SQL.
func weigh(class Class, kind int8, rows uint64) uint64 {
	return rows * (1 + uint64(class)*classWeight + uint64(kind)*kindWeight)
}

func openWeights(t *table.Tables, open string) string {
	return fmt.Sprintf(`SELECT profile_id, sum(n * (1 + toUInt64(c) * toUInt64(%d) + toUInt64(k) * toUInt64(%d))) FROM (
			SELECT profile_id, toInt8(class) AS c, toInt8(kind) AS k, count() AS n FROM %s WHERE %s GROUP BY profile_id, class, kind)
		GROUP BY profile_id`, uint64(classWeight), uint64(kindWeight), t.All("events"), open)
}

// follow forgets what was weighed when other days are open now.
func (p *proof) follow(closed day.Closed) {
	if open := closed.OpenCondition(); p.weights == nil || open != p.open {
		p.weights, p.open, p.rows = map[uint64]uint64{}, open, 0
	}
}

// read notes what a reading weighed, if it is what the counters are. Rows that were read later by another rollup are as good, but rows of a
// time when ClickHouse's clock was ahead are not, and nobody can tell: the profiles are read again.
func (p *proof) read(r Reading, set bool) {
	p.unsure = p.unsure || !set
	for _, id := range r.IDs {
		if w, ok := r.weights[id]; ok && set {
			p.weights[id] = w
		} else {
			delete(p.weights, id)
		}
	}
}

// prove makes sure that the counters have every row that ClickHouse had when the round looked at it, and brings them there where they do
// not. It returns false while it does not know: because there is more to read than the round's budget allows, because a closed day has rows
// that it was not closed with, or because the last proof took so long that the next one has to wait.
func (u *Updater) prove(ctx context.Context, s state) (bool, error) {
	p := &u.proof
	if p.rows > 0 && p.rows == s.rows {
		return true, nil // no row came since
	}
	began := time.Now()
	if began.Before(p.next) {
		return false, nil
	}
	p.rows, p.unsure = 0, false
	var behind []uint64
	var id, weight uint64
	found := 0
	err := u.tables.Each(ctx, openWeights(u.tables, p.open), []any{&id, &weight}, func() error {
		known, ok := p.weights[id]
		if ok {
			found++
		}
		if known != weight {
			behind = append(behind, id)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("weigh what was counted: %w", err)
	}
	if found < len(p.weights) {
		u.log.Warn("rows of open days are gone from ClickHouse: all counters are computed again", "profiles", len(p.weights)-found)
		p.weights = map[uint64]uint64{}
		u.plan(&sweep{kind: "full"}, s.now)
		return false, nil
	}
	late, err := u.lateRows(ctx)
	if err != nil {
		return false, err
	}
	p.next = began.Add(proofRest * max(time.Since(began)-u.options.Proof, 0))
	slices.Sort(behind)
	for slice := range slices.Chunk(behind, u.options.Slice) {
		if time.Since(began) > u.options.Budget {
			p.next = time.Time{} // go on in the next round
			return false, nil
		}
		if err := u.update(ctx, slice, "proof"); err != nil {
			return false, err
		}
	}
	if late || p.unsure {
		return false, nil
	}
	p.rows = s.rows
	return true, nil
}

// lateRows says whether closed days have rows that they were not closed with, and tells who closes them.
func (u *Updater) lateRows(ctx context.Context) (bool, error) {
	expired, err := day.ReadExpired(ctx, u.pool)
	if err != nil {
		return false, err
	}
	kept := u.closed.Without(expired)
	if len(kept.Days) == 0 {
		return false, nil
	}
	// Months before the newest one are whole, and ClickHouse knows without reading how many rows they have.
	newest := month(slices.Max(kept.Dates()))
	var should, rows uint64
	var whole []uint64
	for _, d := range kept.Dates() {
		should += kept.Days[d].Events
		if m := month(d); m < newest && !slices.Contains(whole, m) {
			whole = append(whole, m)
		}
	}
	events := u.tables.All("events")
	count := fmt.Sprintf("SELECT (SELECT count() FROM %s WHERE %s AND date >= toDate('%d-%02d-01'))", events, kept.Condition(), newest/100, newest%100)
	if len(whole) > 0 {
		count += fmt.Sprintf(" + (SELECT count() FROM %s WHERE toYYYYMM(date) IN (%s))", events, table.Numbers(whole))
	}
	if err := u.tables.Row(ctx, count, &rows); err != nil {
		return false, fmt.Errorf("count the rows of closed days: %w", err)
	}
	if rows == should {
		return false, nil
	}
	var late []table.Date
	var date uint16
	if err := u.tables.Each(ctx, "SELECT toUInt16(date) AS d, count() FROM "+events+" WHERE "+kept.Condition()+" GROUP BY d", []any{&date, &rows}, func() error {
		if rows > kept.Days[table.Date(date)].Events {
			late = append(late, table.Date(date))
		}
		return nil
	}); err != nil {
		return false, fmt.Errorf("count the rows of closed days: %w", err)
	}
	if len(late) > 0 && u.options.Late != nil {
		u.options.Late(late)
	}
	return len(late) > 0, nil
}

// month is the month of a date, as in the tables' partitions: 202611.
func month(d table.Date) uint64 {
	t := d.Time()
	return uint64(t.Year()*100 + int(t.Month()))
}
