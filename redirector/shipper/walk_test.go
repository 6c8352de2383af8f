package shipper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/redirector/journal"
	"spillway.dev/redirector/journal/disk"
	"spillway.dev/schemas/event"
)

// The walk appends while a seed decides what happens to the broker and to the process: produce requests that fail, vanish, are slow or are
// carried out without an answer, leaders that move, processes that are killed (and a while go on as zombies), clean ends, the power cut.
// When all has healed, the topic must hold every event that was to be kept, under its one name, in its place, and say where each
// stream ended.
//
//	SPILLWAY_WALK_SEED=n     one seed, with every step printed
//	SPILLWAY_WALK_SECONDS=n  for so long

type walk struct {
	t      *testing.T
	r      *rand.Rand
	c      *kfake.Cluster
	files  *disk.Memory
	j      *journal.Journal
	stop   context.CancelFunc
	done   chan error
	events map[uint64][][]byte // by stream, in order; those that must arrive
	torn   map[uint64]bool     // streams whose tail a power cut may have taken
	gone   map[uint64]bool     // streams that it took whole
	trace  func(string, ...any)
	log    *slog.Logger
	faults []*kfake.FaultHandle
}

func (w *walk) open() {
	j, err := journal.Open(journal.Options{Files: w.files, Lanes: lanes, SegmentBytes: 32 << 10, MaxBytes: 4 << 20, SyncInterval: 5 * time.Millisecond, Origin: "walk"})
	require.NoError(w.t, err)
	w.j = j
	s, err := New(j, Options{
		Brokers: w.c.ListenAddrs(), Topic: topic, AnnounceInterval: 10 * time.Millisecond, Linger: time.Millisecond, CloseTimeout: 200 * time.Millisecond,
		StallTimeout: 300 * time.Millisecond, Logger: w.log, patience: 50 * time.Millisecond,
		Client:     []kgo.Opt{kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }), kgo.MetadataMinAge(10 * time.Millisecond)},
		BatchBytes: 200 + w.r.IntN(4000), MaxInflight: 10_000 + w.r.IntN(100_000),
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.done = cancel, make(chan error, 1)
	go func(done chan error) { done <- s.Run(ctx) }(w.done)
	w.trace("start: stream %016x, %d older", j.Live().ID(), len(j.Streams())-1)
	present := map[uint64]bool{}
	for _, s := range j.Streams() {
		present[s.ID()] = true
	}
	for id := range w.torn {
		w.gone[id] = w.gone[id] || !present[id]
	}
}

// end stops the shipper and closes the journal.
func (w *walk) end() {
	w.stop()
	select {
	case err := <-w.done:
		require.NoError(w.t, err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("the shipper does not stop")
	}
	require.NoError(w.t, w.j.Close())
}

func (w *walk) append() {
	s := w.j.Live()
	n := 1 + w.r.IntN(60)
	for range n {
		e := &event.Event{LinkId: w.r.Uint64(), UserAgent: string(bytes.Repeat([]byte{'x'}, w.r.IntN(200)))}
		if k, ok := w.j.Append(e); ok {
			b, err := e.MarshalVT()
			require.NoError(w.t, err)
			w.events[s.ID()] = append(w.events[s.ID()], b)
			require.Len(w.t, w.events[s.ID()], int(k))
		}
	}
	w.trace("appended up to %d", len(w.events[s.ID()]))
}

var brokerErrors = []*kerr.Error{
	kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.InvalidRecord,
	kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.UnknownServerError, kerr.UnknownTopicOrPartition,
}

func (w *walk) step() {
	switch x := w.r.IntN(100); {
	case x < 50:
		w.append()
	case x < 65:
		d := time.Duration(w.r.IntN(8000)) * time.Microsecond
		time.Sleep(d)
	case x < 75:
		code, n := brokerErrors[w.r.IntN(len(brokerErrors))], 1+w.r.IntN(4)
		w.faults = append(w.faults, w.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: code, Count: n}))
		w.trace("the next %d produce requests: %s", n, code.Message)
	case x < 80:
		n := 1 + w.r.IntN(3)
		w.trace("the next %d produce requests vanish", n)
		w.c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			if n--; n < 0 {
				w.c.DropControl()
				return nil, nil, false
			}
			w.c.KeepControl()
			return nil, errors.New("the connection is cut"), true
		})
	case x < 84:
		d := time.Duration(w.r.IntN(30)) * time.Millisecond
		w.c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.c.DropControl()
			time.Sleep(d) // of the whole broker: SleepControl has a race of its own
			return nil, nil, false
		})
		w.trace("the next produce request takes %v", d)
	case x < 88:
		w.c.ShufflePartitionLeaders()
		w.trace("leaders move")
	case x < 90:
		w.trace("clean end")
		w.end()
		w.files = w.files.Kill()
		w.open()
	case x < 97:
		w.crash(w.r.IntN(2) == 0)
	default:
		for _, s := range w.j.Streams() {
			s.Rewind()
		}
		w.trace("rewound")
	}
}

