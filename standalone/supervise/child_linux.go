package supervise

import "syscall"

func attributes(command Command) *syscall.SysProcAttr {
	signal := command.DeathSignal
	if signal == 0 {
		signal = syscall.SIGKILL
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: signal, Credential: command.Credential}
}
