package chaos

import (
	"fmt"
	"os"
	"syscall"
)

// mountSmall puts a file system of that size, in memory, on dir. Only root may.
func mountSmall(dir string, megabytes int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount a small file system: %w", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", megabytes)); err != nil {
		return fmt.Errorf("mount a small file system on %s: %w", dir, err)
	}
	return nil
}

func unmount(dir string) { _ = syscall.Unmount(dir, syscall.MNT_DETACH) } // it goes with its last user
