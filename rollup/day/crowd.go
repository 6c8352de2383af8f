package day

import (
	"context"
	"fmt"
	"strings"

	"spillway.dev/rollup/table"
)

// Other is the value that stands for all values of a column of which a day has too many. Whoever visits may choose a campaign's name, a
// referrer or a place, so there may be as many as there are events, and closed days are kept for ever. What a visitor sent by that very name is
// counted with it. Sums stay what they are: the rest is put together, not left out.
const Other = "(other)"

// crowds are, by column, the profiles that have too many values of it on a day.
type crowds struct {
	profiles map[string][]uint64
	events   string // the table
	date     table.Date
	most     int
}

// crowds looks for them among profiles that have many events.
func (c *Closer) crowds(ctx context.Context, date table.Date, busy []uint64) (crowds, error) {
	found := crowds{profiles: map[string][]uint64{}, events: c.tables.All("events"), date: date, most: c.options.MaxValues}
	if len(busy) == 0 {
		return found, nil
	}
	columns := dimensions()
	bits := make([]string, len(columns))
	for i, d := range columns {
		bits[i] = fmt.Sprintf("bitShiftLeft(toUInt64(uniqExact(%s) > %d), %d)", d, found.most, i)
	}
	var profile, many uint64
	err := c.tables.Each(ctx, fmt.Sprintf("SELECT profile_id, %s AS many FROM %s WHERE date = %s AND profile_id IN (%s) GROUP BY profile_id HAVING many != 0 ORDER BY profile_id",
		strings.Join(bits, " + "), found.events, date.Literal(), table.Numbers(busy)), []any{&profile, &many}, func() error {
		for i, d := range columns {
			if many>>i&1 == 1 {
				found.profiles[d] = append(found.profiles[d], profile)
			}
		}
		return nil
	})
	if err != nil {
		return crowds{}, fmt.Errorf("look for columns with too many values: %w", err)
	}
	return found, nil
}

// value is the expression for a column's value: the most frequent ones as they are, those of persons before what bots send, and of
// equals the first by their bytes, so that it is always the same ones.
func (c crowds) value(column string) string {
	profiles := table.Numbers(c.profiles[column])
	if profiles == "" {
		return "toString(" + column + ")"
	}
	// GLOBAL, because on a cluster both sides are Distributed.
	return fmt.Sprintf(`if(profile_id IN (%[1]s) AND (profile_id, toString(%[2]s)) GLOBAL NOT IN (
		SELECT profile_id, word FROM (SELECT profile_id, toString(%[2]s) AS word, countIf(class = 'person') AS people, count() AS n
			FROM %[3]s WHERE date = %[4]s AND profile_id IN (%[1]s) GROUP BY profile_id, word
			ORDER BY profile_id, people DESC, n DESC, word LIMIT %[5]d BY profile_id)), '%[6]s', toString(%[2]s))`,
		profiles, column, c.events, c.date.Literal(), c.most, Other)
}
