package process

import "syscall"

// attributes give the child a group of its own, so that Ctrl-C reaches only the experiment, and end it with the starter's thread.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
