// Package topic reads one partition of the topic of events, from an offset that the reader chooses, and says what there is to choose
// from: the bounds of the log, the group's commit, where a commit and the log disagree, which offset an hour ago was.
//
// A commit is a hint where to begin, nothing more. Beside the offset it carries the leader's epoch of the last record, by which a
// log that was cut off is noticed, and in its metadata the id of the topic, by which a topic that was deleted and made again is
// noticed, and the last record's time.
package topic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Position is a place in a partition between two records.
type Position struct {
	Offset int64     // of the next record
	Epoch  int32     // leader's epoch of the record before; -1: unknown
	Time   time.Time // of the record before, by Kafka; zero: unknown
}

// Commit is a position that a group committed.
type Commit struct {
	Position
	Topic [16]byte // id of the topic; zero: unknown
}

// Metadata returns what stands beside the offset in Kafka.
func (c Commit) Metadata() string {
	return fmt.Sprintf("topic=%x time=%d", c.Topic, c.Time.UnixMilli())
}

func (c *Commit) readMetadata(text string) {
	var (
		id     []byte
		millis int64
	)
	if _, err := fmt.Sscanf(text, "topic=%x time=%d", &id, &millis); err != nil || len(id) != len(c.Topic) {
		return
	}
	copy(c.Topic[:], id)
	if millis > 0 {
		c.Time = time.UnixMilli(millis)
	}
}

// Topic is the topic of events. It is safe for use by several goroutines.
type Topic struct {
	Name  string
	Group string

	options []kgo.Opt
	fetch   int32
	client  *kgo.Client
	admin   *kadm.Client
}

// Open returns the topic as a group consumes it. It does not wait for the broker. fetch bounds what is fetched at once, in bytes.
func Open(name, group string, fetch int32, options ...kgo.Opt) (*Topic, error) {
	options = append(options[:len(options):len(options)], kgo.RetryTimeout(10*time.Second))
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	return &Topic{Name: name, Group: group, options: options, fetch: fetch, client: client, admin: kadm.NewClient(client)}, nil
}

// Close lets go of the connections.
func (t *Topic) Close() { t.client.Close() }

// Ping asks whether a broker is there.
func (t *Topic) Ping(ctx context.Context) error {
	if err := t.client.Ping(ctx); err != nil {
		return fmt.Errorf("ask a Kafka broker: %w", err)
	}
	return nil
}

// Bounds are the ends of a partition's log.
type Bounds struct {
	Topic [16]byte // id of the topic
	Start int64    // offset of the first record that is there
	End   int64    // offset that the next record will have
}

// Bounds asks for the ends of a partition's log.
func (t *Topic) Bounds(ctx context.Context, partition int32) (Bounds, error) {
	// The topic's id first: if the topic is made again in between, offsets of the new one under the old id lead to reading too much.
	meta, err := t.admin.Metadata(ctx, t.Name)
	if err != nil {
		return Bounds{}, fmt.Errorf("read the metadata of topic %s: %w", t.Name, err)
	}
	detail := meta.Topics[t.Name]
	if detail.Err != nil {
		return Bounds{}, fmt.Errorf("topic %s: %w", t.Name, detail.Err)
	}
	start, err := t.offset(partition, "begin")(t.admin.ListStartOffsets(ctx, t.Name))
	if err != nil {
		return Bounds{}, err
	}
	end, err := t.offset(partition, "end")(t.admin.ListEndOffsets(ctx, t.Name))
	if err != nil {
		return Bounds{}, err
	}
	return Bounds{Topic: detail.ID, Start: start, End: end}, nil
}

func (t *Topic) offset(partition int32, what string) func(kadm.ListedOffsets, error) (int64, error) {
	return func(all kadm.ListedOffsets, err error) (int64, error) {
		o, ok := all.Lookup(t.Name, partition)
		switch {
		case ok && o.Err == nil:
			return o.Offset, nil
		case ok:
			err = o.Err
		case err == nil:
			err = kerr.UnknownTopicOrPartition
		}
		return 0, fmt.Errorf("read the %s of partition %d of %s: %w", what, partition, t.Name, err)
	}
}

