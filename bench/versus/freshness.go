package versus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/load"
	"spillway.dev/bench/measure"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
	"spillway.dev/bench/visit"
	"spillway.dev/profileapi/account"
)

// creators is the API as a creator asks it.
type creators struct {
	base, token string
	client      http.Client
}

func newCreators(ctx context.Context, pool *pgxpool.Pool, listen string) (*creators, error) {
	c := &creators{base: "http://" + listen, token: "sw_" + strings.Repeat("bench", 8), client: http.Client{Timeout: 30 * time.Second}}
	owner, err := account.EnsureAdminToken(ctx, pool, c.token)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, "UPDATE profiles SET account_id = $1", owner); err != nil {
		return nil, fmt.Errorf("give the profiles to the token's account: %w", err)
	}
	return c, nil
}

// numbers are what is looked at of a profile's insights.
type numbers struct {
	Lifetime struct{ Clicks int }
	Series   []struct{ Clicks int }
}

func (n *numbers) inSeries() int {
	sum := 0
	for _, p := range n.Series {
		sum += p.Clicks
	}
	return sum
}

// insights asks for a profile's insights; query begins with "?", or is empty.
func (c *creators) insights(ctx context.Context, profile int64, query string) (*numbers, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/profiles/%d/insights%s", c.base, profile, query), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for insights: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask for insights: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("ask for insights: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for insights: %s: %.300s", response.Status, body)
	}
	var n numbers
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, fmt.Errorf("ask for insights: %w", err)
	}
	return &n, nil
}

// freshness runs everything there is on this machine, lets visitors come, and clicks a link of its own now and then.
func (b *Bench) freshness(ctx context.Context) (*Table, error) {
	rate := pick(b, 20_000.0, 2000)
	s, err := b.stand()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	postgres, pool, err := s.Postgres(ctx, stand.Any)
	if err != nil {
		return nil, err
	}
	const profiles, links = 100, 50
	var all []load.Link
	for p := range profiles {
		handle := fmt.Sprintf("p%d", p)
		if _, err := stand.Links(ctx, pool, handle, links); err != nil {
			return nil, err
		}
		for i := range links {
			all = append(all, load.Link{Code: stand.Code(handle, i)})
		}
	}
	probed, err := stand.Links(ctx, pool, "probe", 1)
	if err != nil {
		return nil, err
	}
	kafka, err := s.Engine(ctx, "kafka", stand.Any)
	if err != nil {
		return nil, err
	}
	clickhouse, err := s.Engine(ctx, "clickhouse", stand.Any)
	if err != nil {
		return nil, err
	}
	env := []string{"KAFKA_BROKERS=" + kafka.Line(), "CLICKHOUSE_URL=" + clickhouse.Line(), "DATABASE_URL=" + postgres.Line()}
	services := map[string]*stand.Service{}
	for _, kind := range []string{"redirector", "ingest", "rollup", "profileapi"} {
		if services[kind], err = s.Service(ctx, kind, kind, stand.Any, env...); err != nil {
			return nil, err
		}
	}
	api, err := newCreators(ctx, pool, services["profileapi"].Listen)
	if err != nil {
		return nil, err
	}
	requests, err := pump.Record(ctx, load.Config{Links: all, Seed: 4}, 20_000)
	if err != nil {
		return nil, err
	}
	o := pump.Options{Address: services["redirector"].Listen, Requests: requests, Wanted: 302, Processor: -1, Rate: rate / 4, Duration: pick(b, 3*time.Second, time.Second)}
	if _, err := pump.Open(ctx, o); err != nil { // links are loaded, partitions taken, caches warm
		return nil, err
	}
	o.Rate, o.Duration = rate, pick(b, 40*time.Second, 3*time.Second)
	type outcome struct {
		result *pump.Result
		err    error
	}
	ended := make(chan outcome, 1)
	loading, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		r, err := pump.Open(loading, o)
		ended <- outcome{r, err}
	}()
	p := probe{api: api, profile: probed, client: visit.New(services["redirector"].Listen)}
	defer p.client.Close()
	series, lifetime, err := p.watch(ctx, o.Duration)
	if err != nil {
		return nil, err
	}
	end := <-ended
	if end.err != nil {
		return nil, end.err
	}
	if err := end.result.Err(); err != nil {
		return nil, err
	}
	m, err := services["ingest"].Metrics()
	if err != nil {
		return nil, err
	}
	inserted := quantile(m, "spillway_ingest_freshness_seconds", 0.99)
	b.Say("%d probes: series p50 %s s, p99 %s s; lifetime p99 %s s; inserted p99 %s s", len(series), measure.Number(series.Median()), measure.Number(at(series, 0.99)),
		measure.Number(at(lifetime, 0.99)), measure.Number(inserted))
	row := func(what string, s measure.Series, goal float64) Row {
		p99 := at(s, 0.99)
		return Row{What: what, Ours: fmt.Sprintf("%s (median %s)", measure.Number(p99), measure.Number(s.Median())), Peer: "1 s", Ratio: measure.Series{p99}, Goal: goal}
	}
	return &Table{Title: "Freshness", How: fmt.Sprintf("%s clicks/s (open loop; %s/s were answered) on 5000 links of 100 profiles, everything on this machine: load, redirector, broker, ingest, ClickHouse, rollup, "+
		"PostgreSQL, API. Meanwhile visitors click a link of another profile, %d clicks, ten a second, whose creator keeps asking for the insights.",
		measure.Number(rate), measure.Number(end.result.Rate()), len(series)),
		Rows: []Row{
			row("click → insights, the series, p99, s", series, 1),
			row("click → insights, the lifetime numbers, p99, s", lifetime, 0),
			{What: "click → answered insert, p99 of all events, s", Ours: measure.Number(inserted), Peer: "1 s", Ratio: measure.Series{inserted}},
		}, Notes: []string{"The lifetime numbers are set in PostgreSQL three times a second (SPILLWAY_ROLLUP_INTERVAL); the series is read from ClickHouse. What is asked for takes its own time too, and is asked for every 20 ms."}}, nil
}

