package counters

import (
	"context"
	"fmt"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

const (
	// maxKept is how many sums of closed days are kept, some 50 bytes each. What is above is read again when it is needed.
	maxKept = 2_000_000
	// recentDays is how many days before the newest closed one are kept each by itself: those that a late stream makes close again.
	recentDays = 8
)

// Kept are the closed days' sums of profiles. When a day is closed only that day is read, of the profiles that get events; when an older
// one is closed again, everything is. It is not safe for concurrent use.
type Kept struct {
	closed   day.Closed // as of which the sums are
	horizon  table.Date // the newest date that is not recent
	profiles map[uint64]*keptProfile
	rows     int
}

// keptProfile are one profile's sums. A recent day that is not in the map was not read.
type keptProfile struct {
	old    []sum // up to the horizon, all together
	recent map[table.Date][]sum
}

func (p *keptProfile) rows() int {
	n := 1 + len(p.old)
	for _, s := range p.recent {
		n += 1 + len(s)
	}
	return n
}

// follow makes what is kept agree with a newer list of closed days, by forgetting what changed.
func (k *Kept) follow(closed day.Closed) {
	dates := closed.Dates()
	var horizon table.Date
	if n := len(dates); n > 0 && dates[n-1] > recentDays {
		horizon = dates[n-1] - recentDays
	}
	changed := closed.Changed(k.closed)
	forget := k.profiles == nil || horizon < k.horizon || len(closed.Days) < len(k.closed.Days)
	for _, d := range changed {
		// A day that nobody has read yet cannot be in the sums, however old it is now.
		forget = forget || d <= k.horizon
	}
	if forget {
		k.profiles, k.rows = map[uint64]*keptProfile{}, 0
		k.closed, k.horizon = closed, horizon
		return
	}
	if len(changed) == 0 {
		return
	}
	for id, p := range k.profiles {
		k.rows -= p.rows()
		for _, d := range changed {
			delete(p.recent, d)
		}
		complete := true
		for _, d := range dates {
			if d <= k.horizon || d > horizon {
				continue
			}
			sums, ok := p.recent[d] // no longer recent
			if !ok {
				complete = false
				break
			}
			p.old = append(p.old, sums...)
			delete(p.recent, d)
		}
		if !complete {
			delete(k.profiles, id)
			continue
		}
		k.rows += p.rows()
	}
	k.closed, k.horizon = closed, horizon
}

// add adds the closed days' sums of the reading's profiles to it. A nil Kept reads them all.
func (k *Kept) add(ctx context.Context, t *table.Tables, closed day.Closed, r *Reading) error {
	if k == nil {
		k = &Kept{}
	}
	k.follow(closed)
	var recent []table.Date
	old := false
	for _, d := range closed.Dates() {
		if d > k.horizon {
			recent = append(recent, d)
		} else {
			old = true
		}
	}
	var unknown, behind []uint64
	stale := map[table.Date]bool{}
	for _, id := range r.IDs {
		p := k.profiles[id]
		if p == nil {
			unknown = append(unknown, id)
			p = &keptProfile{}
		}
		n := len(behind)
		for _, d := range recent {
			if _, ok := p.recent[d]; !ok {
				stale[d] = true
				if len(behind) == n {
					behind = append(behind, id)
				}
			}
		}
	}
	read := map[uint64]*keptProfile{}
	for _, id := range append(unknown, behind...) {
		read[id] = &keptProfile{recent: map[table.Date][]sum{}}
	}
	if old && len(unknown) > 0 {
		condition := fmt.Sprintf("%s AND date <= %s", closed.Condition(), k.horizon.Literal())
		if err := readClosedSums(ctx, t, "toUInt16(0)", condition, unknown, func(id uint64, _ table.Date, s sum) { read[id].old = append(read[id].old, s) }); err != nil {
			return err
		}
	}
	if len(behind) > 0 {
		var dates []table.Date
		for _, d := range recent {
			if stale[d] {
				dates = append(dates, d)
			}
		}
		for _, id := range behind {
			for _, d := range dates {
				read[id].recent[d] = nil // nothing, too, is worth knowing
			}
		}
		if err := readClosedSums(ctx, t, "toUInt16(date)", "date IN ("+table.Dates(dates)+")", behind, func(id uint64, d table.Date, s sum) {
			read[id].recent[d] = append(read[id].recent[d], s)
		}); err != nil {
			return err
		}
	}
	for id, p := range read {
		have := k.profiles[id]
		if have == nil {
			k.profiles[id] = p
			k.rows += p.rows()
			continue
		}
		k.rows -= have.rows()
		for d, sums := range p.recent {
			have.recent[d] = sums
		}
		k.rows += have.rows()
	}
	for _, id := range r.IDs {
		p := k.profiles[id]
		if p == nil {
			continue
		}
		for _, s := range p.old {
			r.add(id, s)
		}
		for _, sums := range p.recent {
			for _, s := range sums {
				r.add(id, s)
			}
		}
	}
	for id, p := range k.profiles { // in no order: whoever is active comes back at the price of one read
		if k.rows <= maxKept {
			break
		}
		k.rows -= p.rows()
		delete(k.profiles, id)
	}
	return nil
}

// readClosedSums reads sums by the date that the expression gives.
func readClosedSums(ctx context.Context, t *table.Tables, date, condition string, ids []uint64, found func(uint64, table.Date, sum)) error {
	var profile uint64
	var d uint16
	var s sum
	// One query, so that the sums of a day that is swapped meanwhile agree with each other.
	err := t.Each(ctx, `SELECT profile_id, `+date+` AS d, toInt8(class), toInt8(kind), link_id, surface = 'page' AS page, dimension = 'visitors' AS v, sum(events), sum(visitors)
		FROM `+t.All("days")+` WHERE profile_id IN (`+table.Numbers(ids)+`) AND dimension IN ('', 'visitors') AND `+condition+`
		GROUP BY profile_id, d, class, kind, link_id, page, v`,
		[]any{&profile, &d, (*int8)(&s.class), &s.kind, &s.link, &s.page, &s.ofVisitors, &s.events, &s.visitors}, func() error {
			found(profile, table.Date(d), s)
			return nil
		})
	if err != nil {
		return fmt.Errorf("read closed days' sums: %w", err)
	}
	return nil
}
