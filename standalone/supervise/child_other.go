//go:build !linux

package supervise

import "syscall"

// attributes without a death signal, which only Linux has: the pipe on standard input is what ties the child.
func attributes(command Command) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: command.Credential}
}