// probe clicks and watches.
type probe struct {
	api     *creators
	profile int64
	client  *visit.Client
}

// watch clicks ten times a second, asks for the insights meanwhile, and returns how many seconds each click took until it was in the series,
// and in the lifetime numbers.
func (p *probe) watch(ctx context.Context, duration time.Duration) (series, lifetime measure.Series, err error) {
	const every = 100 * time.Millisecond
	const patience = time.Minute
	var clicked []time.Time
	for began := time.Now(); ; {
		now := time.Now()
		clicking := now.Sub(began) < duration
		if clicking && (len(clicked) == 0 || now.Sub(clicked[len(clicked)-1]) >= every) {
			if err := p.click(now); err != nil {
				return nil, nil, err
			}
			clicked = append(clicked, now)
		}
		n, err := p.api.insights(ctx, p.profile, "")
		if err != nil {
			return nil, nil, err
		}
		now = time.Now()
		for len(series) < min(n.inSeries(), len(clicked)) {
			series = append(series, now.Sub(clicked[len(series)]).Seconds())
		}
		for len(lifetime) < min(n.Lifetime.Clicks, len(clicked)) {
			lifetime = append(lifetime, now.Sub(clicked[len(lifetime)]).Seconds())
		}
		if !clicking && len(series) == len(clicked) && len(lifetime) == len(clicked) {
			return series, lifetime, nil
		}
		if now.Sub(began) > duration+patience {
			return nil, nil, fmt.Errorf("of %d clicks %d are in the series and %d in the lifetime numbers after %s", len(clicked), len(series), len(lifetime), patience)
		}
		if err := stand.Pause(ctx, 20*time.Millisecond); err != nil {
			return nil, nil, err
		}
	}
}

func (p *probe) click(now time.Time) error {
	answer, err := p.client.Do(&visit.Request{Target: "/l/" + stand.Code("probe", 0), UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}, now.Add(10*time.Second))
	if err != nil {
		return fmt.Errorf("click: %w", err)
	}
	if answer.Status != http.StatusFound {
		return fmt.Errorf("click: status %d", answer.Status)
	}
	return nil
}

// at returns a quantile of a series.
func at(s measure.Series, q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(math.Ceil(q*float64(len(sorted)))), len(sorted))-1]
}

// quantile reads one from a histogram's buckets, between whose bounds it lies as on a line; above the last finite bound it is +Inf, of nothing NaN.
func quantile(m map[string]float64, name string, q float64) float64 {
	type bucket struct{ le, count float64 }
	var all []bucket
	for key, count := range m {
		if text, ok := strings.CutPrefix(key, name+`{le="`); ok {
			var le float64
			if _, err := fmt.Sscanf(text, "%g", &le); err == nil {
				all = append(all, bucket{le, count})
			}
		}
	}
	slices.SortFunc(all, func(a, b bucket) int { return cmp.Compare(a.le, b.le) }) // not by count: empty buckets share theirs
	total := m[name+"_count"]
	if total == 0 {
		return math.NaN()
	}
	want, before := q*total, bucket{}
	for _, b := range all {
		if b.count >= want {
			if math.IsInf(b.le, 1) {
				break // all that is known of these is that they are more than the last bound
			}
			return before.le + (b.le-before.le)*(want-before.count)/max(b.count-before.count, 1)
		}
		before = b
	}
	return math.Inf(1)
}
