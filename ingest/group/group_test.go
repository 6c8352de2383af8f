package group

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest/topic"
)

const name = "spillway.events"

func broker(t *testing.T, partitions int32) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, name), kfake.GroupMinSessionTimeout(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func quick() Options {
	return Options{Session: 600 * time.Millisecond, Rebalance: 2 * time.Second, Discover: 100 * time.Millisecond, Commit: 20 * time.Millisecond, Pause: 50 * time.Millisecond}
}

// member owns partitions and notes which.
type member struct {
	*Group
	own  func(ctx context.Context, p int32) error
	stop context.CancelFunc
	done chan error

	mu    sync.Mutex
	owned map[int32]bool
	began map[int32]int
	clash bool
}

func join(t *testing.T, c *kfake.Cluster, own func(ctx context.Context, p int32) error) *member {
	t.Helper()
	m := &member{own: own, owned: map[int32]bool{}, began: map[int32]int{}, done: make(chan error, 1)}
	var out io.Writer = io.Discard
	if os.Getenv("SPILLWAY_TEST_LOG") != "" {
		out = os.Stderr
	}
	var err error
	m.Group, err = New("g", name, quick(), m.run, slog.New(slog.NewTextHandler(out, nil)), kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	go func() { m.done <- m.Run(ctx) }()
	t.Cleanup(func() { stop(); <-m.done; m.done <- nil })
	return m
}

func (m *member) end(t *testing.T) {
	t.Helper()
	m.stop()
	err := <-m.done
	m.done <- nil
	require.NoError(t, err)
}

func (m *member) run(ctx context.Context, p int32) error {
	m.mu.Lock()
	m.clash = m.clash || m.owned[p]
	m.owned[p] = true
	m.began[p]++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.owned, p)
	}()
	if m.own != nil {
		return m.own(ctx, p)
	}
	<-ctx.Done()
	return nil
}

func (m *member) partitions() map[int32]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[int32]bool{}
	for p := range m.owned {
		all[p] = true
	}
	return all
}

// shared waits until each of the partitions has one owner.
func shared(t *testing.T, partitions int, members ...*member) {
	t.Helper()
	require.Eventually(t, func() bool {
		total, all := 0, map[int32]bool{}
		for _, m := range members {
			owned := m.partitions()
			total += len(owned)
			for p := range owned {
				all[p] = true
			}
			if len(owned) == 0 {
				return false
			}
		}
		return total == partitions && len(all) == partitions
	}, time.Minute, 5*time.Millisecond)
}

func TestPartitionsAreSharedOut(t *testing.T) {
	t.Parallel()
	c := broker(t, 6)
	one := join(t, c, nil)
	shared(t, 6, one)
	two := join(t, c, nil)
	shared(t, 6, one, two)
	three := join(t, c, nil)
	shared(t, 6, one, two, three)
	two.end(t)
	shared(t, 6, one, three)
	require.False(t, one.clash || two.clash || three.clash)
}

func TestPartitionsThatWereAddedAreOwned(t *testing.T) {
	t.Parallel()
	c := broker(t, 2)
	m := join(t, c, nil)
	shared(t, 2, m)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreatePartitions(t.Context(), 3, name)
	require.NoError(t, err)
	shared(t, 5, m)
}

// A refused owner takes the partition again when the group has confirmed that it is its own, and not before.
func TestARefusedOwnerComesBack(t *testing.T) {
	t.Parallel()
	c := broker(t, 1)
	var mu sync.Mutex
	refusals := 0
	m := join(t, c, func(ctx context.Context, _ int32) error {
		mu.Lock()
		refusals++
		n := refusals
		mu.Unlock()
		if n <= 3 {
			return errors.New("refused")
		}
		<-ctx.Done()
		return nil
	})
	shared(t, 1, m)
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return refusals == 4 }, time.Minute, time.Millisecond)
}

// A process that slept too long is thrown out of the group: its owners end, and it owns again what it is assigned anew.
func TestWhoIsThrownOutLetsGo(t *testing.T) {
	t.Parallel()
	c := broker(t, 2)
	m := join(t, c, nil)
	shared(t, 2, m)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", Err: kerr.UnknownMemberID, TopLevel: true})
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.began[0] == 2 && m.began[1] == 2
	}, time.Minute, time.Millisecond)
	shared(t, 2, m)
}

func TestCommitsCarryWhatIsNeededToDoubtThem(t *testing.T) {
	t.Parallel()
	c := broker(t, 2)
	m := join(t, c, nil)
	shared(t, 2, m)
	of, err := topic.Open(name, "g", 1<<20, kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	defer of.Close()
	_, ok, err := of.Committed(t.Context(), 0)
	require.NoError(t, err)
	require.False(t, ok)
	at := topic.Commit{Position: topic.Position{Offset: 7, Epoch: 3, Time: time.UnixMilli(1_800_000_000_123)}, Topic: [16]byte{1, 2, 15: 9}}
	committed := func(want topic.Commit) func() bool {
		return func() bool {
			got, ok, err := of.Committed(t.Context(), 0)
			return err == nil && ok && got == want
		}
	}
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.CoordinatorLoadInProgress, Count: 2})
	m.Mark(0, at)
	require.Eventually(t, committed(at), 10*time.Second, 5*time.Millisecond)
	// A rewind commits backwards, and who leaves commits what it has done.
	at.Offset = 2
	m.Mark(0, at)
	m.end(t)
	require.True(t, committed(at)())
}

// A member that is told to stop while a rebalance is drawn out by another one does not wait for its end.
func TestStoppingDoesNotWaitForARebalance(t *testing.T) {
	t.Parallel()
	c := broker(t, 2)
	m := join(t, c, nil)
	shared(t, 2, m)
	c.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, nil, true // joins are not answered
	})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", Err: kerr.RebalanceInProgress, TopLevel: true})
	time.Sleep(400 * time.Millisecond)
	began := time.Now()
	m.end(t)
	require.Less(t, time.Since(began), 6*time.Second+leaving)
}
