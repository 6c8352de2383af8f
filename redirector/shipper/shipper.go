// Package shipper takes events from the journal to Kafka, in order and at least once; their names make it exactly once.
//
// # How
//
// A session has one Kafka client (idempotent, acks=all) and two couriers: one ships what older streams left, oldest first; the
// other ships the live stream. Each has half of the bytes that may be in flight, so a large backlog delays a fresh click by no
// more than what is on the wire, and the backlog gets at least half of it. A courier reads its stream in order and copies each event, as it
// stands in the journal, into the batch of its partition; a batch is sent when it is full or, otherwise, every Linger. A click on an
// idle redirector is sent at once.
//
// What is acknowledged in all partitions, without a gap, is acknowledged to the journal: never earlier. Whatever goes wrong in a way that
// the client does not repair by itself (records that are refused, brokers that answer nothing for long), there is one answer: the session
// ends, its client is thrown away, and the next one begins at the journal's cursor. What is sent twice has the same name twice.
//
// A broker that lost what it had acknowledged shows it: it knows nothing of the producer's last batch, or gives an offset away again (a
// topic that was made again does, too). Announcements alone bring that out within seconds. Then the cursor is taken back as far as the journal
// still holds what was acknowledged (journal.Options.Keep).
//
// # Announcements
//
// Every AnnounceInterval, and once more at its end, a stream says in each of its partitions how far it has journaled, and at what time
// (event.Announcement). An announcement follows the events it speaks of in the same partition, in the same record where it can. An older stream
// is announced when all of it is shipped, and forgotten when that is acknowledged.
//
// # Use
//
//	s, err := shipper.New(j, shipper.Options{Brokers: brokers, Logger: logger, Registerer: registerer})
//	err = s.Run(ctx)   // until ctx ends; then sends what is left, within CloseTimeout
//	err = j.Close()
//
// End ctx after the last Append: Run ends the live stream then.
package shipper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/redirector/journal"
)

// Options of a shipper.
type Options struct {
	// Brokers are the addresses to begin with, host:port. They need not be reachable yet.
	Brokers []string
	// Topic to write to. It need not exist yet. Empty: spillway.events.
	Topic string
	// BatchBytes is when a batch is full, in bytes of events. A larger event is a batch of its own. Zero: 64 KiB.
	BatchBytes int
	// Linger is how long a batch that is not full waits, counted from the last sending: a click after a pause waits for nothing. Zero: 20 ms.
	Linger time.Duration
	// MaxInflight bounds the bytes that are sent and not acknowledged, and so the memory. Zero: 32 MiB.
	MaxInflight int
	// Compression of what is sent: none, lz4, zstd or snappy. Empty: snappy, which for batches of 64 KiB of a web server's visits was smaller
	// by 3.7 and took 0.37 µs an event; lz4 2.0 and 0.82 µs, zstd 4.7 and 2.8 µs.
	Compression string
	// AnnounceInterval is how often the live stream is announced. Zero: 1 s.
	AnnounceInterval time.Duration
	// CloseTimeout is how long Run goes on sending after its context has ended. What is not sent by then is sent by the next start.
	// Zero: 5 s.
	CloseTimeout time.Duration
	// StallTimeout is how long nothing may be acknowledged before the client is thrown away. It doubles while that does not help.
	// Zero: 30 s.
	StallTimeout time.Duration
	// Client are further options of the Kafka client: TLS, SASL.
	Client []kgo.Opt
	// Clock tells the time, for ages and latencies. Nil: time.Now.
	Clock func() time.Time
	// Logger takes what happens in the background. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: none are registered.
	Registerer prometheus.Registerer

	patience time.Duration // tests: the longest wait between sessions
}

// DefaultTopic is where events go unless Options say otherwise.
const DefaultTopic = "spillway.events"

