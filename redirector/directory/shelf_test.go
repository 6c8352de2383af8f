package directory

import (
	"container/list"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/stretchr/testify/require"
)

// mixed is a hash of n, always the same.
func mixed(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// TestShelvesAgreeWithAMap adds, replaces, takes away and asks for links of all sizes, on shelves that hold a part of them, and holds every shelf against a map of what
// was last said of each link. Links may be missing where others came, and nowhere else; what is there is never an older one.
func TestShelvesAgreeWithAMap(t *testing.T) {
	d := alone(t, Options{})
	s := newShelves(3 * (shelfBytes + shelfItself))
	random := rand.New(rand.NewPCG(1, 2))
	type known struct {
		record record
		doubt  bool
		place  uint64
	}
	truth := map[string]known{}
	where := func(hash uint64) uint64 { place, _ := bits.Mul64(hash, uint64(len(s.table))); return place }
	evictions := 0
	for step := range 8_000 {
		n := uint64(random.IntN(400))
		code, hash := fmt.Sprintf("code-%d", n), mixed(n)
		on := s.place(hash).Load()
		i := on.find(hash, "", []byte(code))
		was, expected := truth[code]
		if i < 0 {
			require.False(t, expected, "step %d: %s", step, code)
		} else {
			require.Equal(t, was.record, on.at(i), "step %d: %s", step, code)
			require.Equal(t, was.doubt, on.doubt>>i&1 != 0)
		}
		r := d.newRecord(linkRow{id: uint64(step), profile: n, code: code, url: "https://example.com/" + strings.Repeat("x", random.IntN(4)*random.IntN(250)), mode: "off"})
		evicted := 0
		switch action := random.IntN(10); {
		case action < 3 && i < 0:
			var added bool
			spare := random.IntN(4) > 0
			added, evicted = s.add(hash, r, true, spare)
			require.True(t, added || !spare)
			if added {
				truth[code] = known{r, false, where(hash)}
			}
		case action < 5 && i >= 0:
			evicted = s.replace(hash, i, r)
			truth[code] = known{r, was.doubt, where(hash)}
		case action == 5 && i >= 0:
			require.Zero(t, s.replace(hash, i, nil))
			delete(truth, code)
		case action == 6:
			s.each(func(s *shelf) { s.doubt = s.all() })
			for code, k := range truth {
				k.doubt = true
				truth[code] = k
			}
		default:
			found, ok := s.find(hash, "", []byte(code))
			require.Equal(t, i >= 0, ok)
			require.Equal(t, was.record, found)
		}
		// What was evicted is gone from the same shelf, and as many as it says.
		for other, k := range truth {
			if k.place == where(hash) && s.place(hash).Load().find(mixed(k.record.profile()), "", []byte(other)) < 0 {
				require.NotEqual(t, code, other, "what was just put there")
				delete(truth, other)
				evicted--
				evictions++
			}
		}
		require.Zero(t, evicted, "step %d", step)
		size, links := 0, 0
		s.each(func(s *shelf) {
			require.LessOrEqual(t, len(s.content), shelfBytes)
			require.LessOrEqual(t, s.count, shelfLinks)
			require.Equal(t, cap(s.content), len(s.content))
			size += len(s.content) + shelfItself
			links += s.count
		})
		require.EqualValues(t, size, s.bytes.Load())
		require.EqualValues(t, links, s.links.Load())
		require.Equal(t, len(truth), links, "step %d", step)
	}
	require.Greater(t, evictions, 300)
}

// profile is what linkRow.profile was.
func (r record) profile() uint64 {
	var l Link
	r.lay(&l, newZones())
	return l.ProfileID
}

func TestARecordSaysWhatTheRowSaid(t *testing.T) {
	d := alone(t, Options{})
	for _, row := range []linkRow{
		{id: 1, profile: 2, code: "a", url: "https://example.com/", mode: "off"},
		{id: 1 << 60, profile: 1 << 33, host: "go.example", code: strings.Repeat("c", maxName), url: "https://example.com/?a=1&b=2#f", mode: "append", zone: "Asia/Tokyo"},
		{id: 300, profile: 300, code: "a", url: "https://example.com/ü ?x", mode: "override", utm: [5]string{"s", "", "c", "t", "ü"}, zone: "Europe/Berlin"},
		{id: 3, profile: 4, code: "a", url: "https://example.com/", mode: "off", utm: [5]string{"s"}},
		{id: 3, profile: 4, code: "a", url: "javascript:alert(1)", mode: "off"},
		{id: 3, profile: 4, code: "a", url: "https://example.com/", mode: "merge"},
		{id: 3, profile: 4, code: "a", mode: "off"},
	} {
		r := d.newRecord(row)
		got := fieldReader{rest: r.appendSnapshot(nil, d.zones)}
		require.EqualValues(t, kindLink, got.byte())
		again := got.link()
		require.False(t, got.broken)
		require.Empty(t, got.rest)
		if row.mode == "merge" {
			row.mode = "" // not known, and so it stays
		}
		require.Equal(t, row, again)
		var link Link
		ok := r.lay(&link, d.zones)
		require.Equal(t, strings.HasPrefix(row.url, "https:") && row.mode != "", ok)
		require.Equal(t, row.id, link.ID)
		require.Equal(t, row.profile, link.ProfileID)
		require.Equal(t, key{kindLink, row.host, row.code}, r.key())
		require.Equal(t, d.zones.at(d.zones.number(row.zone, d.log)).location, link.Zone)
	}
	require.Nil(t, d.newRecord(linkRow{code: strings.Repeat("c", maxName+1)}))
}

func TestAKnownLinkAllocatesNothing(t *testing.T) {
	d := alone(t, Options{})
	d.know(linkRow{id: 1, profile: 2, code: "small", url: "https://example.com/?a=1", mode: "append", zone: "Asia/Tokyo"})
	d.know(linkRow{id: 1, profile: 2, host: "go.example", code: "own", url: "https://example.com/", mode: "off"})
	d.know(linkRow{id: 1, profile: 2, code: "large", url: "https://example.com/" + strings.Repeat("x", maxRecord), mode: "off"})
	buffer, query := make([]byte, 0, 4*maxRecord), []byte("a=2&b=3&c")
	for _, known := range []struct{ where, host, code string }{{"on a shelf", "", "small"}, {"on a shelf", "go.example", "own"}, {"held", "", "large"}, {"in the cache", "", "large"}} {
		if known.where == "in the cache" {
			d.cache.Wait()
			d.held = held{}
		}
		code := []byte(known.code)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			l, err := d.Link(known.host, code)
			if err != nil || len(l.Target.Append(buffer, query)) == 0 {
				t.Error(err)
			}
		}), "%s: %s", known.where, known.code)
	}
}

