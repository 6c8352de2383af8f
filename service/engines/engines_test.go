package engines

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnAddressThatIsMissingNamesItsVariable(t *testing.T) {
	_, err := Addresses{}.KafkaOptions()
	require.ErrorIs(t, err, ErrNoAddress)
	require.ErrorContains(t, err, "KAFKA_BROKERS")
	_, _, err = Addresses{}.ClickHouseOptions()
	require.ErrorContains(t, err, "CLICKHOUSE_URL")
	_, err = Addresses{}.OpenPostgres(t.Context(), 1)
	require.ErrorContains(t, err, "DATABASE_URL")
}

func TestClickHouseURL(t *testing.T) {
	options, layout, err := Addresses{ClickHouse: "http://reader:secret@ch.internal:8123/numbers", Cluster: "main"}.ClickHouseOptions()
	require.NoError(t, err)
	require.Equal(t, []string{"ch.internal:8123"}, options.Addr)
	require.Equal(t, "reader", options.Auth.Username)
	require.Equal(t, "numbers", layout.Database)
	require.Equal(t, "numbers.events_all", layout.All("events"))

	_, layout, err = Addresses{ClickHouse: "http://127.0.0.1:8123"}.ClickHouseOptions()
	require.NoError(t, err)
	require.Equal(t, "spillway.events", layout.All("events"))

	_, _, err = Addresses{ClickHouse: "ch.internal:8123"}.ClickHouseOptions()
	require.ErrorContains(t, err, "http://USER:PASSWORD@HOST:PORT/DATABASE")
}