func (o *Options) check() error {
	set(&o.Topic, DefaultTopic)
	set(&o.BatchBytes, 64<<10)
	set(&o.Linger, 20*time.Millisecond)
	set(&o.MaxInflight, 32<<20)
	set(&o.Compression, "snappy")
	set(&o.AnnounceInterval, time.Second)
	set(&o.CloseTimeout, 5*time.Second)
	set(&o.StallTimeout, 30*time.Second)
	set(&o.patience, 5*time.Second)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case len(o.Brokers) == 0:
		return errors.New("no Kafka brokers: set KAFKA_BROKERS to host:port, several separated by commas")
	case o.BatchBytes < 0 || o.BatchBytes > maxBatch:
		return fmt.Errorf("batch of %d bytes: use 1 to %d", o.BatchBytes, maxBatch)
	case o.MaxInflight < 2*o.BatchBytes:
		return fmt.Errorf("%d bytes in flight cannot hold two batches of %d: raise the one or lower the other", o.MaxInflight, o.BatchBytes)
	case o.Linger < 0 || o.AnnounceInterval < 0 || o.CloseTimeout < 0 || o.StallTimeout < 0:
		return errors.New("linger, announce interval, close and stall timeouts cannot be negative")
	}
	for _, b := range o.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			return fmt.Errorf("broker %q is not host:port: correct KAFKA_BROKERS", b)
		}
	}
	_, err := codec(o.Compression)
	return err
}

func set[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

const (
	maxBatch = 512 << 10
	// kafkaBatch is how much the client puts into one of Kafka's batches, or a record, if that is more. Brokers take four times as much by default, but the client
	// compresses a batch of every partition in one go, and visitors wait for that where there is one processor. Snappy looks back 64 KiB, so larger ones save nothing.
	kafkaBatch = 256 << 10
	// smallestBatch is how far batches are cut when brokers find them too large. It is still above any event.
	smallestBatch = journal.MaxEvent + 1<<10
)

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression().WithLevel(1), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("compression %q: use none, lz4, zstd or snappy", name)
}

// Shipper ships one journal.
type Shipper struct {
	o       Options
	j       *journal.Journal
	log     *slog.Logger
	metrics *metrics

	batch      int          // events of a batch, in bytes; cut down when brokers find batches too large
	kafkaBatch int32        // one of Kafka's batches
	progress   atomic.Int64 // batches acknowledged

	mu      sync.Mutex      // guards offsets
	offsets map[int32]int64 // the highest offset that each partition has given away
}

// New checks the options. It does not reach for the brokers.
func New(j *journal.Journal, o Options) (*Shipper, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("shipper: %w", err)
	}
	s := &Shipper{o: o, j: j, log: o.Logger, metrics: newMetrics(o.Clock), batch: o.BatchBytes, kafkaBatch: int32(max(kafkaBatch, o.BatchBytes+smallestBatch)), offsets: map[int32]int64{}}
	client, err := kgo.NewClient(s.options()...) // an option that makes no sense is better found now
	if err != nil {
		return nil, fmt.Errorf("shipper: Kafka client: %w", err)
	}
	client.Close()
	if o.Registerer != nil {
		if err := s.metrics.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("shipper metrics: %w", err)
		}
	}
	return s, nil
}

// options are the client's.
func (s *Shipper) options() []kgo.Opt {
	compression, _ := codec(s.o.Compression) // checked
	options := []kgo.Opt{
		kgo.SeedBrokers(s.o.Brokers...),
		kgo.ClientID("spillway-redirector"),
		kgo.DefaultProduceTopic(s.o.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(compression, kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(s.kafkaBatch),
		kgo.ProducerLinger(0),           // batches are made here
		kgo.MaxBufferedRecords(1 << 20), // and bounded here, in bytes
		// A broker that lost data has the session end and send again from the cursor.
		kgo.StopProducerOnDataLossDetected(),
		// A topic that is not there yet is waited for.
		kgo.UnknownTopicRetries(-1),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.DisableClientMetrics(),
		kgo.WithHooks(s.metrics),
	}
	return append(options, s.o.Client...)
}

// Run ships until ctx ends. Then it ends the journal's live stream, sends what is left within CloseTimeout and returns nil. Run it
// once.
func (s *Shipper) Run(ctx context.Context) error {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		s.j.End()
		time.AfterFunc(s.o.CloseTimeout, cancel)
	})()
	defer s.metrics.unregister(s.o.Registerer)

	wait, stall, soft := time.Duration(0), s.o.StallTimeout, ctx.Done()
	for {
		before := s.progress.Load()
		err := s.session(hard, stall)
		if err == nil || hard.Err() != nil {
			return nil
		}
		s.metrics.restarts.Inc()
		s.metrics.errors.WithLabelValues(kind(err)).Inc()
		if s.progress.Load() != before {
			wait, stall = 0, s.o.StallTimeout
		} else if errors.Is(err, errStalled) {
			stall *= 2
		}
		wait = min(max(2*wait, 50*time.Millisecond), s.o.patience)
		switch {
		case errors.Is(err, kerr.MessageTooLarge):
			s.shrink()
		case lost(err):
			s.rewind()
		case strings.Contains(err.Error(), badPartition):
			err = fmt.Errorf("topic %s has fewer partitions than the stream was begun with; add partitions to the topic: %w", s.o.Topic, err)
		}
		s.log.Error("shipper: sending again from the journal's cursor", "err", err, "in", wait.String())
		select {
		case <-hard.Done():
			return nil
		case <-soft:
			soft = nil // no time to wait any more
		case <-time.After(wait):
		}
	}
}

