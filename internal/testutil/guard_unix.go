//go:build linux || darwin

package testutil

import (
	"syscall"
	"testing"
	"unsafe"
)

// Guarded returns n zeros whose last one ends at a page that faults when it is
// read or written; another such page lies before the first one, directly if n
// fills whole pages. The memory lives as long as the test: to test many
// lengths take one slice and its tails, x[len(x)-n:].
func Guarded(t testing.TB, n int) []float32 {
	t.Helper()
	const size = unsafe.Sizeof(float32(0))
	page := syscall.Getpagesize()
	bytes := n * int(size)
	inner := max((bytes+page-1)/page, 1) * page
	memory, err := syscall.Mmap(-1, 0, inner+2*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mmap of %d bytes: %v", inner+2*page, err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(memory); err != nil {
			t.Errorf("munmap: %v", err)
		}
	})
	if err := syscall.Mprotect(memory[page:page+inner], syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatalf("mprotect of %d bytes: %v", inner, err)
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&memory[page+inner-bytes])), n)
}
