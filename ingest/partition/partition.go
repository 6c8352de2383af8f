// Package partition owns one partition of the topic of events: it takes it, and then turns what Kafka has into rows, each exactly
// once, until it is told to stop or somebody else takes it.
//
// # Taking
//
// The table is the truth. Whoever begins, and whoever is in doubt, takes the partition, which is four steps (Owner.own):
//
//  1. write a new term, and wait for the answer: from now on the table refuses the rows of every older owner;
//  2. wait until the inserts that were already running have ended: from now on no row appears that is not ours;
//  3. read from the table what is there;
//  4. read Kafka from the commit on, skip what is there, insert the rest, one insert at a time; remember what was answered, and only
//     then commit the offset.
//
// There is one answer to every doubt: take again. An insert without an answer may have happened, in full, for one of its months, not
// at all; step 2 waits for it and step 3 reads what it did. A fetch error, a log that was cut off, a topic that was made again, a term
// that is gone because ClickHouse was started: the same. Nothing that was known before is kept but how far back a rewind must go.
//
// Who is refused because somebody else's term is there gives the partition up (ErrRefused of package fence), and takes it again only
// when the group says once more that it is theirs.
//
// # Where to begin
//
// A commit is only a hint: beginning too early costs time, and beginning too late is found and repaired. Each of these has its rule
// (Owner.begin):
//
//	no commit, the group was deleted         the earliest offset
//	the log was cut off (leader epoch)       where it was cut off
//	the commit lies beyond the log's end     the earliest offset
//	the topic was deleted and made again     the earliest offset (its id stands beside the commit)
//	retention has passed the commit by       the earliest offset; what is lost is counted and said
//	ClickHouse was started                   an hour before the commit, by Kafka's time: it may have lost what was not yet on disk
//	the table knows nothing at all           the earliest offset: it was made anew
//	something announced is missing           the earliest offset, once for each such finding
//	--rewind                                 the earliest offset, once
//	partitions were added                    the earliest offset: they have no commit
//
// A rewind that a doubt interrupts goes on from where it was, not from the commit.
//
// What cannot be taken in is set aside in the topic of dead letters, with the reason: records that do not decode, and events whose month
// is older than the retention. To this owner such events count as there.
package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"spillway.dev/ingest/announcements"
	"spillway.dev/ingest/changed"
	"spillway.dev/ingest/columns"
	"spillway.dev/ingest/deadletter"
	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/presence"
	"spillway.dev/ingest/table"
	"spillway.dev/ingest/topic"
)

// Options say how an owner works. Zero means the default, but where it is said otherwise.
type Options struct {
	// Rows is the most rows that are gathered for one insert; default 400 000: so many come only when
	// there is a backlog, and then each row saves ClickHouse merging it once more. One batch of Kafka more may be in it.
	Rows int
	// Bytes is the most bytes of encoded batches that are gathered for one insert; default 128 MiB.
	Bytes int
	// Age is the longest pause between two inserts while there is something to insert; default 500 ms. See following.pause.
	Age time.Duration
	// Answer is how long an insert may take before it counts as without an answer; default 60 s.
	Answer time.Duration
	// Grace is how long a running insert is waited for when the owner is told to stop; default 5 s.
	Grace time.Duration
	// Commit is the least time between two commits of a partition; default 1 s.
	Commit time.Duration
	// Look is how often an owner looks whether it still is one and whether something is missing; default 5 s.
	Look time.Duration
	// Settle is how long what was announced may be missing before Kafka is read again for it; default 1 min. Then twice as long,
	// up to an hour, as long as something is missing.
	Settle time.Duration
	// Heal is how far before the commit one begins after ClickHouse was started; default 1 h.
	Heal time.Duration
	// Backoff is the pause after the first doubt; it doubles up to 100 times as much; default 100 ms.
	Backoff time.Duration
	// RetentionDays is how many days raw events are kept; what is of an older month is set aside; default 400.
	RetentionDays int
	// Rewind begins at the earliest offset, once.
	Rewind bool
}

func (o Options) withDefaults() Options {
	standard := Options{Rows: 400_000, Bytes: 128 << 20, Age: 500 * time.Millisecond, Answer: time.Minute, Grace: 5 * time.Second, Commit: time.Second,
		Look: 5 * time.Second, Settle: time.Minute, Heal: time.Hour, Backoff: 100 * time.Millisecond, RetentionDays: 400}
	set(&o.Rows, standard.Rows)
	set(&o.Bytes, standard.Bytes)
	set(&o.Age, standard.Age)
	set(&o.Answer, standard.Answer)
	set(&o.Grace, standard.Grace)
	set(&o.Commit, standard.Commit)
	set(&o.Look, standard.Look)
	set(&o.Settle, standard.Settle)
	set(&o.Heal, standard.Heal)
	set(&o.Backoff, standard.Backoff)
	set(&o.RetentionDays, standard.RetentionDays)
	return o
}

func set[T int | time.Duration](option *T, standard T) {
	if *option <= 0 {
		*option = standard
	}
}

// Parts are what the owners of a process share.
type Parts struct {
	Shards        *table.Shards
	Fence         *fence.Fence
	Topic         *topic.Topic
	Blocks        *columns.Pool
	Announcements *announcements.Writer
	Hints         *changed.Hints
	Letters       *deadletter.Box
	// Commit notes up to where a partition is done. It must not wait.
	Commit  func(partition int32, at topic.Commit)
	Metrics *Metrics
	Log     *slog.Logger
}