var errLost = errors.New("the broker gave an offset away again")

// lost reports whether an error says that the broker has lost data.
func lost(err error) bool {
	for _, e := range []error{errLost, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping, kerr.InvalidProducerEpoch} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// rewind has everything sent again that the journal still holds.
func (s *Shipper) rewind() {
	s.mu.Lock()
	clear(s.offsets)
	s.mu.Unlock()
	n := uint64(0)
	for _, x := range s.j.Streams() {
		n += x.Rewind()
	}
	s.metrics.rewound.Add(float64(n))
	s.log.Error("shipper: the brokers lost data that they had acknowledged; what the journal still holds of it is sent again", "events", n)
}

// given notes the offset that a record got. The error is errLost if that offset was given away before.
func (s *Shipper) given(partition int32, offset int64) error {
	if offset < 0 {
		return nil // the broker did not say
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.offsets[partition]; ok && offset <= before {
		return fmt.Errorf("%w: %d after %d", errLost, offset, before)
	}
	s.offsets[partition] = offset
	return nil
}

// shrink halves what is sent at once.
func (s *Shipper) shrink() {
	s.kafkaBatch = max(s.kafkaBatch/2, smallestBatch)
	s.batch = max(min(s.batch, int(s.kafkaBatch)/2), 1)
	s.log.Warn("shipper: the brokers find batches too large; smaller ones are sent. Raise max.message.bytes of the topic", "topic", s.o.Topic, "bytes", s.kafkaBatch)
}

// session ships with one client until the journal has ended and everything is shipped (nil), or something is in doubt.
func (s *Shipper) session(ctx context.Context, stall time.Duration) error {
	client, err := kgo.NewClient(s.options()...)
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		client.Close()
	}()
	live := s.j.Live()
	var older []*journal.Stream
	for _, x := range s.j.Streams() {
		if x == live {
			break
		}
		older = append(older, x)
	}
	errs := make(chan error, 2)
	var running sync.WaitGroup
	running.Go(func() {
		for _, x := range older {
			if err := s.ship(ctx, client, x, stall, &s.metrics.older); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	})
	running.Go(func() { errs <- s.shipLive(ctx, client, live, stall) })
	err = <-errs
	if err == nil {
		err = <-errs
	}
	cancel()
	running.Wait()
	return err
}

// shipLive ships the live stream, and the one that follows it if the journal begins another, until the journal has ended.
func (s *Shipper) shipLive(ctx context.Context, client *kgo.Client, live *journal.Stream, stall time.Duration) error {
	for {
		if err := s.ship(ctx, client, live, stall, &s.metrics.live); err != nil {
			return err
		}
		next := s.j.Live()
		if next == live {
			return nil
		}
		live = next
	}
}

// ship ships one stream to its end and forgets it.
func (s *Shipper) ship(ctx context.Context, client *kgo.Client, x *journal.Stream, stall time.Duration, oldest *atomic.Int64) error {
	c := newCourier(s, client, x, stall, oldest)
	defer c.reader.Close()
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("stream %016x: %w", x.ID(), err)
	}
	c.reader.Close()
	if err := x.Finish(); err != nil {
		return err
	}
	return nil
}
