package table

import (
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/service/engines"
)

func TestAPartitionIsPinnedToAShard(t *testing.T) {
	all := []replica{{1, "a1"}, {1, "a2"}, {2, "b1"}, {3, "c1"}, {3, "c2"}}
	require.Equal(t, []string{"a1", "a2"}, pin(all, 0))
	require.Equal(t, []string{"b1"}, pin(all, 1))
	require.Equal(t, []string{"c1", "c2"}, pin(all, 5))
	require.Empty(t, pin(nil, 5))
}

func TestAnotherNodeIsReachedAsTheEntryIs(t *testing.T) {
	entry, err := Open(engines.Addresses{ClickHouse: "http://reader:hush@one.internal:8124/numbers?max_memory_usage=5", Cluster: "main"})
	require.NoError(t, err)
	defer func() { _ = entry.Close() }()
	other, err := entry.at("two.internal")
	require.NoError(t, err)
	defer func() { _ = other.Close() }()
	require.Equal(t, "two.internal:8124", other.endpoint.Host)
	require.Equal(t, "reader", other.user)
	require.Equal(t, "hush", other.password)
	require.Equal(t, "5", other.more["max_memory_usage"])
	require.Equal(t, entry.Layout, other.Layout)

	alone, err := Open(engines.Addresses{ClickHouse: "http://one.internal:8124"})
	require.NoError(t, err)
	defer func() { _ = alone.Close() }()
	node, err := NewShards(alone).Node(t.Context(), 7)
	require.NoError(t, err)
	require.Same(t, alone, node)
}