// crash starts again from what a kill, or a power failure, leaves. The old process goes on for a moment, as a zombie on a machine that was
// taken for dead does: what it sends and announces must do no harm.
func (w *walk) crash(power bool) {
	stop, done, j := w.stop, w.done, w.j
	if power {
		for _, s := range j.Streams() {
			w.torn[s.ID()] = true
		}
		w.files = w.files.Cut(w.r)
	} else {
		w.files = w.files.Kill()
	}
	w.trace("crash, power %v", power)
	w.open()
	stop()
	select {
	case err := <-done:
		require.NoError(w.t, err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("the zombie's shipper does not stop")
	}
	require.NoError(w.t, j.Close())
}

// judge waits until all is shipped, and says what is missing, different or not announced.
func (w *walk) judge() error {
	for _, f := range w.faults {
		f.Remove()
	}
	w.end()
	w.files = w.files.Kill()
	w.open() // what did not make it in time is shipped by the next start
	require.Eventually(w.t, func() bool { return len(w.j.Streams()) == 1 }, time.Minute, time.Millisecond, "older streams are not shipped")
	w.end()
	l := consume(w.t, w.c)
	for id, events := range w.events {
		for p := range lanes.Partitions {
			// A zombie's announcement may stand behind its heir's final one: an end that was announced stays announced.
			a := l.final[id][p]
			switch last := lanes.Last(p, uint64(len(events))); {
			case a == nil && w.gone[id]:
				continue // the power failed before anything of it was on the disk; who heard of it hears no end
			case a == nil:
				return fmt.Errorf("stream %016x: no end was announced in partition %d", id, p)
			case !w.torn[id] && (a.Journaled != last || len(a.Unreadable) > 0):
				return fmt.Errorf("stream %016x: announced is %v, not %d, in partition %d", id, a, last, p)
			}
			for sequence := uint64(1); sequence <= lanes.Last(p, uint64(len(events))); sequence++ {
				k := lanes.Event(p, sequence)
				got := l.events[id][p][sequence]
				if got == nil && w.torn[id] && (sequence > a.Journaled || slices.ContainsFunc(a.Unreadable, func(r *event.Range) bool { return r.First <= sequence && sequence <= r.Last })) {
					continue // beyond the announced end, or called unreadable
				}
				if !bytes.Equal(events[k-1], got) {
					return fmt.Errorf("stream %016x: event %d is missing or different: %x, not %x", id, k, got, events[k-1])
				}
			}
		}
	}
	return nil
}

func runWalk(t *testing.T, seed uint64, hasty bool, trace func(string, ...any), log *slog.Logger) error {
	w := &walk{t: t, log: log, r: rand.New(rand.NewPCG(seed, 2)), files: disk.NewMemory(), events: map[uint64][][]byte{}, torn: map[uint64]bool{}, gone: map[uint64]bool{}, trace: trace}
	w.c = cluster(t, kfake.NumBrokers(1+w.r.IntN(3)))
	w.open()
	for range 20 + w.r.IntN(60) {
		w.step()
		if hasty {
			s := w.j.Live()
			s.Acknowledge(s.Last())
		}
	}
	return w.judge()
}

func TestWalk(t *testing.T) {
	if text := os.Getenv("SPILLWAY_WALK_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		err = runWalk(t, seed, false, t.Logf, slog.New(slog.NewTextHandler(t.Output(), nil)))
		require.NoError(t, err)
		return
	}
	seconds := 3
	if text := os.Getenv("SPILLWAY_WALK_SECONDS"); text != "" {
		var err error
		seconds, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var running sync.WaitGroup
	var mu sync.Mutex
	walks := 0
	for range 4 {
		running.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				seed := rand.Uint64N(1 << 40)
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					t.Cleanup(func() {
						if t.Failed() {
							t.Logf("walk it again with SPILLWAY_WALK_SEED=%d go test ./shipper -run TestWalk -v", seed)
						}
					})
					require.NoError(t, runWalk(t, seed, false, func(string, ...any) {}, slog.New(slog.DiscardHandler)))
				})
				mu.Lock()
				walks++
				mu.Unlock()
			}
		})
	}
	running.Wait()
	t.Logf("%d walks", walks)
}

// A cursor that is saved before the acknowledgement must be found out, or the walk proves nothing.
func TestWalkFindsAHastyCursor(t *testing.T) {
	for seed := range uint64(30) {
		if err := runWalk(t, seed, true, func(string, ...any) {}, slog.New(slog.DiscardHandler)); err != nil {
			return
		}
	}
	t.Fatal("30 walks with events acknowledged before they were sent, and nothing was missed")
}
