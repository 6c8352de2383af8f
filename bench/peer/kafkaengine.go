package peer

import (
	"context"
	"fmt"

	"spillway.dev/bench/stand"
)

// KafkaEngine is ClickHouse's own way from Kafka into a table: a table of the Kafka engine, and a materialized view that moves its rows. It
// counts a row at least once, and enriches nothing.
type KafkaEngine struct {
	// Brokers and Topic say where the rows are; Format is how.
	Brokers, Topic, Format string
	// Group is the consumer group; a new one begins at the earliest record.
	Group string
	// Consumers is how many threads read; at most one a partition.
	Consumers int
}

// Start lets rows flow into the database's table of events, until the engine ends: dropping a table of this kind can wait for its consumers for long.
func (k KafkaEngine) Start(ctx context.Context, c *stand.Columns) error {
	names, err := c.Ask(ctx, "SELECT arrayStringConcat(groupArray(name || ' ' || type), ', ') FROM system.columns WHERE database = '"+c.Database()+
		"' AND table = 'events' FORMAT TSVRaw", nil)
	if err != nil {
		return err
	}
	settings := fmt.Sprintf("kafka_broker_list = '%s', kafka_topic_list = '%s', kafka_group_name = '%s', kafka_format = '%s', kafka_num_consumers = %d, "+
		"kafka_thread_per_consumer = 1, kafka_max_block_size = 131072, kafka_poll_max_batch_size = 131072, kafka_flush_interval_ms = 500",
		k.Brokers, k.Topic, k.Group, k.Format, k.Consumers)
	return c.Do(ctx,
		fmt.Sprintf("CREATE TABLE %s.queue (%s) ENGINE = Kafka SETTINGS %s", c.Database(), names, settings),
		fmt.Sprintf("CREATE MATERIALIZED VIEW %[1]s.feed TO %[1]s.events AS SELECT * FROM %[1]s.queue", c.Database()))
}
