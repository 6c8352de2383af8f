//go:build !linux

package chaos

import "errors"

func mountSmall(string, int) error {
	return errors.New("mount a small file system: only Linux is supported")
}

func unmount(string) {}
