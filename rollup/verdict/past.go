package verdict

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway.dev/rollup/day"
	"spillway.dev/rollup/table"
	"spillway.dev/schemas/rules"
)

// ScannerPrefix begins the reasons of events that were judged by what their visitor did.
const ScannerPrefix = "scanner: "

// Law is how the past is judged: by the operator's rules, then by the built-in lists.
type Law struct {
	Rules *rules.Set
	// BuiltIn judges a user agent by the lists that are built in, and Version is theirs.
	BuiltIn func(userAgent string) Judgement
	Version uint32
}

// judge says what an event of that agent that was judged so is by the law now. What the request said of itself and what its visitor did
// stays, but for the operator's rules; and a rule about networks or headers, which are never kept, keeps what it once decided.
func (l Law) judge(agent string, was Judgement) Judgement {
	byRule := rules.Is(was.Reason)
	byDeeds := strings.HasPrefix(was.Reason, ScannerPrefix)
	if !byRule && !byDeeds && was.Class != "person" && was.Class != "bot" && was.Class != "preview" {
		return was
	}
	list := l.Rules.Rules()
	for i := range list {
		r := &list[i]
		if r.MatchesAgent(agent) && (r.ByAgent() || was.Reason == r.Reason()) {
			return Judgement{r.ClassName(), r.Reason()}
		}
	}
	if byDeeds {
		return was
	}
	is := l.BuiltIn(agent)
	if !byRule && is.Class == was.Class {
		return was // under another reason, perhaps: not worth writing the events anew
	}
	return is
}

// Range is the dates that are looked at, both included: profiles' local dates, as creators see them.
type Range struct{ Since, Until table.Date }

// Dates reads a range: the last days up to today, unless a first or last date is given as 2006-01-02. Today includes tomorrow, which has
// begun in the far east.
func Dates(days int, since, until string, now time.Time) (Range, error) {
	today := table.DateOf(now)
	r := Range{Until: today + 1}
	if until != "" {
		d, err := parseDate(until)
		if err != nil {
			return Range{}, err
		}
		r.Until, today = d, d
	}
	switch {
	case since != "":
		d, err := parseDate(since)
		if err != nil {
			return Range{}, err
		}
		r.Since = d
	case days < 1 || days > int(today):
		return Range{}, fmt.Errorf("%d days: use 1 or more", days)
	default:
		r.Since = today - table.Date(days) + 1
	}
	if r.Since > r.Until {
		return Range{}, fmt.Errorf("the range begins on %s, after its end on %s: turn them round", r.Since, r.Until)
	}
	return r, nil
}

func parseDate(s string) (table.Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2148 {
		return 0, fmt.Errorf("date %q: write it as 2026-11-01", s)
	}
	return table.DateOf(t), nil
}

func (r Range) where() string {
	return fmt.Sprintf("date BETWEEN %s AND %s", r.Since.Literal(), r.Until.Literal())
}

// kind is events that are judged alike, and what they are by the law now.
type kind struct {
	agent   string
	was, is Judgement
	events  uint64
}

func (k kind) tuple() string {
	return "(" + quote(k.agent) + "," + quote(k.was.Class) + "," + quote(k.was.Reason) + ")"
}

// differing returns the kinds of events of the dates that the law judges differently, the most frequent first. It reads one row for each
// distinct agent, class and reason.
func (l Law) differing(ctx context.Context, t *table.Tables, where string) (differ []kind, events uint64, err error) {
	var k kind
	err = t.Each(ctx, "SELECT toString(user_agent), toString(class), toString(reason), count() FROM "+t.All("events")+" WHERE "+where+" GROUP BY user_agent, class, reason",
		[]any{&k.agent, &k.was.Class, &k.was.Reason, &k.events}, func() error {
			events += k.events
			if k.is = l.judge(k.agent, k.was); k.is != k.was {
				differ = append(differ, k)
			}
			return nil
		})
	if err != nil {
		return nil, 0, fmt.Errorf("list user agents: %w", err)
	}
	slices.SortFunc(differ, func(a, b kind) int {
		return cmp.Or(cmp.Compare(b.events, a.events), strings.Compare(a.agent, b.agent), strings.Compare(a.was.Reason, b.was.Reason))
	})
	return differ, events, nil
}

// Bounds of one statement.
const (
	maxKinds = 4000
	maxText  = 600 << 10 // bytes of its list of kinds
)

// batches cuts kinds into what fits into one statement each.
func batches(all []kind) [][]kind {
	var cut [][]kind
	size := 0
	for _, k := range all {
		n := len(k.agent) + len(k.was.Reason) + 40
		if last := len(cut) - 1; last < 0 || size+n > maxText || len(cut[last]) == maxKinds {
			cut, size = append(cut, nil), 0
		}
		size += n
		cut[len(cut)-1] = append(cut[len(cut)-1], k)
	}
	return cut
}

