package counters

import (
	"context"
	"fmt"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
)

// maxKept is how many sums of closed days are kept, some 50 bytes each. What is above is read again when it is needed.
const maxKept = 2_000_000

// Kept are the closed days' sums of profiles, as of one list of closed days. It is not safe for concurrent use.
type Kept struct {
	closed day.Closed
	sums   map[uint64][]sum
	rows   int
}

// add adds the closed days' sums of the reading's profiles to it. A nil Kept reads them all.
func (k *Kept) add(ctx context.Context, t *table.Tables, closed day.Closed, r *Reading) error {
	if k == nil {
		k = &Kept{}
	}
	if k.sums == nil || len(closed.Changed(k.closed)) > 0 || len(closed.Days) != len(k.closed.Days) {
		k.closed, k.sums, k.rows = closed, map[uint64][]sum{}, 0
	}
	var missing []uint64
	for _, id := range r.IDs {
		if _, ok := k.sums[id]; !ok {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 && len(closed.Days) > 0 {
		read, err := readClosedSums(ctx, t, closed, missing)
		if err != nil {
			return err
		}
		for _, id := range missing {
			k.sums[id] = read[id] // nothing, too, is worth knowing
			k.rows += len(read[id]) + 1
		}
	}
	for _, id := range r.IDs {
		for _, s := range k.sums[id] {
			r.add(id, s)
		}
	}
	for id := range k.sums { // in no order: whoever is active comes back at the price of one read
		if k.rows <= maxKept {
			break
		}
		k.rows -= len(k.sums[id]) + 1
		delete(k.sums, id)
	}
	return nil
}

func readClosedSums(ctx context.Context, t *table.Tables, closed day.Closed, ids []uint64) (map[uint64][]sum, error) {
	sums := map[uint64][]sum{}
	var profile uint64
	var s sum
	// One query, so that the sums of a day that is swapped meanwhile agree with each other.
	err := t.Each(ctx, `SELECT profile_id, toInt8(class), toInt8(kind), link_id, surface = 'page' AS page, dimension = 'visitors' AS v, sum(events), sum(visitors)
		FROM `+t.All("days")+` WHERE profile_id IN (`+table.Numbers(ids)+`) AND dimension IN ('', 'visitors') AND `+closed.Condition()+`
		GROUP BY profile_id, class, kind, link_id, page, v`,
		[]any{&profile, (*int8)(&s.class), &s.kind, &s.link, &s.page, &s.ofVisitors, &s.events, &s.visitors}, func() error {
			sums[profile] = append(sums[profile], s)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read closed days' sums: %w", err)
	}
	return sums, nil
}
