package peak

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/internal/isa"
)

func TestKernelsAreTheirGoLoops(t *testing.T) {
	for _, set := range isa.Available {
		t.Run(set.String(), func(t *testing.T) {
			k := kernels[set]
			require.NotNil(t, k)
			for _, n := range []int{0, 1, 2, 1000} {
				acc, want := new([most]float32), new([most]float32)
				for i := range acc {
					acc[i], want[i] = float32(i), float32(i)
					if i < k.lanes {
						want[i] += float32(n)
					}
				}
				k.fma(acc, 1, 1, n)
				require.Equal(t, want, acc, "%d times", n)
			}
			for _, blocks := range []int{0, 1, 2, 3, 17} {
				n := blocks * blockFloats
				all := make([]float32, 4*n+1)
				for i := range all {
					all[i] = float32(i % 251)
				}
				a, sum := all[1:], float32(0) // unaligned; integers, so any order sums alike
				for _, v := range a[:n] {
					sum += v
				}
				require.Equal(t, sum, k.read(a[:n:n]), "%d blocks", blocks)

				want := slices.Clone(a)
				for i := range n {
					x := want[n+i]
					want[i], want[2*n+i], want[3*n+i] = want[i]+x, want[2*n+i]+x, want[3*n+i]+x
				}
				k.update(a[:n], a[n:2*n], a[2*n:3*n], a[3*n:])
				require.Equal(t, want, a, "%d blocks", blocks)
			}
		})
	}
}

// The figures have to be of the order that any machine has, and a second
// thread may not take from them: it adds what the machine can spare.
func TestPeaksAreFigures(t *testing.T) {
	procs := runtime.GOMAXPROCS(0)
	s := NewStreams(1 << 20)
	require.Equal(t, 1<<20, s.Bytes())
	for _, threads := range []int{1, 2} {
		if isa.Best == isa.Generic {
			require.Zero(t, Kernel(threads))
		} else {
			require.InDelta(t, 5, Kernel(threads)/FMA(threads), 4.9) // it is above 1 where both are emulated
		}
		require.Greater(t, FMA(threads), 1e7)
		require.Less(t, FMA(threads), 1e13)
		for _, rate := range []float64{s.Read(threads), s.Update(threads)} {
			require.Greater(t, rate, 1e7)
			require.Less(t, rate, 1e13)
		}
	}
	require.Equal(t, procs, runtime.GOMAXPROCS(0))
}

func TestPartsCoverTheWhole(t *testing.T) {
	a := make([]float32, 7*blockFloats)
	for n := 1; n <= 9; n++ {
		at := 0
		for i := range n {
			p := part(a, i, n)
			if len(p) > 0 {
				require.Same(t, &a[at], &p[0])
			}
			at += len(p)
		}
		require.Equal(t, len(a), at, "%d parts", n)
	}
}
