package journal

import "unsafe"

// offsetIn returns where in b an address lies.
func offsetIn(b []byte, address uintptr) (int, bool) {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if address < base || address >= base+uintptr(len(b)) {
		return 0, false
	}
	return int(address - base), true
}
