package directory

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// row is a link of the tests that need no PostgreSQL; all are on one shelf if the directory has but one.
func row(code, url string) linkRow {
	return linkRow{id: 1, profile: 1, code: code, url: url, mode: "off"}
}

func link(code string) key { return key{kindLink, "", code} }

// lettingGo takes a link from its shelf, as a full shelf does.
func (d *Directory) lettingGo(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hash := d.hashOf(k)
	if _, i := d.shelfLocked(k, hash); i >= 0 {
		d.shelves.replace(hash, i, nil)
	}
}

func announce(d *Directory, code string) {
	d.hear(fmt.Sprintf(`{"links": [{"host": "", "code": %q}]}`, code))
}

func TestAChangeIsNotLostWhileItIsLoadedAgain(t *testing.T) {
	d := alone(t, Options{})
	d.know(row("a", "https://example.com/1"))
	announce(d, "a")
	work, heard := d.takeStale()
	require.Equal(t, []key{link("a")}, work.keys)
	d.giveBack(work, heard) // PostgreSQL did not answer
	again, _ := d.takeStale()
	require.Equal(t, work, again)
	require.Empty(t, d.changed)
	announce(d, "a") // after the question was answered, before the answer is known
	d.replace(work.keys, map[key]*value{link("a"): {link: d.newRecord(row("a", "https://example.com/2"))}})
	require.Equal(t, "https://example.com/2", leads(d, "", "a"))
	work, _ = d.takeStale()
	require.Equal(t, []key{link("a")}, work.keys, "and asked for again")
	d.replace(work.keys, nil)
	require.Equal(t, ErrUnknown.Error(), leads(d, "", "a"), "deleted, and remembered to be")

	// Deleted and made again meanwhile: nobody says that there is none.
	d = alone(t, Options{LoadTimeout: 50 * time.Millisecond})
	d.know(row("a", "https://example.com/1"))
	announce(d, "a")
	work, _ = d.takeStale()
	announce(d, "a")
	d.replace(work.keys, nil)
	require.Equal(t, ErrAway.Error(), leads(d, "", "a"))

	// Also when everything is doubtful in the meantime.
	d = alone(t, Options{LoadTimeout: 50 * time.Millisecond})
	d.know(row("a", "https://example.com/1"))
	announce(d, "a")
	work, _ = d.takeStale()
	d.resync()
	d.replace(work.keys, map[key]*value{link("a"): {link: d.newRecord(row("a", "https://example.com/2"))}})
	work, _ = d.takeStale()
	require.Equal(t, []key{link("a")}, work.keys)
	d.resync()
	d.replace(work.keys, nil)
	require.Equal(t, ErrAway.Error(), leads(d, "", "a"))
}

func TestAVisitorsLoadThatAChangeOvertakesIsAskedForAgain(t *testing.T) {
	for what, change := range map[string]func(*Directory){
		"announced":  func(d *Directory) { announce(d, "a") },
		"everything": func(d *Directory) { d.resync() },
	} {
		d := alone(t, Options{})
		k := link("a")
		c := &call{key: k, hash: d.hashOf(k), done: make(chan struct{})}
		d.calls[k] = c
		change(d)
		d.settle([]*call{c}, map[key]*value{k: {link: d.newRecord(row("a", "https://example.com/1"))}}, nil)
		require.Equal(t, "https://example.com/1", leads(d, "", "a"), what)
		work, _ := d.takeStale()
		require.Equal(t, []key{k}, work.keys, what)
	}
}

