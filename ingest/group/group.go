// Package group shares out the partitions among the processes that ingest: Kafka's consumer group says whose a partition is, and keeps
// the commits. It is trusted with nothing else. That two processes believe to own the same partition is harmless, and is what happens
// whenever one of them slept longer than the session lasts.
//
// The client of the group reads no records: each owner reads its partition by itself, from where it wants to.
//
// An owner that was refused, because another one's term is in the table, has given its partition up. It takes it again only when the
// group says that the partition is its own: after a pause in which a process that is no longer a member of the group, and does not
// know it yet, comes to learn it, the coordinator is asked by a heartbeat whether the membership under which the partition was
// assigned still holds. If so, the partition is owned again; if not, the group has given it to somebody else, or is about to assign
// everything anew. So no partition is left without an owner while a member lives, and no two owners take it from each other for ever.
package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest/topic"
)

// Options of a membership. Zero means the default.
type Options struct {
	// Session is how long a member may be silent before its partitions are given to others; default 10 s. Heartbeats go out three times
	// as often.
	Session time.Duration
	// Rebalance is how long a rebalance waits for members to let go of their partitions; default 30 s.
	Rebalance time.Duration
	// Discover is how often is looked for partitions that were added to the topic; default 30 s.
	Discover time.Duration
	// Commit is the least time between two commits; default 1 s.
	Commit time.Duration
	// Pause is how long an owner that was refused waits at least before the group is asked whose the partition is; default the
	// session, so that who was thrown out of the group has noticed. The wait is drawn anew each time, up to twice as long.
	Pause time.Duration
}

func (o Options) withDefaults() Options {
	set := func(at *time.Duration, standard time.Duration) {
		if *at <= 0 {
			*at = standard
		}
	}
	set(&o.Session, 10*time.Second)
	set(&o.Rebalance, 30*time.Second)
	set(&o.Discover, 30*time.Second)
	set(&o.Commit, time.Second)
	set(&o.Pause, o.Session)
	return o
}

// Own owns a partition until ctx ends, which is no error, or until it must give it up.
type Own func(ctx context.Context, partition int32) error

// Group is a membership. Run it once.
type Group struct {
	topic   string
	name    string
	options Options
	own     Own
	log     *slog.Logger
	client  *kgo.Client

	mu       sync.Mutex
	owners   map[int32]*owner
	marks    map[int32]topic.Commit // to be committed
	stopping bool
}

type owner struct {
	stop context.CancelFunc
	done chan struct{}
}

// New returns a membership that owns what it is assigned by own. It does not wait for the broker.
func New(name, topicName string, options Options, own Own, log *slog.Logger, client ...kgo.Opt) (*Group, error) {
	g := &Group{topic: topicName, name: name, options: options.withDefaults(), own: own, log: log, owners: map[int32]*owner{}, marks: map[int32]topic.Commit{}}
	var err error
	g.client, err = kgo.NewClient(append(client[:len(client):len(client)],
		kgo.ConsumerGroup(name),
		kgo.ConsumeTopics(topicName),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(g.options.Session),
		kgo.HeartbeatInterval(g.options.Session/3),
		kgo.RebalanceTimeout(g.options.Rebalance),
		kgo.MetadataMaxAge(g.options.Discover),
		kgo.MetadataMinAge(min(g.options.Discover, time.Second)),
		kgo.DisableAutoCommit(),
		// Nothing is fetched by this client.
		kgo.AdjustFetchOffsetsFn(func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return nil, nil
		}),
		kgo.OnPartitionsAssigned(func(ctx context.Context, _ *kgo.Client, of map[string][]int32) { g.assigned(ctx, of[topicName]) }),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, of map[string][]int32) { g.revoked(ctx, of[topicName], true) }),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, of map[string][]int32) { g.revoked(ctx, of[topicName], false) }),
	)...)
	if err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	return g, nil
}

// Owned returns how many partitions this member owns now.
func (g *Group) Owned() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.owners)
}

// Mark notes a position to be committed soon.
func (g *Group) Mark(partition int32, at topic.Commit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.marks[partition] = at
}

// leaving bounds how long a member waits for the group when it leaves.
const leaving = 3 * time.Second

// Run is a member until ctx ends. Then it lets the owners end, commits what they did, and leaves the group.
func (g *Group) Run(ctx context.Context) error {
	var background sync.WaitGroup
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	background.Go(func() { g.listen(own) })
	tick := time.NewTicker(g.options.Commit)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			limited, cancel := context.WithTimeout(ctx, g.options.Session)
			if err := g.commit(limited, nil); err != nil && ctx.Err() == nil {
				g.log.Warn("offsets are not committed; trying again", "error", err) // a hint that is late: no doubt
			}
			cancel()
		}
	}
	g.mu.Lock()
	g.stopping = true
	var all []int32
	for p := range g.owners {
		all = append(all, p)
	}
	g.mu.Unlock()
	g.revoked(own, all, true)
	stop()
	// Leaving waits for a rebalance that is going on, which others may draw out. Who does not wait for it is missed by the group
	// when the session is over.
	left := make(chan struct{})
	go func() {
		g.client.Close()
		close(left)
	}()
	select {
	case <-left:
	case <-time.After(leaving):
		g.log.Info("left without the group's answer; it will notice when the session is over", "group", g.name)
	}
	background.Wait()
	return nil
}

