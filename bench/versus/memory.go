package versus

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
)

// memory lets a redirector learn many links.
func (b *Bench) memory(ctx context.Context) (*Table, error) {
	links := pick(b, 1_000_000, 20_000)
	s, err := b.stand()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	postgres, pool, err := s.Postgres(ctx, stand.Any)
	if err != nil {
		return nil, err
	}
	if _, err := stand.Links(ctx, pool, handle, links); err != nil {
		return nil, err
	}
	var bytes int64 // what a redirector cannot answer and count without
	if err := pool.QueryRow(ctx, "SELECT sum(octet_length(code) + octet_length(url) + octet_length(host) + 8 + 8) FROM links").Scan(&bytes); err != nil {
		return nil, fmt.Errorf("size of the links: %w", err)
	}
	kafka, err := s.Engine(ctx, "kafka", stand.Any)
	if err != nil {
		return nil, err
	}
	var grown, own measure.Series
	for i := range pick(b, 2, 1) {
		r, err := s.Service(ctx, "redirector", fmt.Sprintf("redirector-%d", i+1), stand.Any, "KAFKA_BROKERS="+kafka.Line(), "DATABASE_URL="+postgres.Line(),
			"SPILLWAY_LOAD_TIMEOUT=30s")
		if err != nil {
			return nil, err
		}
		_, before, err := measure.Resident(r.ID())
		if err != nil {
			return nil, err
		}
		if err := b.learn(ctx, r, links); err != nil {
			return nil, err
		}
		if err := stand.Pause(ctx, pick(b, 12*time.Second, 2*time.Second)); err != nil { // until nothing is held beside the cache, and the garbage is gone
			return nil, err
		}
		_, after, err := measure.Resident(r.ID())
		if err != nil {
			return nil, err
		}
		m, err := r.Metrics()
		if err != nil {
			return nil, err
		}
		b.Say("%s MB more, heap %s MB", measure.Number(float64(after-before)/1e6), measure.Number(m["go_memstats_heap_alloc_bytes"]/1e6))
		grown = append(grown, float64(after-before)/float64(links))
		own = append(own, m["go_memstats_heap_alloc_bytes"]/float64(links))
		r.Kill()
	}
	each := float64(bytes) / float64(links)
	over := func(s measure.Series) measure.Series { return s.Times(1 / each) }
	return &Table{Title: "Memory of known links", How: fmt.Sprintf("A redirector with its default settings is asked for each of %d links of one profile, then rests until nothing is held beside its cache. What it has grown by is "+
		"anonymous resident memory, by the kernel. A link's own bytes are its code, its target, and two ids of eight bytes.", links),
		Rows: []Row{
			{What: "resident memory a link, bytes", Ours: grown.String(), Peer: "its own bytes: " + measure.Number(each), Ratio: over(grown), Goal: 3},
			{What: "… Go's heap at the end", Ours: own.String(), Peer: measure.Number(each), Ratio: over(own)},
		}}, nil
}

// learn asks for every link until all have been answered and, asked again, hardly any had to be loaded.
func (b *Bench) learn(ctx context.Context, r *stand.Service, links int) error {
	const chunk = 50_000
	const loads = "spillway_redirector_directory_loads_total"
	requests := make([][]byte, 0, chunk)
	for range 5 {
		before, err := r.Metrics()
		if err != nil {
			return err
		}
		for i := range links {
			requests = append(requests, []byte("GET /l/"+stand.Code(handle, i)+" HTTP/1.1\r\nHost: x\r\nUser-Agent: Mozilla/5.0\r\n\r\n"))
			if len(requests) < chunk && i+1 < links {
				continue
			}
			answers, err := pump.Closed(ctx, pump.Options{Address: r.Listen, Requests: requests, Wanted: 302, Connections: 256, Once: true, Duration: 5 * time.Minute, Processor: -1})
			if err == nil {
				err = answers.Err()
			}
			if err != nil {
				return fmt.Errorf("ask for %d links: %w", len(requests), err)
			}
			requests = requests[:0]
		}
		after, err := r.Metrics()
		if err != nil {
			return err
		}
		loaded := after[loads] - before[loads]
		b.Say("asked for all links, %s of them were loaded", measure.Number(loaded))
		if loaded < float64(links)/100 {
			return nil
		}
	}
	return fmt.Errorf("a redirector does not keep %d links: give it more room (SPILLWAY_CACHE_BYTES)", links)
}
