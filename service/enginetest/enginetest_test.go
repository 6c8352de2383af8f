package enginetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway.dev/service/enginetest"
)

func TestEveryCallGivesAnEmptyDatabase(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for range 2 {
		options, err := clickhouse.ParseDSN(enginetest.ClickHouse(t))
		require.NoError(t, err)
		conn, err := clickhouse.Open(options)
		require.NoError(t, err)
		require.NoError(t, conn.Exec(ctx, "CREATE TABLE one (a UInt8) ENGINE = MergeTree ORDER BY a"))
		require.NoError(t, conn.Close())

		db, err := pgx.Connect(ctx, enginetest.Postgres(t))
		require.NoError(t, err)
		_, err = db.Exec(ctx, "CREATE TABLE one (a int)")
		require.NoError(t, err)
		require.NoError(t, db.Close(ctx))
	}
}

func TestKafkaKeepsWhatIsProduced(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	topic := enginetest.Name()
	client, err := kgo.NewClient(kgo.SeedBrokers(enginetest.Kafka(t)...), kgo.AllowAutoTopicCreation(),
		kgo.DefaultProduceTopic(topic), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("hello")).FirstErr())
	fetches := client.PollFetches(ctx)
	require.NoError(t, fetches.Err())
	require.Equal(t, "hello", string(fetches.Records()[0].Value))
}