// Committed returns the group's commit for a partition, if there is one.
func (t *Topic) Committed(ctx context.Context, partition int32) (Commit, bool, error) {
	all, err := t.admin.FetchOffsetsForTopics(ctx, t.Group, t.Name)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return Commit{}, false, nil
	}
	if err != nil {
		return Commit{}, false, fmt.Errorf("read the commits of group %s: %w", t.Group, err)
	}
	o, ok := all.Lookup(t.Name, partition)
	switch {
	case !ok:
		return Commit{}, false, nil
	case o.Err != nil:
		return Commit{}, false, fmt.Errorf("read the commit of group %s for partition %d: %w", t.Group, partition, o.Err)
	case o.At < 0:
		return Commit{}, false, nil
	}
	c := Commit{Position: Position{Offset: o.At, Epoch: o.LeaderEpoch}}
	c.readMetadata(o.Metadata)
	return c, true, nil
}

// Agreed returns the offset up to which the log is still the one that a position was read from: the position's own, or less if
// the log was cut off and written anew since. Where the broker cannot say, it is zero.
func (t *Topic) Agreed(ctx context.Context, partition int32, p Position) (int64, error) {
	if p.Epoch < 0 || p.Offset == 0 {
		return p.Offset, nil
	}
	var request kadm.OffsetForLeaderEpochRequest
	request.Add(t.Name, partition, p.Epoch)
	all, err := t.admin.OffsetForLeaderEpoch(ctx, request)
	if err != nil {
		return 0, fmt.Errorf("ask for the end of epoch %d of partition %d: %w", p.Epoch, partition, err)
	}
	o, ok := all[t.Name][partition]
	switch {
	case !ok:
		return 0, fmt.Errorf("ask for the end of epoch %d of partition %d: no answer", p.Epoch, partition)
	case o.Err != nil:
		return 0, fmt.Errorf("ask for the end of epoch %d of partition %d: %w", p.Epoch, partition, o.Err)
	case o.EndOffset < 0:
		return 0, nil
	}
	return min(p.Offset, o.EndOffset), nil
}

// Since returns the offset of the first record at or after a time; -1 if there is none.
func (t *Topic) Since(ctx context.Context, partition int32, at time.Time) (int64, error) {
	return t.offset(partition, "offset at a time")(t.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), t.Name))
}

// Reader reads one partition. It is not safe for use by several goroutines.
type Reader struct {
	client *kgo.Client
	high   int64
}

// Read begins to read a partition at a position. Each reader is a client of its own, so nothing of an earlier one is left.
func (t *Topic) Read(partition int32, at Position) (*Reader, error) {
	from := kgo.NewOffset().At(at.Offset)
	if at.Epoch >= 0 {
		from = from.WithEpoch(at.Epoch)
	}
	client, err := kgo.NewClient(append(t.options[:len(t.options):len(t.options)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Name: {partition: from}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // an offset out of range is for the owner to judge
		kgo.KeepRetryableFetchErrors(),              // and so is everything else
		kgo.MaxConcurrentFetches(1),
		kgo.FetchMaxBytes(t.fetch), kgo.FetchMaxPartitionBytes(t.fetch), kgo.FetchMinBytes(1), kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return nil, fmt.Errorf("read partition %d of %s: %w", partition, t.Name, err)
	}
	return &Reader{client: client, high: -1}, nil
}

// Poll returns the next records, or none after the given time. Any error means that this reader must not be used any more.
func (r *Reader) Poll(ctx context.Context, wait time.Duration) ([]*kgo.Record, error) {
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches := r.client.PollRecords(limited, 0)
	for _, e := range fetches.Errors() {
		if limited.Err() != nil && errors.Is(e.Err, limited.Err()) {
			continue
		}
		return nil, fmt.Errorf("fetch from partition %d: %w", e.Partition, e.Err)
	}
	var records []*kgo.Record
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		records = append(records, p.Records...)
		r.high = max(r.high, p.HighWatermark)
	})
	return records, ctx.Err()
}

// High returns the log's end as the newest fetch told it; -1: not known yet.
func (r *Reader) High() int64 { return r.high }

// Close ends the reader. Whatever it fetched and did not return is forgotten.
func (r *Reader) Close() { r.client.Close() }
