package versus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/bench/accesslog"
	"spillway.dev/bench/load"
	"spillway.dev/bench/pump"
	"spillway.dev/bench/stand"
	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/enrich"
	"spillway.dev/ingest/presence"
	"spillway.dev/schemas/event"
)

// The stream of made-up events, and how it lies in Kafka: as a redirector's does by default.
const (
	stream     = 0x5b111a9a7
	partitions = 4
	run        = 128
	batchBytes = 64 << 10
)

// batch is one Kafka record.
type batch struct {
	partition int32
	first     uint64
	count     int
	value     []byte
}

// crowd makes up events: people who come to a profile, look at it and click some of its links, a thousand of them at a time. Their user
// agents and referrers are those of package load.
type crowd struct {
	random    *rand.Rand
	zipf      *rand.Zipf
	agents    []string
	referrers []string
	links     int
	people    []person
	at        time.Time
	step      time.Duration
}

// person is somebody with a browser, who has so many clicks left.
type person struct {
	address  netip.Addr
	agent    string
	referrer string
	profile  uint64
	visitor  uint64
	clicks   int
	viewed   bool
}

// Ten links a profile, so that 10 000 links are of 1000 profiles.
const linksOfProfile = 10

func newCrowd(ctx context.Context, links int, began time.Time, step time.Duration) (*crowd, error) {
	requests, err := pump.Record(ctx, load.Config{Handle: handle, Views: 1, Seed: 3}, 5000)
	if err != nil {
		return nil, err
	}
	c := &crowd{random: rand.New(rand.NewPCG(5, 0x5b111a)), links: links, at: began, step: step}
	for _, r := range requests {
		parsed, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r)))
		if err != nil {
			return nil, fmt.Errorf("read a visitor's request: %w", err)
		}
		c.agents, c.referrers = append(c.agents, parsed.UserAgent()), append(c.referrers, parsed.Referer())
	}
	if links > 1 {
		c.zipf = rand.NewZipf(c.random, 1.1, 1, uint64((links+linksOfProfile-1)/linksOfProfile-1))
	}
	for range 1000 {
		c.people = append(c.people, c.somebody())
	}
	return c, nil
}

func (c *crowd) somebody() person {
	n := c.random.IntN(len(c.agents))
	p := person{agent: c.agents[n], referrer: c.referrers[n], profile: 1, visitor: c.random.Uint64(), clicks: c.random.IntN(4)}
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], c.random.Uint32())
	p.address = netip.AddrFrom4(address)
	if c.zipf != nil {
		p.profile = 1 + c.zipf.Uint64()
	}
	return p
}

// next makes e the next event and returns who caused it. Only what differs from the one before is set.
func (c *crowd) next(e *event.Event) *person {
	n := c.random.IntN(len(c.people))
	p := &c.people[n]
	if p.viewed && p.clicks == 0 {
		*p = c.somebody()
	}
	c.at = c.at.Add(c.step)
	*e = event.Event{TimeUs: c.at.UnixMicro(), Date: uint32(c.at.Unix() / 86400), Class: event.Class_CLASS_PERSON, ProfileId: p.profile, Visitor: p.visitor,
		UserAgent: p.agent, Referrer: p.referrer, Host: pump.Host, Language: "en-GB", RulesVersion: 1, Layout: 1, Surface: event.Surface_SURFACE_PAGE}
	if !p.viewed {
		p.viewed = true
		e.Kind = event.Kind_KIND_VIEW
		return p
	}
	p.clicks--
	e.Kind = event.Kind_KIND_CLICK
	e.LinkId = (p.profile-1)*linksOfProfile + 1
	if c.links > 1 {
		e.LinkId += c.random.Uint64N(linksOfProfile)
	}
	return p
}

// logLine is what a web server's access log has of an event.
func logLine(e *event.Event, p *person) string {
	target := "/p" + strconv.FormatUint(e.ProfileId, 36)
	status, size := 200, int64(9000)
	if e.Kind == event.Kind_KIND_CLICK {
		target, status, size = "/l/"+strconv.FormatUint(e.LinkId*7919, 36), 302, 0
	}
	return accesslog.Entry{Host: p.address.String(), Time: time.UnixMicro(e.TimeUs).UTC(), Request: "GET " + target + " HTTP/1.1", Status: status, Bytes: size,
		Referrer: e.Referrer, UserAgent: e.UserAgent}.String()
}

