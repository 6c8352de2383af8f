package partition

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway.dev/ingest/fence"
	"spillway.dev/ingest/internal/faultproxy"
	"spillway.dev/ingest/presence"
)

// walk is a random schedule on the real engines: streams are shipped, sent again and announced, while up to three workers believe to
// own each partition and everything between them and the engines fails in every way that faultproxy and the broker know. It is the
// model of the protocol (design, section 2) played for real, so it can only be slower and smaller. A seed decides what is done; when the
// engines answer is theirs.
type walk struct {
	*world
	random    *rand.Rand
	control   func(*Owner) // switches a mechanism off, in negative controls
	workers   []*worker
	owners    []*running
	streams   []*stream
	overtaken []func() // batches that others have overtaken on their way

	mu   sync.Mutex // of fates, which are drawn by many requests at once
	luck *rand.Rand
	calm bool
}

// stream is one start of a redirector, in both partitions.
type stream struct {
	id        uint64
	journaled [partitions]uint64
	shipped   [partitions]uint64
}

const mostStreams = 3

func newWalk(t testing.TB, seed uint64, control func(*Owner)) *walk {
	w := &walk{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 1)), luck: rand.New(rand.NewPCG(seed, 2)), control: control}
	w.exec("SYSTEM STOP MERGES events") // so that a part is one insert's
	if control != nil || seed%2 == 0 {
		// A slow disk: an insert lingers between the check of its term and its parts.
		w.exec("ALTER TABLE events ADD CONSTRAINT slow CHECK sleep(0.04) = 0")
	}
	for range 3 {
		k := w.worker(quick())
		k.proxy.Decide(w.fate)
		k.commits = w.committing
		w.workers = append(w.workers, k)
	}
	w.streams = append(w.streams, &stream{id: 1})
	return w
}

func (w *walk) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calm {
		return -1
	}
	return w.luck.IntN(n)
}

// fate decides what becomes of a request.
func (w *walk) fate(r faultproxy.Request) faultproxy.Fate {
	if !r.Change() {
		if w.draw(60) == 0 {
			return faultproxy.Fate{Error: true}
		}
		return faultproxy.Fate{}
	}
	long := time.Duration(max(w.draw(120), 0)) * time.Millisecond
	switch w.draw(14) {
	case 0:
		return faultproxy.Fate{Never: true, Cut: true}
	case 1:
		return faultproxy.Fate{Cut: true}
	case 2:
		return faultproxy.Fate{Error: true}
	case 3, 4:
		return faultproxy.Fate{Hold: long} // a zombie; or a request that sat in the network
	case 5:
		return faultproxy.Fate{Hold: long, Cut: true}
	case 6:
		return faultproxy.Fate{Slow: long}
	case 7:
		if r.Insert() { // it fails between its two months
			return faultproxy.Fate{Error: true, After: func() { w.dropNewest(1) }}
		}
	}
	return faultproxy.Fate{}
}

// committing decides what becomes of a commit: lost, late and over newer ones, or applied.
func (w *walk) committing(apply func()) {
	switch w.draw(8) {
	case 0:
	case 1:
		time.AfterFunc(time.Duration(max(w.draw(150), 0))*time.Millisecond, apply)
	default:
		apply()
	}
}

// dropNewest takes the newest parts away. The engine is held still meanwhile.
func (w *walk) dropNewest(parts int) {
	rows, err := w.table.Query(context.Background(), fmt.Sprintf(
		"SELECT name FROM system.parts WHERE database = currentDatabase() AND table = 'events' AND active ORDER BY modification_time DESC, min_block_number DESC LIMIT %d", parts))
	if err != nil {
		return
	}
	var names []string
	for rows.Next() {
		var n string
		if rows.Scan(&n) == nil {
			names = append(names, n)
		}
	}
	_ = rows.Close()
	for _, n := range names {
		w.exec("ALTER TABLE events DROP PART '" + n + "'")
	}
}

