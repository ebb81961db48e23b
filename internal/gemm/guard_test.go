//go:build unix

package gemm

import (
	"os"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// guarded copies s to memory that ends where the next page faults.
func guarded(t *testing.T, s []float32) []float32 {
	t.Helper()
	page := os.Getpagesize()
	size := ceil(4*len(s), page) * page
	all, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Munmap(all)) })
	require.NoError(t, syscall.Mprotect(all[size:], syscall.PROT_NONE))
	if len(s) == 0 {
		return nil
	}
	g := unsafe.Slice((*float32)(unsafe.Pointer(&all[size-4*len(s)])), len(s))
	copy(g, s)
	return g
}
