package load

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"time"
)

// arrival is one visitor who wants one thing at one time.
type arrival struct {
	n              int64
	at             time.Duration // since the beginning
	link           Link          // zero for a view
	view           bool
	head, prefetch bool
	agent          string
	referrer       string
	address        string
}

func (a *arrival) kind() string {
	if a.view {
		return "view"
	}
	return "click"
}

func (a *arrival) method() string {
	if a.head {
		return "HEAD"
	}
	return "GET"
}

// wanted is the status of the answer that the visitor came for.
func (a *arrival) wanted() int {
	if a.view {
		return 200
	}
	return 302
}

// marker names one attempt of one visitor; it needs no encoding in a URL. Empty where the load is not marked.
func (l *Load) marker(n int64, attempt int) string {
	if l.config.Run == "" {
		return ""
	}
	b := append([]byte(l.config.Run), '.')
	b = strconv.AppendInt(b, n, 36)
	if attempt > 0 {
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(attempt), 36)
	}
	return string(b)
}

//go:embed visitors/agents.tsv
var agents []byte

//go:embed visitors/referrers.tsv
var referrers []byte

// weighted draws values as often as they were seen.
type weighted struct {
	values []string
	upTo   []int // sums of the weights
}

func newWeighted(table []byte) weighted {
	var w weighted
	total := 0
	for line := range bytes.Lines(table) {
		count, value, _ := bytes.Cut(bytes.TrimRight(line, "\n"), []byte("\t"))
		n, err := strconv.Atoi(string(count))
		if err != nil {
			panic(fmt.Sprintf("BUG: embedded table of visitors: %q does not begin with a count", line))
		}
		total += n
		w.values, w.upTo = append(w.values, string(value)), append(w.upTo, total)
	}
	return w
}

func (w weighted) draw(r *rand.Rand) string {
	x := r.IntN(w.upTo[len(w.upTo)-1])
	low, high := 0, len(w.upTo)-1
	for low < high {
		if mid := (low + high) / 2; w.upTo[mid] > x {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return w.values[low]
}

// crowd draws one visitor after another. The same seed draws the same ones.
type crowd struct {
	config    Config
	random    *rand.Rand
	zipf      *rand.Zipf
	agents    weighted
	referrers weighted
	addresses []string
	n         int64
	at        time.Duration
}

// So many addresses visitors come from: enough that nobody looks as if he hammered.
const addresses = 1 << 14

func newCrowd(config Config) *crowd {
	c := &crowd{
		config: config, random: rand.New(rand.NewPCG(config.Seed, 0x5b111a)),
		agents: newWeighted(agents), referrers: newWeighted(referrers), addresses: make([]string, addresses),
	}
	if len(config.Links) > 0 {
		c.zipf = rand.NewZipf(c.random, config.Zipf, 1, uint64(len(config.Links)-1))
	}
	for i := range c.addresses {
		// 198.18.0.0/15 is set aside for measurements (RFC 2544): nobody's address.
		c.addresses[i] = netip.AddrFrom4([4]byte{198, 18 + byte(i>>16&1), byte(i >> 8), byte(i)}).String()
	}
	return c
}

// next returns the next visitor, or nil when the time is over.
func (c *crowd) next() *arrival {
	gap := 1 / c.config.Rate
	if !c.config.Even {
		gap *= c.random.ExpFloat64()
	}
	if c.n > 0 || !c.config.Even {
		c.at += time.Duration(gap * float64(time.Second))
	}
	if c.at >= c.config.Duration {
		return nil
	}
	a := &arrival{
		n: c.n, at: c.at, agent: c.agents.draw(c.random), referrer: c.referrers.draw(c.random), address: c.addresses[c.random.IntN(addresses)],
	}
	c.n++
	if c.random.Float64() < c.config.Views {
		a.view = true
		return a
	}
	a.link = c.config.Links[c.zipf.Uint64()]
	x := c.random.Float64()
	a.head = x < c.config.Heads
	a.prefetch = !a.head && x < c.config.Heads+c.config.Prefetches
	return a
}

// arrive hands each visitor over when its time has come and returns the longest that one was late.
func (l *Load) arrive(ctx context.Context, began time.Time, arrivals chan<- *arrival) time.Duration {
	// Go's timers are precise to a millisecond; a thread that sleeps in the kernel is to some fifty microseconds.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	late := time.Duration(0)
	c := newCrowd(l.config)
	for ctx.Err() == nil {
		a := c.next()
		if a == nil {
			break
		}
		for early := a.at - time.Since(began); early > 0 && ctx.Err() == nil; early = a.at - time.Since(began) {
			sleep(min(early, 100*time.Millisecond))
		}
		late = max(late, time.Since(began)-a.at)
		arrivals <- a
	}
	return late
}