// batches lays n events over the partitions, as a shipper that is busy does. Each event is shown to see, if that is not nil.
func (c *crowd) batches(n int, see func(*event.Event, *person)) ([]batch, error) {
	var all []batch
	var open [partitions]batch
	lanes := event.Lanes{Partitions: partitions, Run: run}
	var e event.Event
	var err error
	for k := uint64(1); k <= uint64(n); k++ {
		p := c.next(&e)
		if see != nil {
			see(&e, p)
		}
		partition, sequence := lanes.Place(k)
		b := &open[partition]
		if b.count == 0 {
			*b = batch{partition: int32(partition), first: sequence, value: event.AppendHeader(make([]byte, 0, batchBytes+1024), stream, sequence)}
		}
		if b.value, err = event.AppendEvent(b.value, &e); err != nil {
			return nil, err
		}
		if b.count++; len(b.value) >= batchBytes {
			all = append(all, *b)
			b.count = 0
		}
	}
	for _, b := range open {
		if b.count > 0 {
			all = append(all, b)
		}
	}
	return all, nil
}

// history makes up n events that ended just now.
func history(ctx context.Context, links, n int) ([]batch, error) {
	const step = 50 * time.Microsecond
	c, err := newCrowd(ctx, links, time.Now().Add(-time.Duration(n)*step), step)
	if err != nil {
		return nil, err
	}
	return c.batches(n, nil)
}

// term is whose rows the table takes when no ingest runs.
const term = 77

// blocks turns batches into Native blocks of at least so many rows, of one partition each: what ingest makes of them, made in advance.
func blocks(all []batch, rows int) ([]batch, error) {
	rules, err := enrich.NewRules()
	if err != nil {
		return nil, err
	}
	var made []batch
	var open [partitions]*columns.Block
	flush := func(partition int32) error {
		b := open[partition]
		body, err := b.Encode()
		if err != nil {
			return err
		}
		made = append(made, batch{partition: partition, count: b.Rows(), value: bytes.Clone(body)})
		b.Reset(partition, term)
		return nil
	}
	for offset, one := range all {
		b := open[one.partition]
		if b == nil {
			b = columns.New(enrich.NewCache(rules, 8<<20))
			b.Reset(one.partition, term)
			open[one.partition] = b
		}
		parsed, err := event.ParseBatch(one.value)
		if err != nil {
			return nil, err
		}
		if _, _, err := b.Append(&parsed, int64(offset), []presence.Range{{First: parsed.First, Last: parsed.Last()}}, 0); err != nil {
			return nil, err
		}
		if b.Rows() >= rows {
			if err := flush(one.partition); err != nil {
				return nil, err
			}
		}
	}
	for p, b := range open {
		if b != nil && b.Rows() > 0 {
			if err := flush(int32(p)); err != nil {
				return nil, err
			}
		}
	}
	return made, nil
}

// insertStatement is the statement that takes blocks in.
func insertStatement(database string) string {
	names := ""
	for i, n := range columns.New(nil).Names() {
		if i > 0 {
			names += ", "
		}
		names += n
	}
	return "INSERT INTO " + database + ".events (" + names + ") FORMAT Native"
}

// own lets rows of term pass, in every partition.
func own(ctx context.Context, c *stand.Columns) error {
	for p := range partitions {
		if err := c.Do(ctx, fmt.Sprintf("INSERT INTO %s.terms VALUES (%d, %d)", c.Database(), p, term)); err != nil {
			return err
		}
	}
	return nil
}

// produce writes records to a topic, which is made if it is not there.
func produce(ctx context.Context, brokers, topic string, all []batch) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(1_000_000), kgo.MaxBufferedRecords(1<<14))
	if err != nil {
		return fmt.Errorf("fill topic %s: %w", topic, err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, partitions, 1, nil, topic); err != nil && topic != stand.Topic {
		return fmt.Errorf("make topic %s: %w", topic, err)
	}
	failed := make(chan error, 1)
	for _, b := range all {
		client.Produce(ctx, &kgo.Record{Partition: b.partition, Value: b.value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return fmt.Errorf("fill topic %s: %w", topic, err)
	}
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("fill topic %s: %w", topic, err))
	default:
		return nil
	}
}
