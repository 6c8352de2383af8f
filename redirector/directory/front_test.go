package directory

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAChangeReachesTheFront has the cache let go of a link that is in front of it, which nothing else knows then.
func TestAChangeReachesTheFront(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{LoadTimeout: 5 * time.Second}, true)
	id := w.profile("aurora")
	w.exec(`INSERT INTO links (profile_id, code, title, url) VALUES ($1, 'c', 't', 'https://example.com/1')`, id)
	w.eventually("the link is there", func() bool { return leads(d, "", "c") == "https://example.com/1" })
	hash := d.hash(kindLink, "", []byte("c"))
	letGo := func() {
		w.eventually("it is in front", func() bool { leads(d, "", "c"); return d.front.place(hash).Load() != nil })
		d.mu.Lock()
		d.turnLocked()
		d.turnLocked()
		d.held = held{}
		d.mu.Unlock()
		d.cache.Wait()
		d.cache.Del(hash)
		d.cache.Wait()
		_, cached := d.cache.Get(hash)
		require.False(t, cached)
		require.NotNil(t, d.front.get(hash, "", []byte("c")))
	}
	letGo()
	w.exec(`UPDATE links SET url = 'https://example.com/2' WHERE code = 'c'`)
	w.eventually("the change is served", func() bool { return leads(d, "", "c") == "https://example.com/2" })
	letGo()
	w.exec(`UPDATE links SET deleted_at = now() WHERE code = 'c'`)
	w.eventually("it is gone", func() bool { return leads(d, "", "c") == ErrUnknown.Error() })
	w.exec(`UPDATE links SET deleted_at = NULL, url = 'https://example.com/3' WHERE code = 'c'`)
	w.eventually("it is back", func() bool { return leads(d, "", "c") == "https://example.com/3" })
}

// TestWhatIsDrivenOutOfTheFrontIsKnownStill: a link whose place another one takes, and that the cache has let go of meanwhile, is not loaded again.
func TestWhatIsDrivenOutOfTheFrontIsKnownStill(t *testing.T) {
	w := newWorld(t)
	d := w.directory(Options{LoadTimeout: 5 * time.Second, places: 1}, true)
	id := w.profile("aurora")
	for i := range 2 {
		w.exec(`INSERT INTO links (profile_id, code, title, url) VALUES ($1, $2, 't', 'https://example.com/' || $2)`, id, fmt.Sprintf("c%d", i))
	}
	first, second := d.hash(kindLink, "", []byte("c0")), d.hash(kindLink, "", []byte("c1"))
	w.eventually("the first is in front", func() bool { leads(d, "", "c0"); return d.front.get(first, "", []byte("c0")) != nil })
	d.mu.Lock()
	d.held = held{}
	d.mu.Unlock()
	d.cache.Wait()
	d.cache.Del(first)
	w.eventually("the second has taken its place", func() bool { leads(d, "", "c1"); return d.front.get(second, "", []byte("c1")) != nil })
	d.mu.Lock()
	defer d.mu.Unlock()
	require.NotNil(t, d.knownLocked(key{kindLink, "", "c0"}, first))
}
