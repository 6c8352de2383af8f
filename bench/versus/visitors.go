package versus

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"spillway.dev/bench/load"
	"spillway.dev/bench/measure"
	"spillway.dev/bench/peer"
	"spillway.dev/bench/process"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
)

// handle of the profile that is visited.
const handle = "measured"

// visitors is a redirector on a processor of its own, with all that it needs, and nginx on the same processor, idle while the other
// is asked.
type visitors struct {
	*stand.Stand
	bench      *Bench
	redirector *stand.Service
	previous   *stand.Service // the program before, if there is one
	before     *side          // what it cost
	nginx      *peer.Nginx
	kafka      *process.Process
	postgres   *process.Process
	pool       *pgxpool.Pool
	clicks     [][]byte // over all links, as people click
	views      [][]byte
}

func (b *Bench) visitors(ctx context.Context, links int, env ...string) (_ *visitors, err error) {
	v := &visitors{bench: b}
	if v.Stand, err = b.stand(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if v.postgres, v.pool, err = v.Postgres(ctx, others); err != nil {
		return nil, err
	}
	if _, err = stand.Links(ctx, v.pool, handle, links); err != nil {
		return nil, err
	}
	if v.kafka, err = v.Engine(ctx, "kafka", others); err != nil {
		return nil, err
	}
	env = append([]string{"KAFKA_BROKERS=" + v.kafka.Line(), "DATABASE_URL=" + v.postgres.Line(), "SPILLWAY_CACHE_BYTES=" + strconv.Itoa(256<<20)}, env...)
	if v.redirector, err = v.Service(ctx, "redirector", "redirector", server, env...); err != nil {
		return nil, err
	}
	if b.Before != "" {
		if v.previous, err = v.ServiceOf(ctx, b.Before, "redirector", "before", server, env...); err != nil {
			return nil, err
		}
	}
	if v.clicks, err = clicks(ctx, links, 20_000); err != nil {
		return nil, err
	}
	if v.views, err = pump.Record(ctx, load.Config{Handle: handle, Views: 1, Seed: 2}, 5000); err != nil {
		return nil, err
	}
	return v, v.warm(ctx, links)
}

// clicks returns requests of people who click the links of stand.Links.
func clicks(ctx context.Context, links, n int) ([][]byte, error) {
	config := load.Config{Seed: 1}
	for i := range links {
		config.Links = append(config.Links, load.Link{Code: stand.Code(handle, i)})
	}
	return pump.Record(ctx, config, n)
}

// warm asks for everything once, so that no measurement begins with questions to PostgreSQL.
func (v *visitors) warm(ctx context.Context, links int) error {
	var every [][]byte
	for i := range min(links, 20_000) {
		every = append(every, []byte("GET /l/"+stand.Code(handle, i)+" HTTP/1.1\r\nHost: "+pump.Host+"\r\n\r\n"))
	}
	for _, redirector := range []*stand.Service{v.redirector, v.previous} {
		if redirector == nil {
			continue
		}
		for _, requests := range [][][]byte{every, v.clicks} {
			r, err := pump.Closed(ctx, pump.Options{Address: redirector.Listen, Requests: requests, Wanted: 302, Once: true, Duration: time.Minute, Processor: others})
			if err == nil {
				err = r.Err()
			}
			if err != nil {
				return fmt.Errorf("warm the redirector: %w", err)
			}
		}
	}
	return nil
}

// withNginx starts nginx with the same links and the same page.
func (v *visitors) withNginx(ctx context.Context, links int) (err error) {
	redirects := make([]peer.Redirect, links)
	for i := range redirects {
		redirects[i] = peer.Redirect{Path: "/l/" + stand.Code(handle, i), Target: stand.Target(handle, i)}
	}
	if v.nginx, err = peer.StartNginx(ctx, v.Stand, server, redirects); err != nil {
		return err
	}
	page, err := get("http://" + v.redirector.Listen + "/" + handle)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.nginx.Files, handle), page, 0o644); err != nil {
		return fmt.Errorf("give nginx the page: %w", err)
	}
	for _, requests := range [][][]byte{v.clicks, v.views} {
		wanted := 302
		if &requests[0] == &v.views[0] {
			wanted = 200
		}
		r, err := pump.Closed(ctx, pump.Options{Address: v.nginx.Address, Requests: requests, Wanted: wanted, Duration: 300 * time.Millisecond, Processor: others})
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			return fmt.Errorf("warm nginx: %w", err)
		}
	}
	return nil
}

