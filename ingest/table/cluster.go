package table

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// Shards finds the node of a cluster through which a partition's rows are written. A partition is pinned to a shard, and its rows are
// inserted there, into the table itself: through a Distributed table they would be checked on one node and written later on another.
// A server without a cluster is the node of every partition.
//
// The zero value is not usable; a Shards is safe for use by several goroutines.
type Shards struct {
	entry *Table
	open  func(host string) (*Table, error)

	mu    sync.Mutex
	nodes map[string]*Table
}

// NewShards returns the shards of the cluster that entry is a node of.
func NewShards(entry *Table) *Shards {
	return &Shards{entry: entry, open: entry.at, nodes: map[string]*Table{}}
}

// replica is a node of a cluster.
type replica struct {
	shard uint32
	host  string
}

// Node returns the node for a partition. Of a shard's replicas it is the first that answers.
func (s *Shards) Node(ctx context.Context, partition int32) (*Table, error) {
	if s.entry.Layout.Cluster == "" {
		return s.entry, nil
	}
	var all []replica
	err := s.entry.Each(ctx, "SELECT shard_num, host_name FROM system.clusters WHERE cluster = '"+s.entry.Layout.Cluster+"' ORDER BY shard_num, replica_num", func(scan func(...any) error) error {
		var r replica
		if err := scan(&r.shard, &r.host); err != nil {
			return err
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the shards of cluster %s: %w", s.entry.Layout.Cluster, err)
	}
	hosts := pin(all, partition)
	if len(hosts) == 0 {
		return nil, fmt.Errorf("cluster %s has no nodes: name one of remote_servers (SPILLWAY_CLICKHOUSE_CLUSTER)", s.entry.Layout.Cluster)
	}
	var failed error
	for _, host := range hosts {
		node, err := s.node(host)
		if err == nil {
			err = node.Ping(ctx)
		}
		if err == nil {
			return node, nil
		}
		failed = fmt.Errorf("node %s of cluster %s: %w", host, s.entry.Layout.Cluster, err)
	}
	return nil, failed
}

// pin returns the hosts of the shard that a partition belongs to. all is in the order of the shards.
func pin(all []replica, partition int32) (hosts []string) {
	var shards []uint32
	for _, r := range all {
		if len(shards) == 0 || shards[len(shards)-1] != r.shard {
			shards = append(shards, r.shard)
		}
	}
	for _, r := range all {
		if r.shard == shards[int(partition)%len(shards)] {
			hosts = append(hosts, r.host)
		}
	}
	return hosts
}

func (s *Shards) node(host string) (*Table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node := s.nodes[host]; node != nil {
		return node, nil
	}
	node, err := s.open(host)
	if err != nil {
		return nil, err
	}
	s.nodes[host] = node
	return node, nil
}

// Close lets go of the connections to all nodes but the entry.
func (s *Shards) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	for _, node := range s.nodes {
		if err := node.Close(); err != nil {
			failed = err
		}
	}
	return failed
}

// at opens the table on another host, where ClickHouse is at the same port.
func (t *Table) at(host string) (*Table, error) {
	addresses := t.addresses
	u := t.endpoint
	u.Host = net.JoinHostPort(host, t.endpoint.Port())
	u.Path = "/" + t.Layout.Database
	u.RawQuery = t.query
	u.User = t.userinfo
	addresses.ClickHouse = u.String()
	return Open(addresses)
}
