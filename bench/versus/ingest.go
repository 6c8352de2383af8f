package versus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
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
	cpu  measure.Series // µs an event: ClickHouse and who fed it
	own  measure.Series // µs an event: who fed it alone
	rate measure.Series // events a second, from the first that are there to the last
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

// bring starts something that feeds the table and waits until n events are there. feeder is the id of its process, or 0.
func (w *warehouse) bring(ctx context.Context, n int, into *brought, start func() (feeder int, err error)) error {
	if err := w.renew(ctx); err != nil {
		return err
	}
	engine, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	feeder, err := start()
	if err != nil {
		return err
	}
	started := time.Now()
	var begun time.Time // of the first events
	var first, seen float64
	question := "SELECT count() FROM " + w.Database() + ".events"
	if err := stand.Until(ctx, fmt.Sprintf("wait for %d events", n), 3*time.Minute, 5*time.Millisecond, func() (bool, error) {
		seen, err = w.Number(ctx, question)
		if seen > 0 && begun.IsZero() {
			begun, first = time.Now(), seen
		}
		return seen >= float64(n), err
	}); err != nil {
		return fmt.Errorf("%w (%v are there)", err, seen)
	}
	if first == float64(n) { // so few that one look found them all: what it took to begin counts too
		begun, first = started, 0
	}
	took := time.Since(begun)
	if seen > float64(n) {
		return fmt.Errorf("%v events are there instead of %d", seen, n)
	}
	now, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	used, fed := now.Minus(engine), measure.CPU{}
	if feeder != 0 {
		if fed, err = measure.Used(feeder); err != nil {
			return err
		}
		fed = fed.Minus(w.beginning)
	}
	into.cpu = append(into.cpu, microseconds(used.Plus(fed).Total())/float64(n))
	into.own = append(into.own, microseconds(fed.Total())/float64(n))
	into.rate = append(into.rate, (float64(n)-first)/took.Seconds())
	return nil
}

