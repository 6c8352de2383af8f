// Package deadletter sets records aside that cannot be taken in, in a topic of their own, with the reason: nothing is thrown away
// silently, and nothing that cannot be read stops a partition.
//
// A letter is the record as it was, key, value and headers, and says in further headers where it came from and why it is here. It
// is acknowledged by Kafka before the offset of its record is committed; a record that is read again is set aside again.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reason is why a record is set aside: a short word for metrics.
type Reason string

// Reasons.
const (
	// Unreadable records are no batch of events, or one that is damaged.
	Unreadable Reason = "unreadable"
	// Expired records hold events whose month is older than the retention of raw events.
	Expired Reason = "expired"
)

// Headers that a letter has beside the record's own.
const (
	HeaderReason    = "spillway-reason"    // a Reason
	HeaderDetail    = "spillway-detail"    // the error, for people
	HeaderTopic     = "spillway-topic"     // where the record stood
	HeaderPartition = "spillway-partition" //
	HeaderOffset    = "spillway-offset"    //
	HeaderTimestamp = "spillway-timestamp" // of the record, milliseconds since the Unix epoch
	HeaderLeftOut   = "spillway-left-out"  // bytes of a value that was too large for a letter; only then
)

// Box writes letters to the topic of dead letters. It is safe for use by several goroutines.
type Box struct {
	topic  string
	client *kgo.Client
	log    *slog.Logger
	count  *prometheus.CounterVec
}

// Open returns the box of a topic. It does not wait for the broker.
func Open(topic string, log *slog.Logger, metrics prometheus.Registerer, options ...kgo.Opt) (*Box, error) {
	client, err := kgo.NewClient(append(options[:len(options):len(options)],
		kgo.DefaultProduceTopic(topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(2),
		kgo.RecordDeliveryTimeout(10*time.Second),
	)...)
	if err != nil {
		return nil, fmt.Errorf("open Kafka for dead letters: %w", err)
	}
	b := &Box{topic: topic, client: client, log: log, count: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_ingest_dead_letters_total", Help: "Records set aside in the topic of dead letters, by reason.",
	}, []string{"reason"})}
	for _, r := range []Reason{Unreadable, Expired} {
		b.count.WithLabelValues(string(r))
	}
	metrics.MustRegister(b.count)
	return b, nil
}

// Close lets go of the connections; what was not acknowledged is given up.
func (b *Box) Close() { b.client.Close() }

// Create makes the topic of dead letters if it is not there, with the broker's default replication.
func (b *Box) Create(ctx context.Context) error {
	response, err := kadm.NewClient(b.client).CreateTopic(ctx, 1, -1, nil, b.topic)
	if err == nil {
		err = response.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("make topic %s for dead letters: %w", b.topic, err)
	}
	return nil
}

// Sender sets aside the records of one partition. It is not safe for use by several goroutines.
type Sender struct {
	box  *Box
	ctx  context.Context
	stop context.CancelFunc
	room chan struct{} // one for each letter that is on its way

	mu    sync.Mutex
	done  []bool // of the letters after acked
	acked uint64
	sent  uint64
}

// onTheirWay bounds a sender's letters that are not acknowledged yet.
const onTheirWay = 1000

// Sender returns a sender that gives up when ctx ends.
func (b *Box) Sender(ctx context.Context) *Sender {
	own, stop := context.WithCancel(ctx)
	return &Sender{box: b, ctx: own, stop: stop, room: make(chan struct{}, onTheirWay)}
}

// Send sets a record aside. It tries for as long as the sender lives, and waits only if very many letters are on their way.
func (s *Sender) Send(record *kgo.Record, reason Reason, detail error) error {
	select {
	case s.room <- struct{}{}:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	s.mu.Lock()
	number := s.sent
	s.sent++
	s.done = append(s.done, false)
	s.mu.Unlock()
	header := func(key, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: key, Value: []byte(value)} }
	text := detail.Error()
	s.try(number, reason, &kgo.Record{Key: record.Key, Value: record.Value, Headers: append(record.Headers[:len(record.Headers):len(record.Headers)],
		header(HeaderReason, string(reason)),
		header(HeaderDetail, text[:min(len(text), 1024)]),
		header(HeaderTopic, record.Topic),
		header(HeaderPartition, strconv.Itoa(int(record.Partition))),
		header(HeaderOffset, strconv.FormatInt(record.Offset, 10)),
		header(HeaderTimestamp, strconv.FormatInt(record.Timestamp.UnixMilli(), 10)),
	)})
	return nil
}

func (s *Sender) try(number uint64, reason Reason, letter *kgo.Record) {
	s.box.client.Produce(s.ctx, letter, func(_ *kgo.Record, err error) {
		if err == nil {
			s.box.count.WithLabelValues(string(reason)).Inc()
			<-s.room
			s.acknowledge(number)
			return
		}
		if s.ctx.Err() != nil || errors.Is(err, kgo.ErrClientClosed) {
			return
		}
		s.box.log.Warn("a dead letter is not written; its offset is not committed before it is; trying again", "topic", s.box.topic, "error", err)
		again := &kgo.Record{Key: letter.Key, Value: letter.Value, Headers: letter.Headers}
		if errors.Is(err, kerr.MessageTooLarge) && letter.Value != nil {
			// With its headers it is larger than a batch may be. The record itself stays where the headers say.
			again.Headers = append(again.Headers, kgo.RecordHeader{Key: HeaderLeftOut, Value: []byte(strconv.Itoa(len(letter.Value)))})
			again.Value = nil
		}
		time.AfterFunc(time.Second, func() {
			if s.ctx.Err() == nil {
				s.try(number, reason, again)
			}
		})
	})
}

func (s *Sender) acknowledge(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[number-s.acked] = true
	for len(s.done) > 0 && s.done[0] {
		s.done = s.done[1:]
		s.acked++
	}
}

// Sent returns how many letters were sent so far.
func (s *Sender) Sent() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Acknowledged returns how many letters, counted from the first without a gap, Kafka has.
func (s *Sender) Acknowledged() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Close gives up what is not acknowledged.
func (s *Sender) Close() { s.stop() }