// Owner owns one partition, again and again as the group assigns it to this process. Run must not be called twice at a time.
type Owner struct {
	Parts
	partition int32
	options   Options
	log       *slog.Logger

	// What outlives a take: nothing about the rows, only how far back one must still go, and what was tried already.
	mine    fence.Term // held last
	rewind  *rewind    // that has not come to its end
	asked   bool       // for a rewind by Options.Rewind, which has not begun
	missing findings
	doubts  int // since something was answered

	// Steps 2 and 3, which tests replace to prove that they are needed.
	wait func(context.Context, node, fence.Term) error
	load func(context.Context, node) (*presence.Partition, error)
}

// node is the ClickHouse node that the partition's rows are written through, which is the only one if there is no cluster.
type node struct {
	table *table.Table
	fence *fence.Fence
}

// rewind is reading again from before the commit.
type rewind struct {
	cause  string
	next   int64 // everything from here on is to be read again
	until  int64 // the log's end when it began
	healed bool  // next has come to until
}

// Causes of rewinds, as in the metric.
const (
	rewindStarted = "clickhouse_started"
	rewindMissing = "missing"
	rewindAsked   = "asked"
)

// New returns the owner-to-be of a partition.
func New(partition int32, parts Parts, options Options) *Owner {
	o := &Owner{Parts: parts, partition: partition, options: options.withDefaults(), log: parts.Log.With("partition", partition), asked: options.Rewind}
	o.wait = func(ctx context.Context, at node, held fence.Term) error {
		return at.fence.Wait(ctx, o.partition, held)
	}
	o.load = func(ctx context.Context, at node) (*presence.Partition, error) {
		return presence.Load(ctx, at.table, o.partition)
	}
	return o
}

// doubt is an error after which the owner does not know what is in the table, or what is in Kafka.
type doubt struct {
	cause string
	err   error
}

func (d *doubt) Error() string { return d.err.Error() }
func (d *doubt) Unwrap() error { return d.err }

// Causes of doubts, as in the metric.
const (
	causeInsert     = "insert"     // not answered, or answered by an error
	causeFetch      = "fetch"      // Kafka answered with an error
	causeKafka      = "kafka"      // Kafka did not say where to begin
	causeClickHouse = "clickhouse" // the partition could not be taken
	causeTerm       = "term"       // gone: ClickHouse was started
	causeTopic      = "topic"      // deleted, or made again
)

func doubtful(cause string, err error) error { return &doubt{cause, err} }

// errAgain asks for another take without a doubt: there is a reason to begin elsewhere.
var errAgain = errors.New("take again")

// Run owns the partition until ctx ends, which is no error, or until somebody else takes it, which is fence.ErrRefused.
func (o *Owner) Run(ctx context.Context) error {
	defer o.Metrics.forget(o.partition)
	// Meanwhile somebody else may have owned the partition: only what was asked for goes on.
	o.asked = o.asked || o.rewind != nil && o.rewind.cause == rewindAsked
	o.mine, o.rewind, o.doubts = 0, nil, 0
	for {
		err := o.own(ctx)
		var d *doubt
		switch {
		case errors.Is(err, fence.ErrRefused):
			o.Metrics.refused.WithLabelValues(label(o.partition)).Inc()
			return fmt.Errorf("partition %d: %w", o.partition, err)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errAgain):
			continue
		case errors.As(err, &d):
			o.Metrics.doubts.WithLabelValues(d.cause).Inc()
		default:
			return fmt.Errorf("partition %d: %w", o.partition, err)
		}
		pause := min(o.options.Backoff<<min(o.doubts, 7), 100*o.options.Backoff)
		o.doubts++
		o.log.Warn("in doubt; taking the partition again", "cause", d.cause, "pause", pause, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// own takes the partition and works until ctx ends, there is a doubt, or it is refused.
func (o *Owner) own(ctx context.Context) error {
	began := time.Now()
	pinned, err := o.Shards.Node(ctx, o.partition)
	if err != nil {
		return doubtful(causeClickHouse, err)
	}
	at := node{pinned, o.Fence.On(pinned)}
	healed := o.rewind != nil && o.rewind.healed
	term, err := at.fence.Take(ctx, o.partition, o.mine, healed) // 1
	if err != nil {
		return o.notTaken(err)
	}
	o.mine = term
	if healed {
		o.rewind = nil
	}
	if err := o.wait(ctx, at, term); err != nil { // 2
		return o.notTaken(err)
	}
	there, err := o.load(ctx, at) // 3
	if err != nil {
		return o.notTaken(err)
	}
	from, bounds, err := o.begin(ctx, term, there) // 4
	if err != nil {
		return doubtful(causeKafka, err)
	}
	o.Metrics.takes.WithLabelValues(label(o.partition)).Inc()
	o.Metrics.takeSeconds.Observe(time.Since(began).Seconds())
	o.Metrics.owned.WithLabelValues(label(o.partition)).Set(1)
	o.log.Info("took the partition", "offset", from.Offset, "end", bounds.End, "streams", there.Streams(), "holes", there.Holes(), "took", time.Since(began).Round(time.Millisecond))
	return o.follow(ctx, at, term, there, from, bounds)
}

func (o *Owner) notTaken(err error) error {
	if errors.Is(err, fence.ErrRefused) {
		return err
	}
	return doubtful(causeClickHouse, err)
}
