package visit

import (
	"syscall"
	"unsafe"
)

// readNow reads what has come. A connection's descriptor does not block, so the scheduler need not be told that this may take long.
func readNow(fd int, p []byte) (int, error) {
	n, _, no := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if no != 0 {
		return 0, no
	}
	return int(n), nil
}

// writeNow writes what there is room for.
func writeNow(fd int, p []byte) (int, error) {
	n, _, no := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if no != 0 {
		return 0, no
	}
	return int(n), nil
}
