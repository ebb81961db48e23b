package mem

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestFloatsAreZerosOfAnyNumber(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 1 << 19, 1<<21 + 1} {
		for _, alloc := range []func(n int) []float32{Floats, Floats, Stream, Stream} { // the second may be memory of the first
			s := alloc(n)
			require.Len(t, s, n)
			require.Equal(t, n, cap(s))
			for i, v := range s {
				if v != 0 {
					t.Fatalf("element %d of %d is %v", i, n, v)
				}
				s[i] = 1
			}
		}
	}
}

// Four that are walked through side by side are in four quarters of a page.
func TestStreamsBeginAtDifferentPlacesOfAPage(t *testing.T) {
	quarters := map[uintptr]bool{}
	for range 4 {
		s := Stream(1 << 19)
		at := uintptr(unsafe.Pointer(&s[0])) % (4 * page)
		require.Zero(t, at%64, "a cache line")
		quarters[at/page] = true
	}
	require.Len(t, quarters, 4)
}
