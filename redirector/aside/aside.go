// Package aside keeps visitors from waiting for a disk.
package aside

import (
	"runtime"
	"sync"
)

// Do calls f, which waits for the disk, so that nobody else waits for it, and returns what it returns.
//
// A goroutine in a call of the kernel keeps its processor until the runtime's monitor takes it away, and a monitor that has found nothing to do for a while looks every
// 10 ms, and takes what it has seen twice. Where there is one processor (GOMAXPROCS is 1), visitors would wait that long whenever the journal is synced. So
// there is a second one meanwhile; two for good would cost every request their waking each other. Setting GOMAXPROCS ends Go's following of a container's limit,
// of which nothing is missed: for that Go does not go below two, so one is all that the machine, or the process's affinity, has.
func Do(f func() error) error {
	if lend() {
		defer giveBack()
	}
	return f()
}

// lent guards runtime.GOMAXPROCS, which is the process's as well.
var lent struct {
	sync.Mutex
	to int // calls that wait
}

func lend() bool {
	lent.Lock()
	defer lent.Unlock()
	if lent.to == 0 && runtime.GOMAXPROCS(0) > 1 {
		return false
	}
	if lent.to++; lent.to == 1 {
		runtime.GOMAXPROCS(2)
	}
	return true
}

func giveBack() {
	lent.Lock()
	defer lent.Unlock()
	if lent.to--; lent.to == 0 {
		runtime.GOMAXPROCS(1)
	}
}
