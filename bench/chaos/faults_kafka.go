package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/bench/cluster"
	"spillway.dev/schemas/event"
)

// kafkaFaults are what others do to the topic and the group.
func kafkaFaults() []Fault {
	return []Fault{
		{
			Name: "poison and oversized records", Does: "Others write into every partition: bytes that are no batch, a batch without a stream, an empty record, 900 kB of garbage.",
			Expect:  "They go to the dead-letter topic and hold nothing up.",
			Touches: []string{"broker"}, Random: true, strike: poison,
		},
		{
			Name: "rebalance storm", Does: "Members join the group and leave it, twelve times in three seconds.",
			Touches: []string{"ingest-1", "ingest-2"}, Random: true, strike: storm,
		},
		{
			Name: "group deleted", Does: "Both ingests end, the consumer group is deleted with its offsets, both start again.",
			Touches: []string{"ingest-1", "ingest-2"}, strike: deleteGroup,
		},
		{
			Name: "offsets reset", Does: "Both ingests end, the group's offsets are set to the beginning in one half of the partitions and to the end in the other.",
			Expect:  "What is skipped by the offsets is missing to the audit, and heals from Kafka.",
			Touches: []string{"ingest-1", "ingest-2"}, strike: resetOffsets,
		},
	}
}

// group is the name of ingest's consumer group.
const group = "spillway"

func (a *arena) kafka(options ...kgo.Opt) (*kgo.Client, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(a.Brokers()...), kgo.RequestTimeoutOverhead(5 * time.Second)}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("Kafka client: %w", err)
	}
	return client, nil
}

func poison(ctx context.Context, a *arena) (func(context.Context) error, error) {
	client, err := a.kafka(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(1<<20))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	garbage := make([]byte, 900<<10)
	for i := range garbage {
		garbage[i] = byte(a.random.Uint32())
	}
	nameless, err := event.AppendEvent(event.AppendHeader(nil, 0, 1), &event.Event{Kind: event.Kind_KIND_CLICK})
	if err != nil {
		return nil, err
	}
	var records []*kgo.Record
	for p := range int32(4) {
		for _, value := range [][]byte{[]byte("\xff\xff not a batch"), nameless, nil, garbage} {
			records = append(records, &kgo.Record{Topic: cluster.Topic, Partition: p, Value: value})
		}
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return nil, fmt.Errorf("write poison: %w", err)
	}
	return healed, nil
}

func storm(ctx context.Context, a *arena) (func(context.Context) error, error) {
	for range 12 {
		member, err := a.kafka(kgo.ConsumeTopics(cluster.Topic), kgo.ConsumerGroup(group), kgo.SessionTimeout(a.session), kgo.HeartbeatInterval(a.session/3),
			kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit())
		if err != nil {
			return nil, err
		}
		err = sleep(ctx, 250*time.Millisecond)
		leave, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = member.LeaveGroupContext(leave) // who leaves without a word is found out by its silence
		cancel()
		member.CloseAllowingRebalance()
		if err != nil {
			return nil, err
		}
	}
	return healed, nil
}

// withoutIngests ends both ingests, does something to their group, and starts them again.
func (a *arena) withoutIngests(ctx context.Context, do func(context.Context, *kadm.Client) error) error {
	for _, name := range []string{"ingest-1", "ingest-2"} {
		if _, err := terminate(name)(ctx, a); err != nil {
			return err
		}
	}
	client, err := a.kafka()
	if err != nil {
		return err
	}
	defer client.Close()
	limited, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err = do(limited, kadm.NewClient(client))
	return errors.Join(err, a.start(ctx, "ingest-1"), a.start(ctx, "ingest-2"))
}

func deleteGroup(ctx context.Context, a *arena) (func(context.Context) error, error) {
	return healed, a.withoutIngests(ctx, func(ctx context.Context, admin *kadm.Client) error {
		answers, err := admin.DeleteGroups(ctx, group)
		if err != nil {
			return fmt.Errorf("delete group: %w", err)
		}
		return answers.Error()
	})
}

func resetOffsets(ctx context.Context, a *arena) (func(context.Context) error, error) {
	return healed, a.withoutIngests(ctx, func(ctx context.Context, admin *kadm.Client) error {
		ends, err := admin.ListEndOffsets(ctx, cluster.Topic)
		if err != nil {
			return fmt.Errorf("read the topic's end: %w", err)
		}
		offsets := kadm.Offsets{}
		ends.Each(func(o kadm.ListedOffset) {
			at := int64(0)
			if o.Partition%2 == 1 {
				at = o.Offset
			}
			offsets.AddOffset(o.Topic, o.Partition, at, -1)
		})
		return admin.CommitAllOffsets(ctx, group, offsets)
	})
}
