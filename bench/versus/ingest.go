package versus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/peer"
	"spillway.dev/bench/process"
	"spillway.dev/bench/stand"
)

// warehouse is a broker with events and a ClickHouse to bring them to.
type warehouse struct {
	*stand.Stand
	*stand.Columns
	kafka, engine *process.Process
	round         int
	beginning     measure.CPU // of an ingest, until it is ready to take events in: what it takes once and not for each of them
}

func (b *Bench) warehouse(ctx context.Context) (_ *warehouse, err error) {
	w := &warehouse{}
	if w.Stand, err = b.stand(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.kafka, err = w.Engine(ctx, "kafka", stand.Any, "--topic", stand.Topic); err != nil {
		return nil, err
	}
	if w.engine, err = w.Engine(ctx, "clickhouse", stand.Any); err != nil {
		return nil, err
	}
	w.Columns, err = stand.NewColumns(ctx, w.engine.Line(), "spillway")
	return w, err
}

// brought is what bringing events into the table took.
type brought struct {
	cpu    measure.Series // µs an event: ClickHouse, until its merges have ended, and who fed it
	own    measure.Series // µs an event: who fed it alone
	merges measure.Series // µs an event: what of cpu are ClickHouse's threads for merges
	broker measure.Series // µs an event: Kafka's, which is not in cpu
	rate   measure.Series // events a second
	rows   measure.Series // of a part, as inserted
}

// renew starts the engine anew with empty tables, so that no round finds what another left, in the table or in the engine's memory.
func (w *warehouse) renew(ctx context.Context) error {
	w.engine.Kill()
	if err := os.RemoveAll(w.EngineDir("clickhouse")); err != nil {
		return fmt.Errorf("empty ClickHouse: %w", err)
	}
	if err := w.engine.Again(ctx, nil); err != nil {
		return err
	}
	var err error
	if w.Columns, err = stand.NewColumns(ctx, w.engine.Line(), "spillway"); err != nil {
		return err
	}
	return own(ctx, w.Columns)
}

// bring starts something that feeds the table and waits until n events are there and the merges have ended. start returns when it began to
// work; feeder tells the CPU of its process, nil if it has none.
func (w *warehouse) bring(ctx context.Context, n int, into *brought, start func() (began time.Time, err error), feeder func() (measure.CPU, error)) error {
	if err := w.renew(ctx); err != nil {
		return err
	}
	engine, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	broker, err := measure.Used(w.kafka.ID())
	if err != nil {
		return err
	}
	merges, err := threads(w.engine.ID(), mergers)
	if err != nil {
		return err
	}
	began, err := start()
	if err != nil {
		return err
	}
	var seen float64
	question := "SELECT count() FROM " + w.Database() + ".events"
	// Asking costs the engine something too, so it is not asked often.
	if err := stand.Until(ctx, fmt.Sprintf("wait for %d events", n), 3*time.Minute, 100*time.Millisecond, func() (bool, error) {
		seen, err = w.Number(ctx, question)
		return seen >= float64(n), err
	}); err != nil {
		return fmt.Errorf("%w (%v are there)", err, seen)
	}
	took := time.Since(began)
	if seen > float64(n) {
		return fmt.Errorf("%v events are there instead of %d", seen, n)
	}
	var fed measure.CPU
	if feeder != nil {
		if fed, err = feeder(); err != nil {
			return err
		}
		fed = fed.Minus(w.beginning)
	}
	if err := w.quiet(ctx); err != nil {
		return err
	}
	usedByEngine, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	usedByBroker, err := measure.Used(w.kafka.ID())
	if err != nil {
		return err
	}
	merged, err := threads(w.engine.ID(), mergers)
	if err != nil {
		return err
	}
	inserts, err := w.Number(ctx, "SELECT sum(value) FROM system.events WHERE event = 'MergeTreeDataWriterBlocks'")
	if err != nil {
		return err
	}
	each := func(c measure.CPU) float64 { return microseconds(c.Total()) / float64(n) }
	into.cpu = append(into.cpu, each(usedByEngine.Minus(engine).Plus(fed)))
	into.own = append(into.own, each(fed))
	into.merges = append(into.merges, each(merged.Minus(merges)))
	into.broker = append(into.broker, each(usedByBroker.Minus(broker)))
	into.rate = append(into.rate, float64(n)/took.Seconds())
	into.rows = append(into.rows, float64(n)/max(inserts, 1))
	return nil
}

// mergers is what ClickHouse calls its threads for merges.
const mergers = "MergeMutate"

// quiet waits until no merge has been seen for half a second: who inserts much at a time, or little, makes ClickHouse merge less or more.
func (w *warehouse) quiet(ctx context.Context) error {
	still := 0
	return stand.Until(ctx, "wait for merges", 3*time.Minute, 100*time.Millisecond, func() (bool, error) {
		running, err := w.Number(ctx, "SELECT count() FROM system.merges")
		if still++; running > 0 {
			still = 0
		}
		return still > 5, err
	})
}

// threads returns the CPU that the threads of that name, of a process and of its descendants, have used.
func threads(id int, name string) (measure.CPU, error) {
	const tick = 10 * time.Millisecond
	var sum measure.CPU
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", id))
	if err != nil {
		return sum, err
	}
	for _, task := range tasks {
		children, _ := os.ReadFile(filepath.Join(task, "children")) // a thread may have ended since, here and below
		for child := range strings.FieldsSeq(string(children)) {
			if id, err := strconv.Atoi(child); err == nil {
				of, err := threads(id, name)
				if err != nil {
					return sum, err
				}
				sum = sum.Plus(of)
			}
		}
		stat, _ := os.ReadFile(filepath.Join(task, "stat"))
		called, rest, ok := strings.Cut(string(stat), ") ")
		if !ok || !strings.HasSuffix(called, "("+name) {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			continue
		}
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		sum = sum.Plus(measure.CPU{User: time.Duration(user) * tick, System: time.Duration(system) * tick})
	}
	return sum, nil
}

// byIngest brings a topic's events with a new ingest. Its clock begins when the partitions are taken. meanwhile, if not nil, is done
// beside it.
func (w *warehouse) byIngest(ctx context.Context, topic string, n int, into *brought, meanwhile func(*stand.Service)) error {
	w.round++
	name := fmt.Sprintf("ingest-%d", w.round)
	var ingest *stand.Service
	err := w.bring(ctx, n, into, func() (time.Time, error) {
		var err error
		ingest, err = w.Service(ctx, "ingest", name, stand.Any, "KAFKA_BROKERS="+w.kafka.Line(), "CLICKHOUSE_URL="+w.Columns.URL,
			"SPILLWAY_TOPIC="+topic, "SPILLWAY_INGEST_GROUP="+name)
		if err != nil {
			return time.Time{}, err
		}
		if meanwhile != nil {
			go meanwhile(ingest)
		}
		err = stand.Until(ctx, "wait for ingest to take the partitions", time.Minute, 10*time.Millisecond, func() (bool, error) {
			taken, err := w.Number(ctx, fmt.Sprintf("SELECT countIf(term != %d) FROM %s.terms", term, w.Database()))
			return taken >= partitions, err
		})
		return time.Now(), err
	}, func() (measure.CPU, error) { return measure.Used(ingest.ID()) })
	if ingest != nil {
		ingest.Kill()
	}
	return err
}

// begin measures what it takes to begin: an ingest of a topic without events, until a second after it is ready.
func (w *warehouse) begin(ctx context.Context) error {
	const nothing = "nothing"
	if err := produce(ctx, w.kafka.Line(), nothing, nil); err != nil {
		return err
	}
	ingest, err := w.Service(ctx, "ingest", "ingest-nothing", stand.Any, "KAFKA_BROKERS="+w.kafka.Line(), "CLICKHOUSE_URL="+w.Columns.URL,
		"SPILLWAY_TOPIC="+nothing, "SPILLWAY_INGEST_GROUP="+nothing)
	if err != nil {
		return err
	}
	defer ingest.Kill()
	if err := stand.Pause(ctx, time.Second); err != nil {
		return err
	}
	w.beginning, err = measure.Used(ingest.ID())
	return err
}

// byEngine brings a topic's rows with ClickHouse's Kafka engine. Its clock begins when it is made.
func (w *warehouse) byEngine(ctx context.Context, k peer.KafkaEngine, n int, into *brought) error {
	w.round++
	k.Brokers, k.Group = w.kafka.Line(), fmt.Sprintf("engine-%d", w.round)
	return w.bring(ctx, n, into, func() (time.Time, error) {
		began := time.Now()
		return began, k.Start(ctx, w.Columns)
	}, nil)
}

// byBlocks inserts blocks that are ready, as many connections at a time as there are partitions.
func (w *warehouse) byBlocks(ctx context.Context, ready []batch, n int, into *brought) error {
	return w.bring(ctx, n, into, func() (time.Time, error) {
		began := time.Now()
		return began, w.insert(ctx, ready)
	}, nil)
}

func (w *warehouse) insert(ctx context.Context, ready []batch) error {
	var wait sync.WaitGroup
	failed := make([]error, partitions)
	statement := insertStatement(w.Database())
	for p := range partitions {
		wait.Go(func() {
			for _, b := range ready {
				if int(b.partition) == p && failed[p] == nil {
					_, failed[p] = w.Ask(ctx, statement, b.value, "async_insert=0")
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(failed...)
}

// form is one way in which ClickHouse's Kafka engine can be given its rows.
type form struct {
	format string
	single bool // one event a message, which is what others than Spillway would write; else as many as a record of ours
	events int  // what costs much is shown by fewer events
	brought
}

func (f *form) String() string {
	if f.single {
		return f.format + ", one event a message"
	}
	return f.format
}

func (f *form) topic() string {
	return strings.ReplaceAll("peer."+f.String(), ", one event a message", ".single")
}

func (b *Bench) ingest(ctx context.Context) (*Table, error) {
	w, err := b.warehouse(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	n := pick(b, 3_000_000, 60_000)
	all, err := history(ctx, 10_000, n)
	if err != nil {
		return nil, err
	}
	if err := produce(ctx, w.kafka.Line(), stand.Topic, all); err != nil {
		return nil, err
	}
	ready, err := blocks(all, rowsOfBlock)
	if err != nil {
		return nil, err
	}
	b.Say("%d events in %d records", n, len(all))
	forms, err := w.forms(ctx, b, all, ready, n)
	if err != nil {
		return nil, err
	}
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	// One round of every format, to see which costs least; the cheapest of each kind then takes turns with ingest.
	var several, single *form
	for _, f := range forms {
		engine := peer.KafkaEngine{Consumers: 2, Format: f.format, Topic: f.topic()}
		if err := w.byEngine(ctx, engine, f.events, &f.brought); err != nil {
			return nil, fmt.Errorf("ClickHouse's Kafka engine, %s: %w", f, err)
		}
		b.Say("Kafka engine, %s: %s µs an event, %s/s, parts of %s rows", f, f.cpu, f.rate, f.rows)
		best := &several
		if f.single {
			best = &single
		}
		if *best == nil || f.cpu[0] < (*best).cpu[0] {
			*best = f
		}
	}
	var ours, ceiling brought
	for i := range pick(b, 5, 1) {
		if err := w.byIngest(ctx, stand.Topic, n, &ours, nil); err != nil {
			return nil, err
		}
		for _, f := range []*form{several, single} {
			if i == 0 {
				continue // has been measured above
			}
			if err := w.byEngine(ctx, peer.KafkaEngine{Consumers: 2, Format: f.format, Topic: f.topic()}, f.events, &f.brought); err != nil {
				return nil, err
			}
		}
		if err := w.byBlocks(ctx, ready, n, &ceiling); err != nil {
			return nil, err
		}
		b.Say("round %d: ingest %s µs (%s its own) and %s/s, Kafka engine %s µs and %s/s, blocks %s µs and %s/s", i+1, measure.Number(ours.cpu[i]), measure.Number(ours.own[i]),
			measure.Number(ours.rate[i]), measure.Number(several.cpu[i]), measure.Number(several.rate[i]), measure.Number(ceiling.cpu[i]), measure.Number(ceiling.rate[i]))
	}
	if b.Profiles != "" {
		var profiled brought // which is no part of what is measured
		failed := make(chan error, 1)
		if err := w.byIngest(ctx, stand.Topic, n, &profiled, func(s *stand.Service) {
			failed <- b.profile(ctx, "ingest", s, time.Second, func() error { return nil })
		}); err != nil {
			return nil, err
		}
		if err := <-failed; err != nil {
			return nil, err
		}
	}
	return ingestTable(w, n, len(all), forms, several, single, &ours, &ceiling), nil
}

// rowsOfBlock is how many rows a block that is ready has: as many as ingest inserts at a time when it is behind.
const rowsOfBlock = 400_000

// forms writes the very rows that ingest makes of the events, enriched already, into topics for ClickHouse's Kafka engine.
func (w *warehouse) forms(ctx context.Context, b *Bench, all, ready []batch, n int) ([]*form, error) {
	if err := own(ctx, w.Columns); err != nil {
		return nil, err
	}
	if err := w.insert(ctx, ready); err != nil {
		return nil, err
	}
	few, fewest := pick(b, 200_000, 30_000), pick(b, 40_000, 10_000)
	forms := []*form{{format: "Native", events: n}, {format: "RowBinary", events: few}, {format: "JSONEachRow", events: few}, {format: "JSONEachRow", single: true, events: fewest},
		{format: "RowBinary", single: true, events: fewest}}
	for _, f := range forms {
		var rows []batch
		var err error
		switch {
		case f.format == "Native":
			rows, err = blocks(all, 1)
		case f.single:
			rows, err = w.rowsOf(ctx, singles(all, f.events), f.format)
		default:
			rows, err = w.rowsOf(ctx, some(all, f.events), f.format)
		}
		if err != nil {
			return nil, err
		}
		f.events = 0
		for _, r := range rows {
			f.events += r.count
		}
		if err := produce(ctx, w.kafka.Line(), f.topic(), rows); err != nil {
			return nil, err
		}
	}
	return forms, nil
}

// some returns the first batches, of at least so many events.
func some(all []batch, events int) []batch {
	for i, b := range all {
		if events -= b.count; events <= 0 {
			return all[:i+1]
		}
	}
	return all
}

// singles returns a batch for each event of the first batches.
func singles(all []batch, events int) []batch {
	var made []batch
	for _, b := range some(all, events) {
		for i := range b.count {
			made = append(made, batch{partition: b.partition, first: b.first + uint64(i), count: 1})
		}
	}
	return made
}

// ingestTable says what was found.
func ingestTable(w *warehouse, n, records int, forms []*form, several, single *form, ours, ceiling *brought) *Table {
	var others []string
	for _, f := range forms {
		if f != several && f != single {
			others = append(others, fmt.Sprintf("%s %s µs", f, measure.Number(f.cpu[0])))
		}
	}
	median := func(s measure.Series) string { return measure.Number(s.Median()) }
	peers := "Kafka engine, " + several.String() + ": "
	singly := "Kafka engine, " + single.String() + ": "
	inserting := ceiling.cpu.Median() - ceiling.merges.Median() // what comes before the last row is there
	most := inserting / (inserting + ours.own.Median() + ours.broker.Median())
	return &Table{Title: "Kafka to ClickHouse", How: fmt.Sprintf("%d events in records of 64 KiB, snappy, over 4 partitions, into the same table, empty in an engine just started, with "+
		"its projections and its fence. ClickHouse's Kafka engine (2 consumers, a thread each) gets the finished rows: Native is columns already, some %d rows a message, made by a producer that does half of ingest's "+
		"work; of one event a message the cheapest of two formats is shown. Ingest decodes, enriches and skips what is there. CPU is of ClickHouse until its merges have ended and, on our side, of the ingest process, without the %d ms "+
		"that it takes to begin; the broker's is left out on both sides. Events a second are counted from when the partitions are taken, or the engine's table is made, or the first block is sent, until the last row is there.",
		n, n/records, w.beginning.Total().Milliseconds()),
		Rows: []Row{
			{What: "CPU an event of everything, µs", Ours: ours.cpu.String(), Peer: peers + several.cpu.String(), Ratio: ours.cpu.Over(several.cpu), Goal: 0.5},
			{What: "CPU an event of ingest alone, µs", Ours: ours.own.String(), Peer: peers + several.cpu.String(), Ratio: ours.own.Over(several.cpu), Goal: 0.1},
			{What: "CPU an event of everything, µs", Ours: ours.cpu.String(), Peer: singly + single.cpu.String(), Ratio: ours.cpu.Over(single.cpu), Goal: 0.5},
			{What: "CPU an event of ingest alone, µs", Ours: ours.own.String(), Peer: singly + single.cpu.String(), Ratio: ours.own.Over(single.cpu), Goal: 0.1},
			{What: "events/s", Ours: ours.rate.String(), Peer: peers + several.rate.String(), Ratio: ours.rate.Over(several.rate)},
			{What: "events/s against ready-made blocks", Ours: ours.rate.String(), Peer: fmt.Sprintf("Native blocks of up to %d rows, 4 connections: %s", rowsOfBlock, ceiling.rate), Ratio: ours.rate.Over(ceiling.rate), Goal: -0.8},
		},
		Notes: []string{"The engine's other formats: " + strings.Join(others, ", ") + ".",
			fmt.Sprintf("Rows of a part as inserted: ingest %s, Kafka engine %s, blocks %s. The engine shows nothing until it has gathered so many.", median(ours.rows), median(several.rows), median(ceiling.rows)),
			fmt.Sprintf("The floor: inserting ready-made blocks alone takes %s µs of ClickHouse an event (columns, constraint, three projections, gateway, and %s of it merges), %s × the Kafka engine's: below that nobody gets. Of ingest's %s µs, "+
				"%s are its own process and %s ClickHouse's (%s of it merges).", median(ceiling.cpu), median(ceiling.merges), measure.Number(ceiling.cpu.Over(several.cpu).Median()), median(ours.cpu), median(ours.own),
				measure.Number(ours.cpu.Median()-ours.own.Median()), median(ours.merges)),
			fmt.Sprintf("Ready-made blocks have the whole machine; from Kafka to the table it also carries the broker (%s µs an event) and ingest. With both processors busy all the time, and merges left for later, that leaves %s × of the blocks' rate at most.",
				median(ours.broker), measure.Number(most))}}
}

// viralIngest brings the same number of events of one link, and of many.
func (b *Bench) viralIngest(ctx context.Context) (Row, error) {
	w, err := b.warehouse(ctx)
	if err != nil {
		return Row{}, err
	}
	defer w.Close()
	n := pick(b, 1_000_000, 60_000)
	var figures [2]brought
	topics := [2]string{"one", "many"}
	for i, links := range []int{1, 10_000} {
		all, err := history(ctx, links, n)
		if err != nil {
			return Row{}, err
		}
		if err := produce(ctx, w.kafka.Line(), topics[i], all); err != nil {
			return Row{}, err
		}
	}
	for i := range pick(b, 5, 1) {
		for turn := range 2 {
			who := (i + turn) % 2
			if err := w.byIngest(ctx, topics[who], n, &figures[who], nil); err != nil {
				return Row{}, err
			}
		}
		b.Say("round %d: ingest %s/s one link, %s/s many", i+1, measure.Number(figures[0].rate[i]), measure.Number(figures[1].rate[i]))
	}
	return Row{What: "ingest, events/s", Ours: figures[0].rate.String(), Peer: "10 000 links: " + figures[1].rate.String(), Ratio: figures[0].rate.Over(figures[1].rate), Goal: -0.95}, nil
}