func get(address string) ([]byte, error) {
	response, err := http.Get(address)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", address, response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", address, err)
	}
	return body, nil
}

// shipped waits until Kafka has acknowledged every event, which is part of a recorded request's cost.
func shipped(ctx context.Context, r *stand.Service) error {
	return stand.Until(ctx, "wait until everything is shipped", time.Minute, 20*time.Millisecond, func() (bool, error) {
		m, err := r.Metrics()
		return m["spillway_redirector_journal_pending_events"] == 0, err
	})
}

// cost is what one round of a server found.
type cost struct {
	cpu, system measure.Series // µs a request, and what of it the kernel used
	rate        measure.Series // requests a second
}

// round keeps a server busy and adds what it cost.
func (c *cost) round(ctx context.Context, id int, o pump.Options, after func() error) error {
	before, err := measure.Used(id)
	if err != nil {
		return err
	}
	r, err := pump.Closed(ctx, o)
	if err != nil {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	if after != nil {
		if err := after(); err != nil {
			return err
		}
	}
	now, err := measure.Used(id)
	if err != nil {
		return err
	}
	used := now.Minus(before)
	c.cpu = append(c.cpu, microseconds(used.Total())/float64(r.Answered))
	c.system = append(c.system, microseconds(used.System)/float64(r.Answered))
	c.rate = append(c.rate, r.Rate())
	return nil
}

// side is one of those that are compared.
type side struct {
	cost
	name, address string
	id            int
	after         func(context.Context) error // what else belongs to a round's work; nil: nothing
}

func (v *visitors) ours() *side { return recording("redirector", v.redirector) }

func recording(name string, r *stand.Service) *side {
	return &side{name: name, address: r.Listen, id: r.ID(), after: func(ctx context.Context) error { return shipped(ctx, r) }}
}

func (v *visitors) theirs() *side {
	return &side{name: "nginx", address: v.nginx.Address, id: v.nginx.ID()}
}

// compare keeps the sides busy in turn, in another order each round. The program before, if there is one, is one more side.
func (v *visitors) compare(ctx context.Context, name string, requests [][]byte, wanted int, sides ...*side) error {
	if v.previous != nil {
		v.before = recording("before", v.previous)
		sides = append(sides, v.before)
	}
	o := pump.Options{Requests: requests, Wanted: wanted, Duration: pick(v.bench, 3*time.Second, time.Second), Processor: others}
	for i := range pick(v.bench, 7, 3) {
		said := ""
		for turn := range sides {
			s := sides[(i+turn)%len(sides)]
			o.Address = s.address
			var after func() error
			if s.after != nil {
				after = func() error { return s.after(ctx) }
			}
			if err := s.round(ctx, s.id, o, after); err != nil {
				return fmt.Errorf("ask %s: %w", s.name, err)
			}
		}
		for _, s := range sides {
			said += fmt.Sprintf(", %s %s µs", s.name, measure.Number(s.cpu[i]))
		}
		v.bench.Say("round %d: %s", i+1, said[2:])
	}
	const profiled = 8 * time.Second
	return v.bench.profile(ctx, name, v.redirector, profiled, func() error {
		o.Address, o.Duration = v.redirector.Listen, profiled+500*time.Millisecond
		_, err := pump.Closed(ctx, o)
		return err
	})
}
