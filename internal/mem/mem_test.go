package mem

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFloatsAreZerosOfAnyNumber(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 1 << 19, 1<<21 + 1} {
		for range 2 { // the second may be memory of the first
			s := Floats(n)
			require.Len(t, s, n)
			for i, v := range s {
				if v != 0 {
					t.Fatalf("element %d of %d is %v", i, n, v)
				}
				s[i] = 1
			}
		}
	}
}
