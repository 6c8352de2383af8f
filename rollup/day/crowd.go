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
	profiles map[string][]profileDay
	events   string // the table
	most     int
}

// crowds looks for them among profiles that have many events on a day.
func (c *Closer) crowds(ctx context.Context, busy []profileDay) (crowds, error) {
	found := crowds{profiles: map[string][]profileDay{}, events: c.tables.All("events"), most: c.options.MaxValues}
	if len(busy) == 0 {
		return found, nil
	}
	columns := dimensions()
	bits := make([]string, len(columns))
	for i, d := range columns {
		bits[i] = fmt.Sprintf("bitShiftLeft(toUInt64(uniqExact(%s) > %d), %d)", d, found.most, i)
	}
	var date uint16
	var profile, many uint64
	err := c.tables.Each(ctx, fmt.Sprintf("SELECT toUInt16(date) AS d, profile_id, %s AS many FROM %s WHERE (date, profile_id) IN (%s) GROUP BY d, profile_id HAVING many != 0 ORDER BY d, profile_id",
		strings.Join(bits, " + "), found.events, profileDays(busy)), []any{&date, &profile, &many}, func() error {
		for i, d := range columns {
			if many>>i&1 == 1 {
				found.profiles[d] = append(found.profiles[d], profileDay{table.Date(date), profile})
			}
		}
		return nil
	})
	if err != nil {
		return crowds{}, fmt.Errorf("look for columns with too many values: %w", err)
	}
	return found, nil
}

// profileDays are days of profiles in a query: what stands in parentheses after IN.
func profileDays(list []profileDay) string {
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "(%s,%d)", p.date.Literal(), p.profile)
	}
	return b.String()
}

// value is the expression for a column's value: the most frequent ones as they are, those of persons before what bots send, and of
// equals the first by their bytes, so that it is always the same ones.
func (c crowds) value(column string) string {
	if len(c.profiles[column]) == 0 {
		return "toString(" + column + ")"
	}
	// GLOBAL, because on a cluster both sides are Distributed.
	return fmt.Sprintf(`if((date, profile_id) IN (%[1]s) AND (date, profile_id, toString(%[2]s)) GLOBAL NOT IN (
		SELECT date, profile_id, word FROM (SELECT date, profile_id, toString(%[2]s) AS word, countIf(class = 'person') AS people, count() AS n
			FROM %[3]s WHERE (date, profile_id) IN (%[1]s) GROUP BY date, profile_id, word
			ORDER BY date, profile_id, people DESC, n DESC, word LIMIT %[4]d BY date, profile_id)), '%[5]s', toString(%[2]s))`,
		profileDays(c.profiles[column]), column, c.events, c.most, Other)
}
