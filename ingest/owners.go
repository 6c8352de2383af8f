package ingest

import (
	"context"
	"sync"

	"spillway.dev/ingest/partition"
)

// owners are the owners of this process, one a partition, kept from one assignment to the next: an owner remembers what it has tried.
type owners struct {
	parts   partition.Parts
	options partition.Options

	mu sync.Mutex
	of map[int32]*partition.Owner
}

func (o *owners) own(ctx context.Context, p int32) error {
	o.mu.Lock()
	owner := o.of[p]
	if owner == nil {
		owner = partition.New(p, o.parts, o.options)
		o.of[p] = owner
	}
	o.mu.Unlock()
	return owner.Run(ctx)
}