// byIngest brings a topic's events with a new ingest.
func (w *warehouse) byIngest(ctx context.Context, topic string, n int, into *brought, env ...string) error {
	w.round++
	name := fmt.Sprintf("ingest-%d", w.round)
	var ingest *stand.Service
	err := w.bring(ctx, n, into, func() (int, error) {
		var err error
		ingest, err = w.Service(ctx, "ingest", name, stand.Any, append([]string{"KAFKA_BROKERS=" + w.kafka.Line(), "CLICKHOUSE_URL=" + w.Columns.URL,
			"SPILLWAY_TOPIC=" + topic, "SPILLWAY_INGEST_GROUP=" + name}, env...)...)
		if err != nil {
			return 0, err
		}
		return ingest.ID(), nil
	})
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

// byEngine brings a topic's rows with ClickHouse's Kafka engine.
func (w *warehouse) byEngine(ctx context.Context, k peer.KafkaEngine, n int, into *brought) error {
	w.round++
	k.Brokers, k.Group = w.kafka.Line(), fmt.Sprintf("engine-%d", w.round)
	return w.bring(ctx, n, into, func() (int, error) { return 0, k.Start(ctx, w.Columns) })
}

// byBlocks inserts blocks that are ready, as many connections at a time as there are partitions.
func (w *warehouse) byBlocks(ctx context.Context, ready []batch, n int, into *brought) error {
	if err := w.renew(ctx); err != nil {
		return err
	}
	before, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	began := time.Now()
	if err := w.insert(ctx, ready); err != nil {
		return err
	}
	took := time.Since(began)
	now, err := measure.Used(w.engine.ID())
	if err != nil {
		return err
	}
	there, err := w.Number(ctx, "SELECT count() FROM "+w.Database()+".events")
	if err != nil || there != float64(n) {
		return errors.Join(fmt.Errorf("%v events are there instead of %d", there, n), err)
	}
	into.cpu = append(into.cpu, microseconds(now.Minus(before).Total())/float64(n))
	into.rate = append(into.rate, float64(n)/took.Seconds())
	return nil
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

// rowsOf returns the rows that are in the table, in a format of which a message can hold several, RowBinary or JSONEachRow, cut as the
// batches were.
func (w *warehouse) rowsOf(ctx context.Context, all []batch, format string) ([]batch, error) {
	widths, err := w.widths(ctx)
	if err != nil {
		return nil, err
	}
	var made []batch
	for p := range int32(partitions) {
		answer, err := w.Ask(ctx, fmt.Sprintf("SELECT * FROM %s.events WHERE partition = %d ORDER BY sequence FORMAT %s", w.Database(), p, format), nil)
		if err != nil {
			return nil, err
		}
		for _, b := range all {
			if b.partition != p {
				continue
			}
			end := 0
			for range b.count {
				n := 0
				if format == "RowBinary" {
					n = rowBinary(answer[end:], widths)
				} else {
					n = bytes.IndexByte(answer[end:], '\n') + 1
				}
				if n <= 0 {
					return nil, fmt.Errorf("rows of partition %d in format %s end too soon", p, format)
				}
				end += n
			}
			made = append(made, batch{partition: p, count: b.count, value: answer[:end:end]})
			answer = answer[end:]
		}
		if len(answer) > 0 {
			return nil, fmt.Errorf("rows of partition %d in format %s do not end", p, format)
		}
	}
	return made, nil
}

// widths returns how many bytes a value of each column takes in RowBinary; 0: it is a string, its length before it.
func (w *warehouse) widths(ctx context.Context) ([]int, error) {
	types, err := w.Ask(ctx, "SELECT type FROM system.columns WHERE database = '"+w.Database()+"' AND table = 'events' ORDER BY position FORMAT TSVRaw", nil)
	if err != nil {
		return nil, err
	}
	var widths []int
	for line := range strings.Lines(string(types)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "(")
		width, known := map[string]int{"UInt64": 8, "UInt32": 4, "DateTime64": 8, "Date": 2, "Enum8": 1, "Bool": 1, "String": 0, "LowCardinality": 0}[name]
		if !known {
			return nil, fmt.Errorf("column of type %s: say here how wide it is", name)
		}
		widths = append(widths, width)
	}
	return widths, nil
}

// rowBinary returns the length of the row at the beginning; 0 if it is not whole.
func rowBinary(rows []byte, widths []int) int {
	at := 0
	for _, width := range widths {
		if width == 0 {
			length, n := binary.Uvarint(rows[at:])
			if n <= 0 {
				return 0
			}
			width = n + int(length)
		}
		if at += width; at > len(rows) {
			return 0
		}
	}
	return at
}

func (b *Bench) ingest(ctx context.Context) (*Table, error) {
	w, err := b.warehouse(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	n := pick(b, 1_500_000, 60_000)
	all, err := history(ctx, 10_000, n)
	if err != nil {
		return nil, err
	}
	if err := produce(ctx, w.kafka.Line(), stand.Topic, all); err != nil {
		return nil, err
	}
	ready, err := blocks(all, 100_000)
	if err != nil {
		return nil, err
	}
	b.Say("%d events in %d records", n, len(all))
	// The peer gets the very rows that ingest makes of the events, enriched already, in each format; the fastest is what counts.
	if err := own(ctx, w.Columns); err != nil {
		return nil, err
	}
	if err := w.insert(ctx, ready); err != nil {
		return nil, err
	}
	formats := map[string]*brought{"Native": {}, "RowBinary": {}, "JSONEachRow": {}}
	for format := range formats {
		var rows []batch
		if format == "Native" {
			rows, err = blocks(all, 1)
		} else {
			rows, err = w.rowsOf(ctx, all, format)
		}
		if err != nil {
			return nil, err
		}
		if err := produce(ctx, w.kafka.Line(), "peer."+format, rows); err != nil {
			return nil, err
		}
	}
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	engine := peer.KafkaEngine{Consumers: 2}
	best := ""
	for format, figures := range formats {
		engine.Format, engine.Topic = format, "peer."+format
		if err := w.byEngine(ctx, engine, n, figures); err != nil {
			return nil, fmt.Errorf("ClickHouse's Kafka engine, %s: %w", format, err)
		}
		b.Say("Kafka engine, %s: %s µs an event, %s/s", format, figures.cpu, figures.rate)
		if best == "" || figures.cpu[0] < formats[best].cpu[0] {
			best = format
		}
	}
	engine.Format, engine.Topic = best, "peer."+best
	theirs := formats[best]
	var ours, ceiling brought
	for i := range pick(b, 5, 1) {
		if err := w.byIngest(ctx, stand.Topic, n, &ours); err != nil {
			return nil, err
		}
		if i > 0 {
			if err := w.byEngine(ctx, engine, n, theirs); err != nil {
				return nil, err
			}
		}
		if err := w.byBlocks(ctx, ready, n, &ceiling); err != nil {
			return nil, err
		}
		b.Say("round %d: ingest %s µs and %s/s, Kafka engine %s µs and %s/s, blocks %s µs and %s/s", i+1, measure.Number(ours.cpu[i]), measure.Number(ours.rate[i]),
			measure.Number(theirs.cpu[i]), measure.Number(theirs.rate[i]), measure.Number(ceiling.cpu[i]), measure.Number(ceiling.rate[i]))
	}
	var others []string
	for format, f := range formats {
		if format != best {
			others = append(others, fmt.Sprintf("%s %s µs", format, measure.Number(f.cpu[0])))
		}
	}
	name := "Kafka engine, " + best + ": "
	return &Table{Title: "Kafka to ClickHouse", How: fmt.Sprintf("%d events in records of 64 KiB, lz4, over 4 partitions, from the first record to the last row in the same table, empty in an engine just started, with "+
		"its projections and its fence. ClickHouse's Kafka engine (2 consumers, a thread each) gets the finished rows in each of three formats; the one that costs least is shown. Ingest "+
		"decodes, enriches and skips what is there. CPU is of ClickHouse and, on our side, of the ingest process, without the %d ms that it takes to begin; the broker's is left out on both sides.",
		n, w.beginning.Total().Milliseconds()),
		Rows: []Row{
			{What: "CPU an event of everything, µs", Ours: ours.cpu.String(), Peer: name + theirs.cpu.String(), Ratio: ours.cpu.Over(theirs.cpu), Goal: 0.5},
			{What: "CPU an event of ingest alone, µs", Ours: ours.own.String(), Peer: name + theirs.cpu.String(), Ratio: ours.own.Over(theirs.cpu), Goal: 0.1},
			{What: "events/s", Ours: ours.rate.String(), Peer: name + theirs.rate.String(), Ratio: ours.rate.Over(theirs.rate)},
			{What: "events/s against ready-made blocks", Ours: ours.rate.String(), Peer: "Native blocks of 100 000 rows, 4 connections: " + ceiling.rate.String(), Ratio: ours.rate.Over(ceiling.rate), Goal: -0.8},
		},
		Notes: []string{"The engine's other formats: " + strings.Join(others, ", ") + ".",
			fmt.Sprintf("Inserting ready-made blocks alone takes %s µs of ClickHouse an event (columns, constraint, three projections, gateway): below that nobody gets.", ceiling.cpu)}}, nil
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
			if err := w.byIngest(ctx, topics[who], n, &figures[who]); err != nil {
				return Row{}, err
			}
		}
		b.Say("round %d: ingest %s/s one link, %s/s many", i+1, measure.Number(figures[0].rate[i]), measure.Number(figures[1].rate[i]))
	}
	return Row{What: "ingest, events/s", Ours: figures[0].rate.String(), Peer: "10 000 links: " + figures[1].rate.String(), Ratio: figures[0].rate.Over(figures[1].rate), Goal: -0.95}, nil
}
