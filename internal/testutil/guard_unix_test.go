//go:build linux || darwin

package testutil

import (
	"fmt"
	"runtime/debug"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestGuardedFaultsBehindItsEnd(t *testing.T) {
	at := func(x []float32, i int) *float32 {
		return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(x)), 4*i))
	}
	for _, n := range []int{1, 7, 1024, 1025, 16 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of this goroutine
			x := Guarded(t, n)
			require.Len(t, x, n)
			for i := range x {
				require.Zero(t, x[i])
				x[i] = 1
			}
			var sink float32
			require.Panics(t, func() { sink = *at(x, n) }, "a read behind the end")
			require.Panics(t, func() { *at(x, n) = 1 }, "a write behind the end")
			if n == 16<<10 { // whole pages, whatever their size
				require.Panics(t, func() { sink = *at(x, -1) }, "a read before the start")
			}
			_ = sink
		})
	}
	require.Empty(t, Guarded(t, 0))
}
