package insight

import (
	"context"
	"fmt"
	"time"
)

// rulesSample is how many profiles are looked at to learn which rules decide now.
const rulesSample = 20

// Rules returns the version of the rules that decide what is counted now, and since when, as far as ten minutes tell. Zero: nobody came, or
// not all who record visits use the same rules yet. It looks at the latest events of a few profiles that were visited just now, which
// costs a few granules however many events there are.
func (r *Reader) Rules(ctx context.Context) (version uint32, since time.Time, err error) {
	var profile uint64
	var date int64
	var pairs string
	err = r.each(ctx, fmt.Sprintf(`SELECT profile_id, toInt64(toUInt16(date)) FROM %s WHERE at > now64(3) - INTERVAL 10 MINUTE
		GROUP BY profile_id, date ORDER BY max(at) DESC LIMIT %d`, r.layout.All("changed"), rulesSample), []any{&profile, &date}, func() error {
		if pairs != "" {
			pairs += ","
		}
		pairs += fmt.Sprintf("(toDate(%d), %d)", date, profile)
		return nil
	})
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("look who was visited: %w", err)
	}
	if pairs == "" {
		return 0, time.Time{}, nil
	}
	type decided struct {
		version     uint32
		first, last time.Time
	}
	var all []decided
	var one decided
	err = r.each(ctx, fmt.Sprintf(`SELECT rules_version, min(time), max(time) FROM %s
		WHERE (date, profile_id) IN (%s) AND time > now64(6) - INTERVAL 10 MINUTE AND rules_version > 0 GROUP BY rules_version ORDER BY max(time) DESC`,
		r.layout.All("events"), pairs), []any{&one.version, &one.first, &one.last}, func() error {
		all = append(all, one)
		return nil
	})
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("look which rules decided: %w", err)
	}
	// All agree where none but the newest was seen after it began, and for a moment before now.
	if len(all) == 0 || len(all) > 1 && all[1].last.After(all[0].first) {
		return 0, time.Time{}, nil
	}
	return all[0].version, all[0].first.UTC(), nil
}
