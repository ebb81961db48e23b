package ops

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func ropeFreqs(HD int) []float64 {
	f := make([]float64, HD/2)
	for i := range f {
		f[i] = math.Pow(10000, -2*float64(i)/float64(HD))
	}
	return f
}

// rope64 rotates with cosines and sines of its own.
func rope64(x []float64, n, T, NH, HD, stride int) []float64 {
	y := append([]float64(nil), x...)
	f := ropeFreqs(HD)
	for i := range n {
		for h := range NH {
			for p := range HD / 2 {
				at := i*stride + h*HD + 2*p
				sin, cos := math.Sincos(float64(i%T) * f[p])
				y[at] = x[at]*cos - x[at+1]*sin
				y[at+1] = x[at]*sin + x[at+1]*cos
			}
		}
	}
	return y
}

func TestRopeAndItsBackwardMatchFloat64(t *testing.T) {
	r := newRand(1)
	for _, c := range []struct{ B, T, NH, HD, extra int }{
		{0, 3, 1, 2, 0}, {1, 1, 1, 2, 0}, {1, 2, 1, 2, 3}, {2, 3, 3, 4, 0}, {3, 5, 2, 6, 5}, {2, 65, 2, 10, 7},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			n, N := c.B*c.T, c.NH*c.HD
			stride := N + c.extra
			size := max(0, (n-1)*stride+N)
			cos, sin := output(t, c.T*c.HD/2), output(t, c.T*c.HD/2)
			RopeTable(cos, sin, ropeFreqs(c.HD), c.T)

			x0, dy0 := random(r, size, 1), random(r, size, 1)
			x, dx := sum(t, x0), sum(t, dy0)
			Rope(x, cos, sin, n, c.T, c.NH, c.HD, stride)
			RopeBackward(dx, cos, sin, n, c.T, c.NH, c.HD, stride)
			x64, dy64 := widen(x0), widen(dy0)
			requireClose(t, rope64(x64, n, c.T, c.NH, c.HD, stride), x, 2e-7, "y")
			if size < 500 {
				want := gradient(x64, func() float64 { return dot(rope64(x64, n, c.T, c.NH, c.HD, stride), dy64) })
				requireClose(t, want, dx, 2e-7, "dx")
			}
			for i := range x {
				if i%stride >= N {
					require.Equal(t, x0[i], x[i], "between the rows")
					require.Equal(t, dy0[i], dx[i], "between the rows")
				}
			}
			RopeBackward(x, cos, sin, n, c.T, c.NH, c.HD, stride)
			requireClose(t, x64, x, 3e-7, "rotated back")
		})
	}
}

func TestRopeTableIsExactAtLargePositions(t *testing.T) {
	const T = 200_000
	cos, sin := make([]float32, T), make([]float32, T)
	RopeTable(cos, sin, []float64{0.7}, T)
	for t0 := 0; t0 < T; t0 += 997 {
		s, c := math.Sincos(float64(t0) * 0.7)
		require.Equal(t, float32(c), cos[t0])
		require.Equal(t, float32(s), sin[t0])
	}
}

func TestRopeNaNStaysInItsPair(t *testing.T) {
	const n, NH, HD = 4, 3, 8
	cos, sin := make([]float32, n*HD/2), make([]float32, n*HD/2)
	RopeTable(cos, sin, ropeFreqs(HD), n)
	for _, f := range []func(x, cos, sin []float32, n, T, NH, HD, stride int){Rope, RopeBackward} {
		clean := random(newRand(3), n*NH*HD, 1)
		x := append([]float32(nil), clean...)
		x[37] = nan
		f(clean, cos, sin, n, n, NH, HD, NH*HD)
		f(x, cos, sin, n, n, NH, HD, NH*HD)
		for i := range x {
			if i/2 == 37/2 {
				require.True(t, x[i] != x[i])
			} else {
				require.Equal(t, math.Float32bits(clean[i]), math.Float32bits(x[i]))
			}
		}
	}
}

func TestAnOddHeadDimPanics(t *testing.T) {
	s, q := make([]float32, 999), make([]float32, 999)
	panicsWith(t, "chainrule: ops.Rope: HD is odd", func() { Rope(s, q, q, 1, 1, 1, 3, 3) }, "")
	panicsWith(t, "chainrule: ops.Rope: HD is odd", func() { RopeBackward(s, q, q, 1, 1, 1, 3, 3) }, "")
	panicsWith(t, "chainrule: ops.Attention: HD is odd", func() { Attention(s, s, q, 1, 1, 1, 1, 3) }, "")
	panicsWith(t, "chainrule: ops.AttentionCached: HD is odd", func() { AttentionCached(s, q, q, q, 1, 0, 1, 1, 3, 3) }, "")
	panicsWith(t, "chainrule: ops.AttentionBackward: HD is odd", func() { AttentionBackward(s, q, q, q, 1, 1, 1, 1, 3) }, "")
}
