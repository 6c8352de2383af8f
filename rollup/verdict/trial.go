package verdict

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/rollup/table"
)

// Trial is what would become of the past if it were judged by another law.
type Trial struct {
	Since    string         `json:"since"`
	Until    string         `json:"until"`
	Events   uint64         `json:"events"` // of all classes, that were looked at
	Rules    []RuleTrial    `json:"rules"`
	Profiles []ProfileTrial `json:"profiles"`      // those whose numbers of people change, the most first
	More     int            `json:"more_profiles"` // how many more there are
	// Lost and Gained are views and clicks of people over all profiles.
	Lost   Count `json:"lost"`
	Gained Count `json:"gained"`
	// Other is how many events would get another class or reason without any people being lost or gained.
	Other  uint64       `json:"other"`
	Agents []AgentTrial `json:"agents"` // what causes it, the most first
}

// Count is a number of views and clicks.
type Count struct {
	Views  uint64 `json:"views"`
	Clicks uint64 `json:"clicks"`
}

func (c Count) sum() uint64 { return c.Views + c.Clicks }

func (c *Count) add(view bool, n uint64) {
	if view {
		c.Views += n
	} else {
		c.Clicks += n
	}
}

// RuleTrial is what one rule would do.
type RuleTrial struct {
	Name  string `json:"name"`
	Class string `json:"class"`
	// Tried is false for a rule that looks at networks or headers.
	Tried  bool   `json:"tried"`
	Why    string `json:"why,omitempty"` // it could not be tried
	Events uint64 `json:"events"`        // that it would judge otherwise than they are
}

// ProfileTrial is what would become of a profile's people.
type ProfileTrial struct {
	ID     uint64       `json:"id"`
	Handle string       `json:"handle,omitempty"`
	Now    Count        `json:"now"`
	Then   Count        `json:"then"`
	Lost   Count        `json:"lost"`
	Gained Count        `json:"gained"`
	Agents []AgentTrial `json:"agents"` // at most five
}

// AgentTrial is what would become of a user agent's visits.
type AgentTrial struct {
	Agent  string    `json:"user_agent"`
	Was    Judgement `json:"was"`
	Is     Judgement `json:"is"`
	Events uint64    `json:"events"`
}

const (
	topAgents        = 20
	topProfileAgents = 5
)

// Try says what Apply would do to the events of some dates, and changes nothing. It reads aggregates only: one row for each distinct
// agent, class and reason, and, of those that would change, one for each profile. At most most profiles are in the answer.
func Try(ctx context.Context, t *table.Tables, pool *pgxpool.Pool, l Law, r Range, most int) (*Trial, error) {
	trial := &Trial{Since: r.Since.String(), Until: r.Until.String(), Rules: []RuleTrial{}, Profiles: []ProfileTrial{}, Agents: []AgentTrial{}}
	differ, events, err := l.differing(ctx, t, r.where())
	if err != nil {
		return nil, err
	}
	trial.Events = events
	byReason := map[string]uint64{}
	for i, k := range differ {
		byReason[k.is.Reason] += k.events
		if (k.was.Class == "person") == (k.is.Class == "person") {
			trial.Other += k.events
		}
		if i < topAgents {
			trial.Agents = append(trial.Agents, AgentTrial{k.agent, k.was, k.is, k.events})
		}
	}
	for i := range l.Rules.Rules() {
		rule := &l.Rules.Rules()[i]
		one := RuleTrial{Name: rule.Name, Class: rule.ClassName(), Tried: rule.ByAgent(), Events: byReason[rule.Reason()]}
		if !one.Tried {
			one.Why = "it looks at a network or a header, and addresses and headers are never kept: it works from now on only"
		}
		trial.Rules = append(trial.Rules, one)
	}
	profiles, err := l.profiles(ctx, t, r, differ)
	if err != nil {
		return nil, err
	}
	for _, p := range profiles {
		trial.Lost.Views, trial.Lost.Clicks = trial.Lost.Views+p.Lost.Views, trial.Lost.Clicks+p.Lost.Clicks
		trial.Gained.Views, trial.Gained.Clicks = trial.Gained.Views+p.Gained.Views, trial.Gained.Clicks+p.Gained.Clicks
	}
	order := slices.SortedFunc(maps.Values(profiles), func(a, b *ProfileTrial) int {
		return cmp.Or(cmp.Compare(b.Lost.sum()+b.Gained.sum(), a.Lost.sum()+a.Gained.sum()), cmp.Compare(a.ID, b.ID))
	})
	trial.More = max(len(order)-most, 0)
	order = order[:min(len(order), most)]
	if err := people(ctx, t, pool, r, order); err != nil {
		return nil, err
	}
	for _, p := range order {
		trial.Profiles = append(trial.Profiles, *p)
	}
	return trial, nil
}

// profiles returns the profiles that would lose or gain people, by id.
func (l Law) profiles(ctx context.Context, t *table.Tables, r Range, differ []kind) (map[uint64]*ProfileTrial, error) {
	becomes := map[kind]Judgement{} // by agent and what it was
	var counted []kind
	for _, k := range differ {
		if (k.was.Class == "person") != (k.is.Class == "person") {
			counted = append(counted, k)
			becomes[kind{agent: k.agent, was: k.was}] = k.is
		}
	}
	profiles := map[uint64]*ProfileTrial{}
	var id uint64
	var view bool
	var k kind
	for _, batch := range batches(counted) {
		err := t.Each(ctx, "SELECT profile_id, toString(user_agent), toString(class), toString(reason), kind = 'view', count() FROM "+t.All("events")+
			" WHERE kind IN ('view', 'click') AND "+r.where()+" AND "+among(batch)+" GROUP BY profile_id, user_agent, class, reason, kind",
			[]any{&id, &k.agent, &k.was.Class, &k.was.Reason, &view, &k.events}, func() error {
				p := profiles[id]
				if p == nil {
					p = &ProfileTrial{ID: id}
					profiles[id] = p
				}
				is := becomes[kind{agent: k.agent, was: k.was}]
				if is.Class == "person" {
					p.Gained.add(view, k.events)
				} else {
					p.Lost.add(view, k.events)
				}
				p.cause(AgentTrial{k.agent, k.was, is, k.events})
				return nil
			})
		if err != nil {
			return nil, fmt.Errorf("count by profile: %w", err)
		}
	}
	return profiles, nil
}

