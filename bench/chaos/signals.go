package chaos

import "syscall"

// Signals that make a process stand still, and go on.
const (
	stop    = syscall.SIGSTOP
	proceed = syscall.SIGCONT
)