// among is true for the events of the kinds.
func among(kinds []kind) string {
	tuples := make([]string, len(kinds))
	for i, k := range kinds {
		tuples[i] = k.tuple()
	}
	return "(user_agent, class, reason) IN (" + strings.Join(tuples, ",") + ")"
}

// expressions give class and reason of the kinds' events by the law.
func expressions(kinds []kind) (class, reason string) {
	groups := map[Judgement][]kind{}
	var order []Judgement
	for _, k := range kinds {
		if groups[k.is] == nil {
			order = append(order, k.is)
		}
		groups[k.is] = append(groups[k.is], k)
	}
	if len(order) == 1 {
		return quote(order[0].Class), quote(order[0].Reason)
	}
	var classes, reasons strings.Builder
	for _, j := range order {
		condition := among(groups[j])
		fmt.Fprintf(&classes, "%s,%s,", condition, quote(j.Class))
		fmt.Fprintf(&reasons, "%s,%s,", condition, quote(j.Reason))
	}
	return "multiIf(" + classes.String() + "toString(class))", "multiIf(" + reasons.String() + "toString(reason))"
}

// Applied says what was judged anew.
type Applied struct {
	Events uint64       `json:"events"`
	Days   []table.Date `json:"-"`       // on which there were such events
	Again  []table.Date `json:"-"`       // those of them that are to be closed again
	Left   uint64       `json:"left"`    // events that came meanwhile and are still as they were
	Rules  string       `json:"rules"`   // short hash of the file
	Number uint32       `json:"version"` // rules_version of what was changed
}

// maxRounds bounds how often is looked for events that came while others were judged, by redirectors that had not read the rules yet.
const maxRounds = 3

// Apply judges the events of some dates by the law. Months whose events have begun to expire are left alone. It may be repeated, also after
// it was killed: then it does what is left.
func (c *Changer) Apply(ctx context.Context, l Law, r Range) (Applied, error) {
	done := Applied{Rules: l.Rules.Hash(), Number: l.Rules.Version(l.Version)}
	expired, err := day.ReadExpired(ctx, c.pool)
	if err != nil {
		return done, err
	}
	var dates []table.Date
	var date uint16
	if err := c.tables.Each(ctx, "SELECT toUInt16(date) AS d FROM (SELECT date, count() FROM "+c.tables.All("events")+" WHERE "+r.where()+" GROUP BY date) ORDER BY d", []any{&date}, func() error {
		if !expired.Has(table.Date(date)) {
			dates = append(dates, table.Date(date))
		}
		return nil
	}); err != nil {
		return done, fmt.Errorf("list dates: %w", err)
	}
	if len(dates) == 0 {
		return done, nil
	}
	touched, again := map[table.Date]bool{}, map[table.Date]bool{}
	for round := 0; ; round++ {
		left := uint64(0)
		for _, month := range byMonth(dates) {
			n, err := c.applyMonth(ctx, l, month, round == maxRounds, touched, again)
			if err != nil {
				return done, err
			}
			left += n
		}
		if left == 0 || round == maxRounds {
			done.Left = left
			break
		}
		done.Events += left
	}
	done.Days, done.Again = sortedDates(touched), sortedDates(again)
	// Also of what an Apply judged that was killed before it could tell.
	return done, c.hint(ctx, dates, fmt.Sprintf("rules_version = %d", done.Number))
}

// applyMonth judges the events of one month's dates and returns how many there were to judge; only looks if that is all.
func (c *Changer) applyMonth(ctx context.Context, l Law, dates []table.Date, onlyLook bool, touched, again map[table.Date]bool) (events uint64, err error) {
	in := "date IN (" + table.Dates(dates) + ")"
	differ, _, err := l.differing(ctx, c.tables, in)
	if err != nil {
		return 0, err
	}
	for _, k := range differ {
		events += k.events
	}
	if onlyLook {
		return events, nil
	}
	for _, batch := range batches(differ) {
		x := change{month: monthOf(dates[0]), where: among(batch), version: fmt.Sprint(l.Rules.Version(l.Version))}
		x.class, x.reason = expressions(batch)
		var date uint16
		if err := c.tables.Each(ctx, "SELECT DISTINCT toUInt16(date) FROM "+c.tables.All("events")+" WHERE "+in+" AND "+x.where, []any{&date}, func() error {
			x.dates = append(x.dates, table.Date(date))
			return nil
		}); err != nil {
			return 0, fmt.Errorf("list dates: %w", err)
		}
		if len(x.dates) == 0 {
			continue
		}
		marked, err := c.apply(ctx, x)
		for _, d := range x.dates {
			touched[d] = true
		}
		for _, d := range marked {
			again[d] = true
		}
		if err != nil {
			return 0, err
		}
	}
	return events, nil
}

func sortedDates(set map[table.Date]bool) []table.Date {
	dates := make([]table.Date, 0, len(set))
	for d := range set {
		dates = append(dates, d)
	}
	slices.Sort(dates)
	return dates
}