// TestVisitorsReadWhatOthersWrite has links asked for while their shelf changes all the time, for the race detector and for whole answers.
func TestVisitorsReadWhatOthersWrite(t *testing.T) {
	d := alone(t, Options{})
	d.shelves = newShelves(shelfBytes)
	row := func(n, version int) linkRow {
		return linkRow{id: uint64(n), profile: uint64(version + 1), code: fmt.Sprintf("c%d", n), url: fmt.Sprintf("https://example.com/%d/%d", n, version), mode: "off"}
	}
	for n := range 20 {
		d.know(row(n, 0))
	}
	var visitors sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		visitors.Go(func() {
			for n := 0; ; n = (n + 1) % 20 {
				select {
				case <-done:
					return
				default:
				}
				l, err := d.Link("", fmt.Appendf(nil, "c%d", n))
				if err != nil || string(l.Target.Plain()) != row(n, int(l.ProfileID)-1).url {
					t.Errorf("c%d: %s of %d, %v", n, l.Target.Plain(), l.ProfileID, err)
					return
				}
			}
		})
	}
	for version := range 2000 {
		r := row(version%20, version/20)
		k := key{kindLink, "", r.code}
		d.mu.Lock()
		d.replaceLocked(k, &value{link: d.newRecord(r)}, false)
		d.mu.Unlock()
	}
	close(done)
	visitors.Wait()
}

// TestHitRatio holds shelves that have room for a part of the links against one list of all links by their last use (LRU) of the same size, and against a cache that
// knows beforehand what will be asked for most. Visitors ask by Zipf's law; a crawler comes by and asks for every link once.
func TestHitRatio(t *testing.T) {
	if testing.Short() {
		return
	}
	const links, asked = 30_000, 200_000
	for _, part := range []float64{.02, .1, .3} {
		ours, lru, best := hitRatios(t, links, asked, part, false)
		t.Logf("room for %2.0f %%: shelves %.1f %%, LRU %.1f %%, best %.1f %%", 100*part, 100*ours, 100*lru, 100*best)
		require.Greater(t, ours, lru, "room for %v", part)
		require.Greater(t, ours, .85*best, "room for %v", part)
	}
	ours, lru, _ := hitRatios(t, links, asked, .1, true)
	t.Logf("and a crawler: shelves %.1f %%, LRU %.1f %%", 100*ours, 100*lru)
	require.Greater(t, ours, lru)
}

