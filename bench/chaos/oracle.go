package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"spillway.dev/bench/load"
)

// verdict is what became of the visits of one load, by the load's own ledger against the table, by PostgreSQL against the table, and
// by the audit.
type verdict struct {
	Answered int       // attempts that were answered: each must be in the table once
	Open     int       // attempts without an answer: each may be in the table once
	Stored   int       // of the answered, those that are there
	Lost     int       // of the answered, those that are not
	Doubled  int       // rows beyond the first of any attempt
	Last     time.Time // when the last answered attempt was sent
	Alien    int       // rows with a marker of this load that was never sent, or of which no byte was
	Differs  int       // numbers in PostgreSQL that are not the table's
	Audit    audit
	Scarred  bool // an earlier fault destroyed data: the audit cannot be clean any more
	// Elsewise counts the attempts that did not get what they were for, by target and status ("unsent", "no answer").
	Elsewise map[string]int
}

// audit is what `spillway audit --json` says.
type audit struct {
	Missing int `json:"missing"`
	Doubled int `json:"doubled"`
	Dropped int `json:"dropped"`
	Streams []struct {
		Stream    string `json:"stream"`
		Journaled int    `json:"journaled"`
		Stored    int    `json:"stored"`
		Missing   int    `json:"missing"`
		Doubled   int    `json:"doubled"`
	} `json:"streams"`
	CountersOff     int        `json:"counters_off"`
	CompleteThrough *time.Time `json:"complete_through"`
	// Clean is whether it exited with 0.
	Clean bool `json:"-"`
}

// minus returns what was found since before.
func (x audit) minus(before audit) audit {
	x.Missing -= before.Missing
	x.Doubled -= before.Doubled
	x.Dropped -= before.Dropped
	return x
}

// audit runs `spillway audit --json` on the engines themselves.
func (a *arena) audit(ctx context.Context) (audit, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.Binary, "audit", "--json")
	cmd.Env = append(os.Environ(), "CLICKHOUSE_URL="+a.ClickHouseURL, "DATABASE_URL="+a.PostgresURL, "KAFKA_BROKERS="+strings.Join(a.Brokers(), ","))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	failed := cmd.Run()
	var x audit
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		return audit{}, fmt.Errorf("audit: %w: %s", err, strings.TrimSpace(complaint.String()+" "+fmt.Sprint(failed)))
	}
	x.Clean = failed == nil
	return x, nil
}

// judge compares everything, now.
func (a *arena) judge(ctx context.Context, seen *attempts, before audit) (verdict, error) {
	v := verdict{Elsewise: map[string]int{}}
	// What may or must be there, from the ledger alone.
	const must, may = 1, 2
	sent := map[string]int{}
	err := load.ReadLedger(bytes.NewReader(seen.ledger.Bytes()), func(r load.Record) error {
		how := "status " + strconv.Itoa(r.Status)
		switch {
		case r.Answered():
			sent[r.Marker] = must
			v.Answered++
			if r.Sent.After(v.Last) {
				v.Last = r.Sent
			}
			return nil
		case r.NotSent:
			how = "unsent"
		default:
			sent[r.Marker] = may
			v.Open++
			if r.Status == 0 {
				how = "no answer"
			}
		}
		v.Elsewise[fmt.Sprintf("redirector-%d %s", r.Target+1, how)]++
		return nil
	})
	if err != nil {
		return v, err
	}
	rows, err := a.Ask(ctx, fmt.Sprintf("SELECT utm_content, count() FROM spillway.events WHERE startsWith(utm_content, '%s.') GROUP BY utm_content", seen.run))
	if err != nil {
		return v, err
	}
	for _, row := range rows {
		n, err := strconv.Atoi(row[1])
		if err != nil {
			return v, fmt.Errorf("count of %s: %w", row[0], err)
		}
		switch sent[row[0]] {
		case must:
			v.Stored++
		case may:
		default:
			v.Alien++
		}
		v.Doubled += n - 1
	}
	v.Lost = v.Answered - v.Stored
	if v.Differs, err = a.differs(ctx); err != nil {
		return v, err
	}
	now, err := a.audit(ctx)
	if err != nil {
		return v, err
	}
	v.Audit = now.minus(before)
	v.Scarred = before.Missing+before.Dropped > 0
	return v, nil
}

