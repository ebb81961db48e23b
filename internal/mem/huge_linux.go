package mem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// huge asks for huge pages. It is advice: a system without them says no.
func huge(s []float32) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), 4*len(s))
	head := int(-uintptr(unsafe.Pointer(unsafe.SliceData(s))) % hugePage)
	if whole := (len(b) - head) / hugePage * hugePage; whole > 0 {
		unix.Madvise(b[head:head+whole], unix.MADV_HUGEPAGE)
	}
}
