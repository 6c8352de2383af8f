package load

import (
	"syscall"
	"time"
)

// sleep lets the kernel wake this thread. A signal may end it early.
func sleep(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil)
}