// listen hears what the client has to say. It has no records; errors of the session it deals with by itself.
func (g *Group) listen(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := g.client.PollFetches(ctx)
		if fetches.IsClientClosed() {
			return
		}
		for _, e := range fetches.Errors() {
			if ctx.Err() == nil {
				g.log.Warn("consumer group", "group", g.name, "error", e.Err)
			}
		}
	}
}

func (g *Group) assigned(ctx context.Context, partitions []int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		return
	}
	for _, p := range partitions {
		if g.owners[p] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		o := &owner{stop, make(chan struct{})}
		g.owners[p] = o
		go func() {
			defer close(o.done)
			defer stop()
			g.keep(own, p)
		}()
	}
	g.log.Info("assigned", "partitions", partitions)
}

// revoked lets go of partitions, and commits what was done if the group still listens. It returns when the owners have ended.
func (g *Group) revoked(ctx context.Context, partitions []int32, commit bool) {
	g.mu.Lock()
	var ending []*owner
	for _, p := range partitions {
		if o := g.owners[p]; o != nil {
			ending = append(ending, o)
			o.stop()
		}
	}
	g.mu.Unlock()
	for _, o := range ending {
		<-o.done // bounded: an owner waits for nothing longer than its grace
	}
	if commit {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := g.commit(limited, partitions); err != nil {
			g.log.Info("offsets are not committed; whoever owns the partitions next begins a little earlier", "error", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range partitions {
		delete(g.owners, p)
		delete(g.marks, p)
	}
	if len(partitions) > 0 {
		g.log.Info("let go", "partitions", partitions)
	}
}

// keep owns a partition as long as it is assigned, also after it was refused.
func (g *Group) keep(ctx context.Context, partition int32) {
	for pause := g.options.Pause; ; pause = min(2*pause, 2*g.options.Pause) {
		began := time.Now()
		err := g.own(ctx, partition)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*g.options.Pause {
			pause = g.options.Pause
		}
		g.log.Warn("gave a partition up", "partition", partition, "error", err)
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause + rand.N(pause)):
			}
			if err := g.member(ctx); err != nil {
				g.log.Info("waiting for the group to say whose the partition is", "partition", partition, "error", err)
			} else {
				again = true
			}
		}
	}
}

// member asks the group's coordinator whether the membership under which partitions are assigned still holds.
func (g *Group) member(ctx context.Context) error {
	id, generation := g.client.GroupMetadata()
	if id == "" {
		return kerr.UnknownMemberID
	}
	limited, cancel := context.WithTimeout(ctx, g.options.Session)
	defer cancel()
	request := kmsg.NewPtrHeartbeatRequest()
	request.Group, request.Generation, request.MemberID = g.name, generation, id
	response, err := request.RequestWith(limited, g.client)
	if err == nil {
		err = kerr.ErrorForCode(response.ErrorCode)
	}
	return err
}

// commit commits the marks of the given partitions, nil meaning all.
func (g *Group) commit(ctx context.Context, only []int32) error {
	g.mu.Lock()
	marks := make(map[int32]topic.Commit, len(g.marks))
	if only == nil {
		marks, g.marks = g.marks, marks
	}
	for _, p := range only {
		if m, ok := g.marks[p]; ok {
			marks[p] = m
			delete(g.marks, p)
		}
	}
	g.mu.Unlock()
	if len(marks) == 0 {
		return nil
	}
	offsets := make(map[int32]kgo.EpochOffset, len(marks))
	for p, m := range marks {
		offsets[p] = kgo.EpochOffset{Epoch: m.Epoch, Offset: m.Offset}
	}
	var failed error
	ctx = kgo.PreCommitFnContext(ctx, func(request *kmsg.OffsetCommitRequest) error {
		for t := range request.Topics {
			for p := range request.Topics[t].Partitions {
				at := &request.Topics[t].Partitions[p]
				metadata := marks[at.Partition].Metadata()
				at.Metadata = &metadata
			}
		}
		return nil
	})
	g.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{g.topic: offsets}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if response == nil {
			return
		}
		for _, t := range response.Topics {
			for _, p := range t.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	if failed == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, m := range marks { // unless the owner has come further, or is gone
		if _, newer := g.marks[p]; !newer && g.owners[p] != nil {
			g.marks[p] = m
		}
	}
	return fmt.Errorf("commit offsets of group %s: %w", g.name, failed)
}
