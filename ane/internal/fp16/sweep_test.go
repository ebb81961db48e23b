//go:build !race

package fp16

import (
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Rounding right on both sides of every middle, and never going down, is
// rounding right everywhere.
func TestFromNeverGoesDown(t *testing.T) {
	if testing.Short() {
		t.Skip("2³¹ conversions")
	}
	const parts, infinity = 8, 0x7f800000
	var wg sync.WaitGroup
	bad := make([]uint32, parts)
	for p := range uint32(parts) {
		wg.Go(func() {
			lo, hi := infinity/parts*p, infinity/parts*(p+1)
			last := From(math.Float32frombits(lo))
			for b := lo; b <= hi; b++ {
				h := From(math.Float32frombits(b))
				if h < last {
					bad[p] = b
					return
				}
				last = h
			}
		})
	}
	wg.Wait()
	require.Equal(t, make([]uint32, parts), bad)
}