func hitRatios(t testing.TB, links, asked int, part float64, crawled bool) (ours, lru, best float64) {
	d := alone(t, Options{})
	records, codes := make([]record, links), make([][]byte, links)
	all := 0
	for n := range records {
		codes[n] = fmt.Appendf(nil, "code-%d", n)
		records[n] = d.newRecord(linkRow{id: uint64(n), profile: 1, code: string(codes[n]), url: fmt.Sprintf("https://example.com/some/page-of-a-shop/%d", n), mode: "off"})
		all += 3 + len(records[n])
	}
	s := newShelves(int64(part*float64(all)) * (shelfBytes + shelfItself) / shelfBytes)
	places := int(part * float64(links))
	byUse, in := list.New(), map[int]*list.Element{}
	random := rand.New(rand.NewPCG(7, 7))
	zipf := rand.NewZipf(random, 1.01, 1, uint64(links-1))
	counted, crawler := 0, 0
	ask := func(n int, count bool) {
		if _, ok := s.find(mixed(uint64(n)), "", codes[n]); !ok {
			s.add(mixed(uint64(n)), records[n], true, true)
		} else if count {
			ours++
		}
		if e := in[n]; e != nil {
			byUse.MoveToFront(e)
			if count {
				lru++
			}
		} else {
			in[n] = byUse.PushFront(n)
			if len(in) > places {
				delete(in, byUse.Remove(byUse.Back()).(int))
			}
		}
	}
	for i := range asked {
		n := int(zipf.Uint64())
		count := i > asked/3 // warm by then
		ask(n, count)
		if count {
			counted++
			if n < places {
				best++
			}
		}
		if crawled && i%4 == 0 {
			ask(crawler%links, false)
			crawler++
		}
	}
	return ours / float64(counted), lru / float64(counted), best / float64(counted)
}

// BenchmarkHitRatio is TestHitRatio's against Ristretto with one link an item, which takes some 300 bytes more for each: once with room for as many
// links, once with as many bytes.
func BenchmarkHitRatio(b *testing.B) {
	const links, asked, part, more = 100_000, 1_500_000, .1, 4
	for b.Loop() {
		ours, _, best := hitRatios(b, links, asked, part, false)
		b.ReportMetric(100*ours, "shelves-%")
		b.ReportMetric(100*best, "best-%")
		for name, places := range map[string]int64{"ristretto-as-many-links-%": links * part, "ristretto-as-many-bytes-%": links * part / more} {
			cache, err := ristretto.NewCache(&ristretto.Config[uint64, int]{NumCounters: 10 * places, MaxCost: places, BufferItems: 64, IgnoreInternalCost: true})
			require.NoError(b, err)
			zipf := rand.NewZipf(rand.New(rand.NewPCG(7, 7)), 1.01, 1, links-1)
			hits, counted := 0, 0
			for i := range asked {
				n := zipf.Uint64()
				_, ok := cache.Get(n)
				if !ok {
					cache.Set(n, 1, 1)
					if i%64 == 0 {
						runtime.Gosched()
					}
				}
				if i > asked/3 {
					counted++
					if ok {
						hits++
					}
				}
			}
			b.ReportMetric(100*float64(hits)/float64(counted), name)
			cache.Close()
		}
	}
}

// BenchmarkLink asks for a known link: always the same one, and one of a hundred thousand.
func BenchmarkLink(b *testing.B) {
	for _, links := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("of=%d", links), func(b *testing.B) {
			d := alone(b, Options{CacheBytes: 256 << 20})
			codes := make([][]byte, 1<<17)
			for n := range links {
				d.know(linkRow{id: uint64(n + 1), profile: 1, code: fmt.Sprintf("code%d", n), url: fmt.Sprintf("https://example.com/some/page-of-a-shop/%d", n), mode: "off", zone: "Asia/Kolkata"})
			}
			for n := range codes {
				codes[n] = fmt.Appendf(nil, "code%d", rand.IntN(links))
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if _, err := d.Link("", codes[n&(len(codes)-1)]); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}

// BenchmarkLearn makes a million links known, one after the other.
func BenchmarkLearn(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		d := alone(b, Options{})
		const links = 1_000_000
		records := make([]record, links)
		for n := range records {
			records[n] = d.newRecord(linkRow{id: uint64(n + 1), profile: 1, code: fmt.Sprintf("code%d", n), url: fmt.Sprintf("https://example.com/some/page-of-a-shop/%d", n), mode: "off"})
		}
		b.StartTimer()
		began := time.Now()
		for n, r := range records {
			d.shelves.add(mixed(uint64(n)), r, true, true)
		}
		b.ReportMetric(float64(time.Since(began).Nanoseconds())/links, "ns/link")
		b.ReportMetric(float64(d.shelves.bytes.Load())/float64(d.shelves.links.Load()), "B/link")
		b.ReportMetric(float64(d.shelves.links.Load()), "links")
	}
}
