package columns

import (
	"context"
	"sync"

	"spillway.dev/ingest/enrich"
)

// Pool lends blocks. Its size bounds the memory of a process whatever the number of its partitions: an owner holds a block only
// while it fills and inserts it. The block that came back last is lent first, its caches being warm.
type Pool struct {
	free chan struct{} // one for each block that may be lent

	mu     sync.Mutex
	blocks []*Block
	make   func() *Block
}

// NewPool returns a pool of so many blocks, each with a cache of user agents of the given bytes.
func NewPool(blocks int, rules *enrich.Rules, cacheBytes int) *Pool {
	p := &Pool{free: make(chan struct{}, blocks), make: func() *Block { return New(enrich.NewCache(rules, cacheBytes)) }}
	for range blocks {
		p.free <- struct{}{}
	}
	return p
}

// Get waits for a block. It must be returned by Put.
func (p *Pool) Get(ctx context.Context) (*Block, error) {
	select {
	case <-p.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.blocks); n > 0 {
		b := p.blocks[n-1]
		p.blocks = p.blocks[:n-1]
		return b, nil
	}
	return p.make(), nil
}

// Put gives a block back.
func (p *Pool) Put(b *Block) {
	p.mu.Lock()
	p.blocks = append(p.blocks, b)
	p.mu.Unlock()
	p.free <- struct{}{}
}
