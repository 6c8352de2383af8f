package versus

import (
	"context"
	"fmt"
	"strings"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
)

// setting of Go's garbage collector, as an operator makes it.
type setting struct{ gogc, limit string }

// env says both, so that nothing of this process's own environment counts.
func (s setting) env() []string { return []string{"GOGC=" + s.gogc, "GOMEMLIMIT=" + s.limit} }

func (s setting) String() string {
	switch {
	case s.limit != "":
		return "GOGC=" + s.gogc + " GOMEMLIMIT=" + s.limit
	case s.gogc != "":
		return "GOGC=" + s.gogc
	}
	return "as it comes"
}

// settings begin with none at all: what a service comes with. The last collects only at a limit, which is the program's own.
func settings(limit string) []setting {
	return []setting{{}, {gogc: "50"}, {gogc: "100"}, {gogc: "200"}, {gogc: "400"}, {gogc: "off", limit: limit}}
}

// figures are what was measured with each of the settings.
type figures []measure.Series

// against are the rows of a figure: every setting against what the service comes with.
func (f figures) against(what string, all []setting) (rows []Row) {
	for i, s := range all[1:] {
		rows = append(rows, Row{What: what + ", " + s.String(), Ours: f[i+1].String(), Peer: all[0].String() + ": " + f[0].String(), Ratio: f[i+1].Over(f[0])})
	}
	return rows
}