// cause notes an agent; of many the most frequent stay. The views and the clicks of one agent come apart.
func (p *ProfileTrial) cause(a AgentTrial) {
	if i := slices.IndexFunc(p.Agents, func(b AgentTrial) bool { return b.Agent == a.Agent && b.Was == a.Was }); i >= 0 {
		p.Agents[i].Events += a.Events
	} else {
		p.Agents = append(p.Agents, a)
	}
	slices.SortStableFunc(p.Agents, func(a, b AgentTrial) int { return cmp.Compare(b.Events, a.Events) })
	p.Agents = p.Agents[:min(len(p.Agents), 2*topProfileAgents)]
}

// people completes profiles by what they have now and would have then, and by their handles.
func people(ctx context.Context, t *table.Tables, pool *pgxpool.Pool, r Range, profiles []*ProfileTrial) error {
	if len(profiles) == 0 {
		return nil
	}
	byID := map[uint64]*ProfileTrial{}
	var ids []uint64
	var known []int64
	for _, p := range profiles {
		byID[p.ID] = p
		ids, known = append(ids, p.ID), append(known, int64(p.ID))
		p.Agents = p.Agents[:min(len(p.Agents), topProfileAgents)]
	}
	var id, views, clicks uint64
	if err := t.Each(ctx, "SELECT profile_id, sumIf(n, kind = 'view'), sumIf(n, kind = 'click') FROM (SELECT profile_id, kind, class, count() AS n FROM "+t.All("events")+
		" WHERE "+r.where()+" AND class = 'person' AND profile_id IN ("+table.Numbers(ids)+") GROUP BY profile_id, kind, class) GROUP BY profile_id", []any{&id, &views, &clicks}, func() error {
		byID[id].Now = Count{views, clicks}
		return nil
	}); err != nil {
		return fmt.Errorf("count people: %w", err)
	}
	for _, p := range profiles {
		p.Then = Count{p.Now.Views + p.Gained.Views - p.Lost.Views, p.Now.Clicks + p.Gained.Clicks - p.Lost.Clicks}
	}
	rows, err := pool.Query(ctx, "SELECT id, handle FROM profiles WHERE id = ANY($1)", known)
	if err != nil {
		return fmt.Errorf("look up handles: %w", err)
	}
	var number int64
	var handle string
	if _, err := pgx.ForEachRow(rows, []any{&number, &handle}, func() error { byID[uint64(number)].Handle = handle; return nil }); err != nil {
		return fmt.Errorf("look up handles: %w", err)
	}
	return nil
}

// WriteJSON writes the trial as one object.
func (x *Trial) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(x)
}

// WriteTable writes the trial for people.
func (x *Trial) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s, %d events\n\n", x.Since, x.Until, x.Events)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tCLASS\tEVENTS JUDGED ANEW")
	for _, r := range x.Rules {
		if r.Tried {
			fmt.Fprintf(t, "%s\t%s\t%d\n", r.Name, r.Class, r.Events)
		} else {
			fmt.Fprintf(t, "%s\t%s\tnot tried: %s\n", r.Name, r.Class, r.Why)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(x.Agents) > 0 {
		fmt.Fprintln(&b)
		fmt.Fprintln(t, "EVENTS\tFROM\tTO\tBECAUSE\tUSER AGENT")
		for _, a := range x.Agents {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", a.Events, a.Was.Class, a.Is.Class, because(a.Is), short(a.Agent))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(&b)
	if len(x.Profiles) == 0 {
		fmt.Fprintf(&b, "No profile would lose or gain people; %d other events would be judged anew.\n", x.Other)
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintln(t, "PROFILE\tVIEWS NOW\tTHEN\tCLICKS NOW\tTHEN\tLOST\tGAINED\tMOST BY")
	for _, p := range x.Profiles {
		name := p.Handle
		if name == "" {
			name = fmt.Sprint(p.ID)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", name, p.Now.Views, p.Then.Views, p.Now.Clicks, p.Then.Clicks, p.Lost.sum(), p.Gained.sum(), short(p.Agents[0].Agent))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if x.More > 0 {
		fmt.Fprintf(&b, "and %d more profiles\n", x.More)
	}
	fmt.Fprintf(&b, "\nPeople lost: %d views, %d clicks. Gained: %d views, %d clicks. Other events judged anew: %d.\nNothing was changed: 'spillway rules apply' does it.\n",
		x.Lost.Views, x.Lost.Clicks, x.Gained.Views, x.Gained.Clicks, x.Other)
	_, err := io.WriteString(w, b.String())
	return err
}

func because(j Judgement) string {
	if j.Reason == "" {
		return "-"
	}
	return j.Reason
}

// short cuts an agent for a table; control characters would move its reader's cursor.
func short(agent string) string {
	const most = 80
	agent = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '·'
		}
		return r
	}, agent)
	if utf8.RuneCountInString(agent) <= most {
		return agent
	}
	return string([]rune(agent)[:most-1]) + "…"
}