func (w *walk) step() {
	s := w.streams[w.random.IntN(len(w.streams))]
	p := w.random.IntN(partitions)
	switch what := w.random.IntN(40); {
	case what < 12: // ship
		w.ship(s, p, 1+w.random.IntN(6))
	case what < 14: // send again, cut differently
		if to := s.shipped[p]; to > 0 && len(w.overtaken) == 0 {
			first := 1 + w.random.Uint64N(to)
			w.produce(int32(p), batch(s.id, first, 1+w.random.IntN(int(min(to-first+1, 9)))))
		}
	case what < 16:
		if len(w.overtaken) > 0 {
			i := w.random.IntN(len(w.overtaken))
			w.overtaken[i]()
			w.overtaken = append(w.overtaken[:i], w.overtaken[i+1:]...)
		}
	case what < 19:
		w.produce(int32(p), announce(s.id, s.journaled[p]))
	case what < 20:
		if len(w.streams) < mostStreams {
			w.streams = append(w.streams, &stream{id: uint64(len(w.streams) + 1)})
		}
	case what < 27: // somebody believes to own it
		if w.random.IntN(2) == 0 { // while another one inserts
			w.ship(s, p, 1+w.random.IntN(6))
			time.Sleep(time.Duration(w.random.IntN(40)) * time.Millisecond)
		}
		w.own(int32(p))
	case what < 30: // somebody stops, or is killed
		if len(w.owners) > 0 {
			i := w.random.IntN(len(w.owners))
			w.owners[i].stop()
			w.owners = append(w.owners[:i], w.owners[i+1:]...)
		}
	case what < 34: // Kafka fails
		errs := []*kerr.Error{kerr.NotLeaderForPartition, kerr.OffsetOutOfRange, kerr.UnknownServerError, kerr.CorruptMessage}
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: w.topicName, Partitions: []int32{int32(p)}, Err: errs[w.random.IntN(len(errs))]})
	case what < 35:
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.CoordinatorLoadInProgress})
	case what < 36: // ClickHouse is killed: terms are gone, and the last parts may be
		drop := w.random.IntN(4)
		w.server.Still(func() {
			w.exec("TRUNCATE TABLE terms")
			w.dropNewest(drop)
		})
	case what < 37:
		_, _ = w.admin.DeleteGroup(context.Background(), w.group)
	case what < 38:
		_ = w.cluster.MoveTopicPartition(w.topicName, int32(p), 0) // a new leader epoch
	}
	time.Sleep(time.Duration(w.random.IntN(8)) * time.Millisecond)
}

// ship journals n more events of a stream and sends them, or lets others overtake them.
func (w *walk) ship(s *stream, p, n int) {
	s.journaled[p] += uint64(n)
	first := s.shipped[p] + 1
	s.shipped[p] += uint64(n)
	send := func() { w.click(int32(p), s.id, first, n) }
	if w.random.IntN(3) == 0 {
		w.overtaken = append(w.overtaken, send)
	} else {
		send()
	}
}

// own lets some worker believe to own a partition.
func (w *walk) own(p int32) {
	if len(w.owners) < 5 {
		w.owners = append(w.owners, w.workers[w.random.IntN(len(w.workers))].start(p, w.change))
	}
}

func (w *walk) change(o *Owner) {
	if w.control != nil {
		w.control(o)
	}
}

