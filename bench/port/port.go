// Package port finds ports of the loopback for programs that must be told theirs before they start.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The kernel gives ports from 32768 upwards to connections and to whoever asks for any; below, a port that is free stays free
// unless somebody names it.
const (
	lowest  = 20_000
	highest = 32_000
)

// Finder gives each port once. The zero value is ready; it is safe for concurrent use.
type Finder struct {
	mu    sync.Mutex
	given map[int]bool // guarded by mu
}

// Find returns n ports that nobody listens on.
func (f *Finder) Find(n int) ([]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given == nil {
		f.given = map[int]bool{}
	}
	var found []int
	for range 1000 {
		if len(found) == n {
			return found, nil
		}
		port := lowest + rand.IntN(highest-lowest)
		if f.given[port] {
			continue
		}
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		f.given[port] = true
		found = append(found, port)
	}
	return nil, errors.New("find a free port: none from 20000 to 32000")
}