// collector tries settings of Go's garbage collector on the three programs whose memory or CPU somebody pays for.
func (b *Bench) collector(ctx context.Context) (*Table, error) {
	t := &Table{Title: "Settings of the garbage collector", How: "Each program as it comes, and with GOGC and GOMEMLIMIT in its environment, in turn. "}
	for _, program := range []func(context.Context, *Table) error{b.collectorOfRedirector, b.collectorOfIngest, b.collectorOfExport} {
		if err := program(ctx, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// collections is how often Go has collected in a process.
const collections = "go_gc_duration_seconds_count"

func (b *Bench) collectorOfRedirector(ctx context.Context, t *Table) error {
	all := settings("256MiB")
	links := pick(b, 1_000_000, 20_000)
	v := &visitors{bench: b}
	var err error
	if v.Stand, err = b.stand(); err != nil {
		return err
	}
	defer v.Close()
	if v.postgres, v.pool, err = v.Postgres(ctx, others); err != nil {
		return err
	}
	if _, err := stand.Links(ctx, v.pool, handle, links); err != nil {
		return err
	}
	if v.kafka, err = v.Engine(ctx, "kafka", others); err != nil {
		return err
	}
	if v.clicks, err = clicks(ctx, 10_000, 20_000); err != nil {
		return err
	}
	redirectors, learning := make([]*stand.Service, len(all)), make(figures, len(all))
	for i, s := range all {
		v.Env = s.env()
		if redirectors[i], err = v.Service(ctx, "redirector", fmt.Sprintf("redirector-%d", i+1), server, "KAFKA_BROKERS="+v.kafka.Line(), "DATABASE_URL="+v.postgres.Line(), "SPILLWAY_LOAD_TIMEOUT=30s"); err != nil {
			return err
		}
		before, err := measure.Used(redirectors[i].ID())
		if err != nil {
			return err
		}
		if err := b.learn(ctx, redirectors[i], links); err != nil {
			return err
		}
		after, err := measure.Used(redirectors[i].ID())
		if err != nil {
			return err
		}
		learning[i] = measure.Series{microseconds(after.Minus(before).Total()) / float64(links)}
	}
	if err := stand.Pause(ctx, pick(b, 12*time.Second, 2*time.Second)); err != nil { // until nothing is held beside the cache
		return err
	}
	collected := make([]float64, len(all)) // since it has learned
	for i, r := range redirectors {
		m, err := r.Metrics()
		if err != nil {
			return err
		}
		collected[i] = -m[collections]
	}
	costs, cpu, resident, wait := make([]cost, len(all)), make(figures, len(all)), make(figures, len(all)), make(figures, len(all))
	busy := pump.Options{Requests: v.clicks, Wanted: 302, Duration: pick(b, 3*time.Second, 500*time.Millisecond), Processor: others}
	calm := busy
	calm.Rate, calm.Duration = 20_000, pick(b, 2*time.Second, 500*time.Millisecond)
	for i := range pick(b, 7, 1) {
		for turn := range all {
			who := (i + turn) % len(all)
			r := redirectors[who]
			_, own, err := measure.Resident(r.ID())
			if err != nil {
				return err
			}
			resident[who] = append(resident[who], float64(own)/1e6)
			busy.Address, calm.Address, calm.Seed = r.Listen, r.Listen, uint64(i)
			if err := costs[who].round(ctx, r.ID(), busy, func() error { return shipped(ctx, r) }); err != nil {
				return err
			}
			answers, err := pump.Open(ctx, calm)
			if err == nil {
				err = answers.Err()
			}
			if err != nil {
				return err
			}
			wait[who] = append(wait[who], float64(answers.Waits.ValueAtQuantile(99))/1000)
		}
		b.Say("redirector, round %d: as it comes %s µs, %s %s µs", i+1, measure.Number(costs[0].cpu[i]), all[1], measure.Number(costs[1].cpu[i]))
	}
	var often []string
	for i, r := range redirectors {
		m, err := r.Metrics()
		if err != nil {
			return err
		}
		cpu[i] = costs[i].cpu
		often = append(often, fmt.Sprintf("%s %.0f", all[i], collected[i]+m[collections]))
	}
	t.How += fmt.Sprintf("A redirector on one processor learns %d links, rests, and is then kept busy, and asked 20 000 times a second (open loop). ", links)
	t.Rows = append(t.Rows, resident.against("redirector, resident memory, MB", all)...)
	t.Rows = append(t.Rows, learning.against("redirector, CPU a link learned, µs", all)...)
	t.Rows = append(t.Rows, cpu.against("redirector, CPU a request, µs", all)...)
	t.Rows = append(t.Rows, wait.against("redirector, p99 at 20 000/s, µs", all)...)
	t.Notes = append(t.Notes, "How often a redirector that has learned collected in all rounds together: "+strings.Join(often, ", ")+". Unless it is off, Go collects once in two minutes at least.")
	return nil
}

func (b *Bench) collectorOfIngest(ctx context.Context, t *Table) error {
	all := settings("512MiB")
	w, err := b.warehouse(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	n := pick(b, 1_500_000, 60_000)
	events, err := history(ctx, 10_000, n)
	if err != nil {
		return err
	}
	if err := produce(ctx, w.kafka.Line(), stand.Topic, events); err != nil {
		return err
	}
	if err := w.begin(ctx); err != nil {
		return err
	}
	found, peaks := make([]brought, len(all)), make(figures, len(all))
	for i := range pick(b, 5, 1) {
		for turn := range all {
			who := (i + turn) % len(all)
			w.Env = all[who].env()
			peak := make(chan int64, 1)
			if err := w.byIngest(ctx, stand.Topic, n, &found[who], func(s *stand.Service) {
				var most int64
				for {
					now, err := mostResident(s.ID())
					if err != nil {
						break // it has ended
					}
					most = now
					time.Sleep(20 * time.Millisecond)
				}
				peak <- most
			}); err != nil {
				return err
			}
			peaks[who] = append(peaks[who], float64(<-peak)/1e6)
		}
		said := ""
		for who, s := range all {
			said += fmt.Sprintf(", %s %s µs and %s MB", s, measure.Number(found[who].own[i]), measure.Number(peaks[who][i]))
		}
		b.Say("ingest, round %d: %s", i+1, said[2:])
	}
	cpu, rate := make(figures, len(all)), make(figures, len(all))
	for i := range found {
		cpu[i], rate[i] = found[i].own, found[i].rate
	}
	t.How += fmt.Sprintf("Ingest brings %d events that wait in Kafka. ", n)
	t.Rows = append(t.Rows, cpu.against("ingest, CPU an event, µs", all)...)
	t.Rows = append(t.Rows, rate.against("ingest, events/s", all)...)
	t.Rows = append(t.Rows, peaks.against("ingest, peak memory, MB", all)...)
	return nil
}

func (b *Bench) collectorOfExport(ctx context.Context, t *Table) error {
	all := settings("256MiB")
	s, err := b.stand()
	if err != nil {
		return err
	}
	defer s.Close()
	engine, err := s.Engine(ctx, "clickhouse", stand.Any)
	if err != nil {
		return err
	}
	table, err := stand.NewColumns(ctx, engine.Line(), "spillway")
	if err != nil {
		return err
	}
	rows := pick(b, 1_000_000, 100_000)
	if err := fillBusy(ctx, table, rows); err != nil {
		return err
	}
	if err := table.Do(ctx, "OPTIMIZE TABLE "+table.Database()+".events FINAL"); err != nil {
		return err
	}
	cpu, peaks := make(figures, len(all)), make(figures, len(all))
	for i := range pick(b, 5, 1) {
		for turn := range all {
			who := (i + turn) % len(all)
			p, err := b.published(ctx, s, table, rows, all[who].env()...)
			if err != nil {
				return err
			}
			cpu[who], peaks[who] = append(cpu[who], microseconds(p.cpu)/float64(rows)), append(peaks[who], float64(p.peak)/1e6)
		}
		b.Say("export, round %d: as it comes %s µs and %s MB", i+1, measure.Number(cpu[0][i]), measure.Number(peaks[0][i]))
	}
	t.How += fmt.Sprintf("The exporter writes %d events as Parquet.", rows)
	t.Rows = append(t.Rows, cpu.against("export, CPU an event, µs", all)...)
	t.Rows = append(t.Rows, peaks.against("export, peak memory, MB", all)...)
	return nil
}