// run walks, and then lets the faults stop and everything come home. It returns what is wrong in the end, or during the walk.
func (w *walk) run(steps int, patience time.Duration) (wrong string) {
	for i := range steps {
		w.step()
		if w.control != nil && i%20 == 0 {
			if wrong = w.verdict(); strings.HasPrefix(wrong, "doubled") {
				return wrong
			}
		}
		for i := 0; i < len(w.owners); { // who was refused has given up
			select {
			case <-w.owners[i].done:
				w.owners = append(w.owners[:i], w.owners[i+1:]...)
			default:
				i++
			}
		}
	}
	for _, send := range w.overtaken {
		send()
	}
	for i := range w.streams {
		for p := range partitions {
			if w.streams[i].journaled[p] > 0 {
				w.produce(int32(p), announce(w.streams[i].id, w.streams[i].journaled[p]))
			}
		}
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	// Zombies wake before, while, or after the last owners take.
	order := w.random.IntN(3)
	stopAll := func() {
		for _, o := range w.owners {
			o.stop()
		}
	}
	if order == 0 {
		stopAll()
	}
	last := w.worker(quick())
	deadline := time.Now().Add(patience)
	owners := make([]*running, partitions)
	for time.Now().Before(deadline) {
		for p := range owners {
			if owners[p] == nil {
				owners[p] = last.start(int32(p), w.change)
			}
			select {
			case <-owners[p].done:
				owners[p] = nil // refused by a zombie that took it once more
			default:
			}
		}
		if order == 1 {
			stopAll()
		}
		if wrong = w.verdict(); wrong == "" || wrong[0] == 'd' {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	stopAll()
	for _, o := range w.owners {
		<-o.done
	}
	for _, k := range w.workers {
		k.proxy.Wait() // what was kept on its way has arrived
	}
	for _, o := range owners {
		if o != nil {
			_ = o.end()
		}
	}
	if wrong == "" {
		wrong = w.verdict()
	}
	return wrong
}

// seed is SPILLWAY_SEED, or drawn.
func seed(t testing.TB) (seed uint64, given bool) {
	t.Helper()
	if text := os.Getenv("SPILLWAY_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SPILLWAY_SEED is a number")
		return n, true
	}
	return rand.Uint64N(1 << 32), false
}

// steps of a walk.
const steps = 60

// walkFor is how long the random walk of an ordinary run goes on; SPILLWAY_WALK=10m makes it longer.
const walkFor = 4 * time.Second

func TestRandomWalk(t *testing.T) {
	first, given := seed(t)
	long := walkFor
	if text := os.Getenv("SPILLWAY_WALK"); text != "" {
		var err error
		long, err = time.ParseDuration(text)
		require.NoError(t, err, "SPILLWAY_WALK is a duration")
	}
	began := time.Now()
	walks := uint64(0)
	for ; walks == 0 || !given && time.Since(began) < long; walks++ {
		s := first + walks
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			if wrong := newWalk(t, s, nil).run(steps, 20*time.Second); wrong != "" {
				t.Fatalf("%s (walk it again with SPILLWAY_SEED=%d)", wrong, s)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d walks from seed %d", walks, first)
}

// The walk must be able to fail: with any mechanism switched off it does.
func TestNegativeControls(t *testing.T) {
	for what, control := range map[string]struct {
		owner func(*Owner)
		world func(*world)
	}{
		"no fence": {world: func(w *world) { w.exec("ALTER TABLE events DROP CONSTRAINT fence") }},
		"no waiting for running inserts": {owner: func(o *Owner) {
			o.wait = func(context.Context, node, fence.Term) error { return nil }
		}},
		"the table read before the wait": {owner: func(o *Owner) {
			wait, load := o.wait, o.load
			var early *presence.Partition
			o.wait = func(ctx context.Context, at node, term fence.Term) (err error) {
				if early, err = load(ctx, at); err != nil {
					return err
				}
				return wait(ctx, at, term)
			}
			o.load = func(context.Context, node) (*presence.Partition, error) { return early, nil }
		}},
		"holes taken for present": {owner: func(o *Owner) {
			load := o.load
			o.load = func(ctx context.Context, at node) (*presence.Partition, error) {
				there, err := load(ctx, at)
				for id := uint64(1); err == nil && id <= mostStreams; id++ {
					if highest := there.Stream(id).Highest(); highest > 0 {
						there.Stream(id).Add(1, highest)
					}
				}
				return there, err
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			first, _ := seed(t)
			wrong := ""
			for s, began := first, time.Now(); wrong == ""; s++ {
				require.Less(t, time.Since(began), time.Minute, "the walk did not notice")
				t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
					w := newWalk(t, s, func(o *Owner) {
						if control.owner != nil {
							control.owner(o)
						}
					})
					if control.world != nil {
						control.world(w.world)
					}
					wrong = w.run(5*steps, 4*time.Second)
				})
			}
			t.Log(wrong)
		})
	}
}