func TestAnOlderAnswerDoesNotReplaceANewerOne(t *testing.T) {
	d := alone(t, Options{LoadTimeout: 50 * time.Millisecond})
	for _, newer := range []string{"https://example.com/3", "https://example.com/" + strings.Repeat("3", maxRecord)} {
		d.know(row("a", "https://example.com/1"))
		announce(d, "a")
		work, _ := d.takeStale()
		older := map[key]*value{link("a"): {link: d.newRecord(row("a", "https://example.com/2"))}}
		d.lettingGo(link("a"))
		d.replace(work.keys, older)
		require.Equal(t, ErrAway.Error(), leads(d, "", "a"), "let go of, and not known by an old question's answer")

		d.know(row("a", "https://example.com/1"))
		announce(d, "a")
		work, _ = d.takeStale()
		d.lettingGo(link("a"))
		d.know(row("a", newer)) // a visitor's load, which began after the question and saw a later change
		d.replace(work.keys, older)
		require.Equal(t, newer, leads(d, "", "a"))
		require.Empty(t, d.asking)
		d.lettingGo(link("a"))
	}
}

// TestDoubtGoesWithALink makes everything doubtful, and has neighbours come, change and go on the same shelves while it is loaded again.
func TestDoubtGoesWithALink(t *testing.T) {
	d := alone(t, Options{})
	d.shelves = newShelves(40 * (shelfBytes + shelfItself))
	const links = 1200
	for n := range links {
		d.know(row(fmt.Sprintf("c%d", n), "https://example.com/1"))
	}
	d.shelves.each(func(s *shelf) { s.recent.Store(0) })
	used := map[key]bool{}
	for n := range 600 {
		require.Equal(t, "https://example.com/1", leads(d, "", fmt.Sprintf("c%d", n)))
		used[link(fmt.Sprintf("c%d", n))] = true
	}
	d.resync()
	asked := map[key]int{}
	for round := 0; ; round++ {
		work, heard := d.takeStale()
		if len(work.keys) == 0 {
			break
		}
		if round == 1 { // PostgreSQL was away
			d.giveBack(work, heard)
			require.Empty(t, d.asking)
			continue
		}
		for _, k := range work.keys {
			require.True(t, used[k] || len(asked) >= len(used), "round %d: %s before all that were used", round, k.name)
			asked[k]++
		}
		for n := range 100 { // at home on any shelf
			d.know(row(fmt.Sprintf("new%d-%d", round, n), "https://example.com/1"))
			d.lettingGo(link(fmt.Sprintf("new%d-%d", round-1, n)))
		}
		answers := map[key]*value{}
		for _, k := range work.keys {
			answers[k] = &value{link: d.newRecord(row(k.name, "https://example.com/2/longer"))}
		}
		d.replace(work.keys, answers)
	}
	require.False(t, d.settled(true))
	require.Zero(t, d.staleLocked())
	for n := range links {
		k := link(fmt.Sprintf("c%d", n))
		require.Equal(t, 1, asked[k], k.name)
		require.Equal(t, "https://example.com/2/longer", leads(d, "", k.name))
	}
}

func TestALinkThatOutgrowsItsShelf(t *testing.T) {
	d := alone(t, Options{})
	d.know(row("a", "https://example.com/1"))
	d.know(row("b", "https://example.com/b"))
	for _, url := range []string{"https://example.com/" + strings.Repeat("2", maxRecord), "https://example.com/3", "https://example.com/" + strings.Repeat("4", 2*maxRecord)} {
		announce(d, "a")
		work, _ := d.takeStale()
		require.Equal(t, []key{link("a")}, work.keys)
		d.replace(work.keys, map[key]*value{link("a"): {link: d.newRecord(row("a", url))}})
		require.Equal(t, url, leads(d, "", "a"))
		require.Equal(t, "https://example.com/b", leads(d, "", "b"))
	}
	require.EqualValues(t, 1, d.shelves.links.Load())
}

// failing is a file on a full disk.
type failing struct{}

func (failing) Write([]byte) (int, error)      { return 0, errors.New("no space left") }
func (failing) Seek(int64, int) (int64, error) { return 0, nil }

func TestASnapshotThatCannotBeWrittenSaysSo(t *testing.T) {
	d := alone(t, Options{})
	for n := range 5000 {
		d.know(row(fmt.Sprintf("c%d", n), "https://example.com/1"))
	}
	_, _, err := d.write(failing{})
	require.Error(t, err)
}