// differs counts the lifetime numbers in PostgreSQL that are not what the table's rows add up to: the profile's views, and each link's
// clicks, all classes together.
func (a *arena) differs(ctx context.Context) (int, error) {
	table := map[string]int{}
	rows, err := a.Ask(ctx, "SELECT if(kind = 'view', 0, link_id) AS id, count() FROM spillway.events WHERE profile_id = "+a.profile+" GROUP BY id")
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		if table[row[0]], err = strconv.Atoi(row[1]); err != nil {
			return 0, fmt.Errorf("count of %s: %w", row[0], err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	id, err := strconv.ParseInt(a.profile, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("profile's id: %w", err)
	}
	counters, err := a.pool.Query(ctx, `SELECT 0, sum(views)::bigint FROM profile_counters WHERE profile_id = $1 HAVING count(*) > 0
		UNION ALL SELECT link_id, sum(clicks)::bigint FROM link_counters WHERE profile_id = $1 GROUP BY link_id`, id)
	if err != nil {
		return 0, fmt.Errorf("read counters: %w", err)
	}
	defer counters.Close()
	wrong := 0
	for counters.Next() {
		var id, n int64
		if err := counters.Scan(&id, &n); err != nil {
			return 0, fmt.Errorf("read counters: %w", err)
		}
		key := strconv.FormatInt(id, 10)
		if table[key] != int(n) {
			wrong++
		}
		delete(table, key)
	}
	for _, n := range table {
		if n != 0 {
			wrong++
		}
	}
	return wrong, counters.Err()
}

// wrong says what is not as expected, or nothing.
func (v verdict) wrong(expected Loss) []string {
	var all []string
	say := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	named := v.Audit.Missing + v.Audit.Dropped
	switch expected {
	case None:
		say(v.Lost != 0, "%d answered visits are not in the table", v.Lost)
		say(named != 0, "the audit misses %d and %d were dropped", v.Audit.Missing, v.Audit.Dropped)
		say(!v.Scarred && !v.Audit.Clean, "the audit did not exit with 0")
		say(!v.Scarred && (v.Audit.CompleteThrough == nil || v.Audit.CompleteThrough.Before(v.Last)),
			"complete_through is %v, before the last answered visit (%v)", v.Audit.CompleteThrough, v.Last.UTC())
	case Named:
		// A visit without an answer may have been journaled and destroyed with the others.
		say(named < v.Lost || named > v.Lost+v.Open, "%d answered visits are lost, but the audit names %d", v.Lost, named)
	case Unseen:
		say(named > v.Lost+v.Open, "%d answered visits are lost, but the audit names %d", v.Lost, named)
	}
	say(v.Doubled != 0, "%d visits are in the table twice", v.Doubled)
	say(v.Alien != 0, "%d rows are of visits that nobody made", v.Alien)
	say(v.Audit.Doubled != 0, "the audit finds %d doubled", v.Audit.Doubled)
	say(v.Audit.CountersOff != 0, "the audit finds %d counters that differ", v.Audit.CountersOff)
	say(v.Differs != 0, "%d numbers in PostgreSQL are not the table's", v.Differs)
	return all
}

// settle judges until everything is as expected, or patience is over, and returns the last verdict and how long that took. A verdict
// that was good is asked for once more, a moment later: something might still come twice.
func (a *arena) settle(ctx context.Context, seen *attempts, before audit, expected Loss, patience time.Duration) (v verdict, took time.Duration, err error) {
	began, good := time.Now(), false
	for {
		v, err = a.judge(ctx, seen, before)
		switch {
		case err == nil && len(v.wrong(expected)) == 0:
			if good {
				return v, took, nil
			}
			good, took = true, time.Since(began)
			time.Sleep(300 * time.Millisecond)
			continue
		case time.Since(began) > patience, ctx.Err() != nil:
			return v, time.Since(began), err
		}
		good = false
		time.Sleep(200 * time.Millisecond)
	}
}
