package versus

import (
	"context"
	"fmt"
	"time"

	"spillway.dev/bench/measure"
	"spillway.dev/bench/stand"
	"spillway.dev/schemas/event"
)

// take kills an ingest and starts another, round after round, on a small table and on a large one.
func (b *Bench) take(ctx context.Context) (*Table, error) {
	w, err := b.warehouse(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	large := pick(b, 4_000_000, 400_000)
	var tables [2]*stand.Columns
	for i, rows := range []int{large / 100, large} {
		if tables[i], err = stand.NewColumns(ctx, w.engine.Line(), []string{"small", "large"}[i]); err != nil {
			return nil, err
		}
		if err := fillStreams(ctx, tables[i], rows); err != nil {
			return nil, err
		}
	}
	var takes, inserts [2]measure.Series
	for i := range pick(b, 9, 3) {
		// What is waiting when the partition is taken: one view in each partition.
		if err := produce(ctx, w.kafka.Line(), stand.Topic, oneEach(uint64(i+1))); err != nil {
			return nil, err
		}
		for turn := range 2 {
			who := (i + turn) % 2
			took, inserted, err := w.taken(ctx, tables[who], i+1)
			if err != nil {
				return nil, err
			}
			takes[who], inserts[who] = append(takes[who], took), append(inserts[who], inserted)
		}
		b.Say("round %d: %s ms the large table, %s ms the small one", i+1, measure.Number(takes[1][i]), measure.Number(takes[0][i]))
	}
	both := [2]measure.Series{}
	for who := range both {
		for i := range takes[who] {
			both[who] = append(both[who], takes[who][i]+inserts[who][i])
		}
	}
	return &Table{Title: "Taking a partition after a crash", How: fmt.Sprintf("kill -9 of ingest, then another one, on a table of %d events of %d streams and on one of a hundredth of both. Four partitions "+
		"at once; the mean of the four counts. Taking is: a new term, waiting for running inserts, reading what is there, beginning to read Kafka.", large, large/eventsOfStream),
		Rows: []Row{
			{What: "from assignment to the first insert, ms", Ours: both[1].String(), Peer: "a hundredth: " + both[0].String(), Ratio: both[1].Over(both[0]), Goal: 1.5},
			{What: "… of which taking", Ours: takes[1].String(), Peer: takes[0].String(), Ratio: takes[1].Over(takes[0])},
		}}, nil
}

// eventsOfStream is how many events each stream of the filled tables has: a redirector that runs for a while has more, and the more it
// has, the less there is to read.
const eventsOfStream = 1000

// fillStreams puts rows of many streams into a table: each stream in all partitions, without holes.
func fillStreams(ctx context.Context, c *stand.Columns, rows int) error {
	if err := own(ctx, c); err != nil {
		return err
	}
	return c.Do(ctx, fmt.Sprintf(`INSERT INTO %s.events (stream, partition, sequence, term, time, date, kind, class, profile_id, link_id, visitor, user_agent, referrer)
SELECT intDiv(number, %[3]d) + 1, number %% %[4]d, intDiv(number %% %[3]d, %[4]d) + 1, %[5]d, now64(6) - toIntervalMillisecond(number %% 3600000) AS time, toDate(time), 'click', 'person',
	number %% 1000, number %% 10000, cityHash64(number), 'Mozilla/5.0', 'https://example.com/' || toString(number %% 100) FROM numbers(%[2]d)`,
		c.Database(), rows, eventsOfStream, partitions, term), "OPTIMIZE TABLE "+c.Database()+".events FINAL")
}

// oneEach is a stream with one view in each partition.
func oneEach(stream uint64) []batch {
	var all []batch
	for p := range int32(partitions) {
		value := event.AppendHeader(nil, 1<<40+stream, 1)
		now := time.Now()
		value, err := event.AppendEvent(value, &event.Event{TimeUs: now.UnixMicro(), Date: uint32(now.Unix() / 86400), Kind: event.Kind_KIND_VIEW, Class: event.Class_CLASS_PERSON, ProfileId: 1, UserAgent: "Mozilla/5.0"})
		if err != nil {
			panic(fmt.Sprintf("BUG: an event of ours cannot be encoded: %v", err))
		}
		all = append(all, batch{partition: p, first: 1, count: 1, value: value})
	}
	return all
}

// taken starts an ingest, waits until each partition's first insert is answered, kills it, and returns the milliseconds that a
// partition's take and first insert took.
func (w *warehouse) taken(ctx context.Context, c *stand.Columns, waiting int) (took, inserted float64, err error) {
	w.round++
	name := fmt.Sprintf("ingest-%d", w.round)
	ingest, err := w.Service(ctx, "ingest", name, stand.Any, "KAFKA_BROKERS="+w.kafka.Line(), "CLICKHOUSE_URL="+c.URL, "SPILLWAY_INGEST_GROUP="+name)
	if err != nil {
		return 0, 0, err
	}
	defer ingest.Kill()
	var m map[string]float64
	if err := stand.Until(ctx, "wait for the first inserts", time.Minute, 10*time.Millisecond, func() (bool, error) {
		m, err = ingest.Metrics()
		return m["spillway_ingest_insert_duration_seconds_count"] >= partitions && m["spillway_ingest_take_duration_seconds_count"] >= partitions, err
	}); err != nil {
		return 0, 0, fmt.Errorf("%w (of %d waiting)", err, waiting)
	}
	mean := func(name string) float64 { return 1000 * m[name+"_sum"] / m[name+"_count"] }
	return mean("spillway_ingest_take_duration_seconds"), mean("spillway_ingest_insert_duration_seconds"), nil
}
